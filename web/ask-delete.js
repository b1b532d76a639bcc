// Deleting a workflow, which can't be undone: asked with the safe choice first.

import { call } from "./api.js";
import { h, text } from "./dom.js";
import { once } from "./parts.js";

/** Ask, then delete `definition` at `path`. Answers whether it was deleted. */
export function askDelete(definition, path) {
  return new Promise((done) => {
    let deleted = false;
    const note = h("p", { class: "note", role: "alert" });
    const no = h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Keep it");
    const remove = async () => {
      await call("DELETE", path, { headers: { "If-Match": definition.etag } });
      deleted = true;
      dialog.close();
    };
    const yes = h(
      "button",
      { type: "button", class: "danger", onclick: () => once(yes, remove, (problem) => text(note, problem.message)) },
      "Delete",
    );
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": "delete-title",
        onclose: () => {
          dialog.remove();
          done(deleted);
        },
      },
      h("h2", { id: "delete-title" }, `Delete “${definition.name}”?`),
      h("p", {}, "Its runs, artifacts and history go with it. This can't be undone."),
      note,
      h("div", { class: "row end" }, no, yes),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
