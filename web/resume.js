// Resume: a new run that takes over what had finished, and repeats what had not.

import { post } from "./api.js";
import { h } from "./dom.js";
import { count } from "./format.js";

const CHOICES = [
  ["both", "All that failed or was cancelled"],
  ["failed", "Only what failed"],
  ["cancelled", "Only what was cancelled"],
];

/** Ask what to repeat, then resume `run` at `path`. Answers the new run, or null. */
export function askResume(path, run) {
  return new Promise((done) => {
    let made = null;
    const note = h("p", { class: "note", role: "alert" });
    const { failed, cancelled } = run.counts;
    const choices = CHOICES.map(([id, name], i) =>
      h("label", {}, h("input", { type: "radio", name: "items", value: id, checked: i === 0 }), name),
    );
    const yes = h("button", { type: "submit", class: "primary" }, "Resume");
    const form = h(
      "form",
      { method: "dialog", onsubmit: send },
      h("h2", { id: "resume-title" }, "Resume this run?"),
      h(
        "p",
        {},
        `A new run begins. What has finished is taken over and not done again; ${count(failed, "part")} failed and ${count(cancelled, "part")} ${cancelled === 1 ? "was" : "were"} cancelled.`,
      ),
      h("fieldset", { class: "bare" }, h("legend", {}, "Repeat"), choices),
      note,
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => dialog.close() }, "Not now"), yes),
    );
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": "resume-title",
        onclose: () => {
          dialog.remove();
          done(made);
        },
      },
      form,
    );

    async function send(event) {
      event.preventDefault();
      if (yes.getAttribute("aria-disabled") === "true") return;
      yes.setAttribute("aria-disabled", "true");
      try {
        made = await post(path, { items: new FormData(form).get("items") });
        dialog.close();
      } catch (error) {
        yes.removeAttribute("aria-disabled");
        note.textContent =
          error.status === 0 ? "The service can't be reached. Try again." : `It was not accepted: ${error.message}`;
      }
    }
    document.body.append(dialog);
    dialog.showModal();
  });
}
