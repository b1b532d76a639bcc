// The receipt of a cancel: asked, seen, stopped, by whom, and what had happened by then.

import { now } from "./api.js";
import { h } from "./dom.js";
import { count, duration, precise, time, words } from "./format.js";

const OUTCOMES = {
  finished: "Finished by itself; what it made is kept and not used",
  stopped: "Stopped; what had arrived is kept",
  lost: "Its process was gone",
  abandoned: "Had not stopped in time: it was given up",
};
const SOURCES = {
  api: "over the API",
  page: "on the page",
  cli: "with the command line",
  client: "with the client",
  admin: "by an operator",
  parent: "with the run that started it",
  portal: "in the Azure portal",
  reconcile: "by the service's own repair",
};

/** Who asked, in words. */
export const asker = (cancel) =>
  cancel.requested_by?.name || (cancel.source === "portal" ? "the Azure portal" : "the service");

/** One sentence on a run that is being or was cancelled. */
export function cancelSentence(run) {
  const { cancel } = run;
  if (run.status === "cancelled") {
    return [
      "Cancelled by ",
      h("strong", {}, asker(cancel)),
      " at ",
      time(cancel.stopped_at ?? run.ended_at),
      cancel.reason ? [" — “", cancel.reason, "”"] : null,
      cancel.acknowledged === false
        ? h("p", {}, "It was ended by force: some work had not stopped. The receipt names it.")
        : null,
    ];
  }
  return [
    h("strong", {}, asker(cancel)),
    " asked at ",
    time(cancel.requested_at),
    cancel.reason ? [" — “", cancel.reason, "”"] : null,
  ];
}

/** What is still in flight, with how long it has been since the cancel; for a screen that ticks. */
export function inFlight(cancel) {
  const open = cancel.in_flight.filter((one) => one.outcome === null);
  if (!open.length) return h("p", { class: "muted" }, "Nothing is in flight any more.");
  return [
    h("p", {}, `${count(open.length, "operation")} still in flight:`),
    h(
      "ul",
      { class: "plain" },
      open
        .slice(0, 8)
        .map((one) =>
          h(
            "li",
            {},
            `${one.name} `,
            h(
              "span",
              { class: "muted" },
              `${words(one.kind).toLowerCase()}, at work for ${duration(now() - Date.parse(one.started_at))}`,
            ),
          ),
        ),
      open.length > 8 ? h("li", { class: "muted" }, `and ${open.length - 8} more`) : null,
    ),
  ];
}

/** The whole receipt. */
export function receiptView(run) {
  const { cancel } = run;
  if (!cancel) return h("p", { class: "muted" }, "No cancel was asked for, so there is no receipt.");
  const asked = Date.parse(cancel.requested_at);
  const after = (at) =>
    at ? [time(at), h("span", { class: "muted" }, ` after ${precise(Date.parse(at) - asked)}`)] : "not yet";
  const facts = [
    ["Requested", [time(cancel.requested_at), ` by ${asker(cancel)}, ${SOURCES[cancel.source] ?? cancel.source}`]],
    ["Reason", cancel.reason || h("span", { class: "muted" }, "none given")],
    ["Observed", after(cancel.observed_at)],
    ["Stopped", after(cancel.stopped_at)],
    ["Grace", duration(cancel.grace_seconds * 1000)],
    [
      "Acknowledged",
      cancel.acknowledged === null
        ? "not yet"
        : cancel.acknowledged
          ? "Yes: all that was in flight has ended"
          : "No: some work had not stopped",
    ],
    ["By force", cancel.forced ? "Yes" : "No"],
  ];
  return h(
    "div",
    { class: "receipt" },
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
    h("h2", {}, "In flight when it was asked for"),
    cancel.in_flight.length
      ? table(
          ["Operation", "Kind", "Ended", "Outcome"],
          cancel.in_flight.map((one) => [
            one.name,
            words(one.kind),
            one.ended_at ? after(one.ended_at) : "not yet",
            OUTCOMES[one.outcome] ?? "Still at work",
          ]),
        )
      : h("p", { class: "muted" }, "Nothing was."),
    h("h2", {}, "What others can see of this run"),
    cancel.side_effects.length
      ? table(
          ["What", "Kind", "When"],
          cancel.side_effects.map((one) => [
            `${one.what}${one.done ? "" : " (perhaps)"}`,
            words(one.kind),
            time(one.at),
          ]),
        )
      : h("p", { class: "muted" }, "Nothing was written, sent or changed."),
  );
}

/** A table of texts and elements. */
export function table(heads, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": heads[0] },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((head) => h("th", { scope: "col" }, head)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, cell)),
          ),
        ),
      ),
    ),
  );
}
