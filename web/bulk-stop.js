// Stopping many runs at once: an operator gives a reason, and the service answers a result for each.

import { post } from "./api.js";
import { h, text } from "./dom.js";
import { words } from "./format.js";
import { once } from "./parts.js";

/** Ask for the reason, then stop the runs of `selection` (as the service names them). Answers its answer, or null. */
export function askBulkStop(selection, what) {
  return new Promise((done) => {
    let answer = null;
    const reason = h("input", {
      id: "bulk-reason",
      type: "text",
      required: true,
      maxlength: 1000,
      autocomplete: "off",
    });
    const force = h("input", { id: "bulk-force", type: "checkbox" });
    const note = h("p", { class: "note", role: "alert" });
    const yes = h("button", { type: "submit", class: "primary" }, "Stop them");
    const refused = (problem) =>
      text(
        note,
        problem.status === 0 ? "The service can't be reached, so nothing is certain. Try again." : problem.message,
      );
    const send = (event) => {
      event.preventDefault();
      once(
        yes,
        async () => {
          answer = await post("/api/admin/runs/cancel", {
            ...selection,
            reason: reason.value.trim(),
            ...(force.checked && { force: true }),
          });
          dialog.close();
        },
        refused,
      );
    };
    const no = h("button", { type: "button", onclick: () => dialog.close() }, "Keep running");
    const form = h(
      "form",
      { method: "dialog", onsubmit: send },
      h("h2", { id: "bulk-title" }, `Stop ${what}?`),
      h("p", {}, "Their people see your name and the reason. It is kept on record."),
      h("label", { for: "bulk-reason" }, "Reason"),
      reason,
      h(
        "div",
        { class: "field check gap" },
        force,
        h("label", { for: "bulk-force" }, "Don't wait for work that won't stop"),
      ),
      note,
      h("div", { class: "row end" }, no, yes),
    );
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": "bulk-title",
        onclose: () => {
          dialog.remove();
          done(answer);
        },
      },
      form,
    );
    document.body.append(dialog);
    dialog.showModal();
    reason.focus();
  });
}

/** What came of it, in a sentence. */
export function bulkSentence({ results, job }) {
  const tally = {};
  for (const { result } of results) tally[result] = (tally[result] ?? 0) + 1;
  const said = Object.entries(tally)
    .map(([result, n]) => `${n} ${words(result).toLowerCase()}`)
    .join(", ");
  return `${said || "No run was active."}${job ? ` The rest goes on as job ${job.id}.` : ""}`;
}
