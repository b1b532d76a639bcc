// Statuses: one word, one shape and one quiet colour each. Cancelled is neutral: somebody wanted it.

import { h, icon, text } from "./dom.js";

const SHAPES = {
  queued:
    "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2m0 1.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9M7.25 5v3.3l2.2 1.6.9-1.2-1.6-1.15V5z",
  pending: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2m0 1.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9",
  running: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2m0 1.5a4.5 4.5 0 0 1 0 9z",
  cancelling: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2m0 1.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9M6 6h4v4H6z",
  cancelled: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M5.5 5.5h5v5h-5z",
  completed: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2m-.9 8.9L4.2 8l1.1-1.1 1.8 1.8 3.6-3.6 1.1 1.1z",
  failed:
    "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M5.7 4.6 8 6.9l2.3-2.3 1.1 1.1L9.1 8l2.3 2.3-1.1 1.1L8 9.1l-2.3 2.3-1.1-1.1L6.9 8 4.6 5.7z",
  skipped: "M4 4l5 4-5 4zm6 0h1.6v8H10z",
  idle: "M5 7.2h6v1.6H5z",
};
const WORDS = {
  queued: "Queued",
  pending: "Not started",
  running: "Running",
  cancelling: "Stopping…",
  cancelled: "Cancelled",
  completed: "Completed",
  failed: "Failed",
  skipped: "Skipped",
  idle: "Idle",
};

export const ENDED = new Set(["completed", "failed", "cancelled", "skipped"]);
export const ACTIVE = new Set(["queued", "running", "cancelling"]);

/** A status in words. */
export const statusWord = (status) => WORDS[status] || status;

/** A status's shape. */
export const statusIcon = (status) => icon(SHAPES[status] || SHAPES.pending, `icon status-${status}`);

/** A status as shape and word, in an element that `setBadge` can change. */
export function badge(status, word = statusWord(status)) {
  return h("span", { class: `badge badge-${status}`, "data-status": status }, statusIcon(status), h("span", {}, word));
}

/** Show another status in a badge; nothing is touched when it is the same. */
export function setBadge(el, status, word = statusWord(status)) {
  if (el.dataset.status !== status) {
    el.className = `badge badge-${status}`;
    el.dataset.status = status;
    el.firstChild.replaceWith(statusIcon(status));
  }
  text(el.lastChild, word);
}
