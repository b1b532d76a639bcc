// The form of a whole definition: name, trigger, steps, settings.

import { fill, h } from "./dom.js";
import { GENERAL, SETTINGS, STEPS, TRIGGERS } from "./kinds.js";
import { StepForms } from "./step-forms.js";

/** The form, which changes `definition` in place. */
export function definitionForm(form, definition) {
  const steps = new StepForms(form, definition.steps);
  definition.trigger ??= { kind: "manual" }; // a JSON without one
  const add = h(
    "select",
    { "aria-label": "Kind of the step to add", id: "add-kind" },
    Object.entries(STEPS).map(([kind, one]) => h("option", { value: kind }, `${one.label}: ${one.about}`)),
  );
  return h(
    "div",
    { class: "editor" },
    form.all(definition, GENERAL, ""),
    triggerForm(form, definition),
    h("h2", {}, "Steps"),
    steps.el,
    h("div", { class: "row" }, add, h("button", { type: "button", onclick: () => steps.add(add.value) }, "Add step")),
    h("fieldset", {}, h("legend", {}, "Settings"), form.all(definition, SETTINGS, "")),
  );
}

function triggerForm(form, definition) {
  const body = h("div", { class: "editor" });
  const pick = h(
    "select",
    {
      "aria-label": "What starts a run",
      onchange: () => {
        definition.trigger = { kind: pick.value, ...structuredClone(TRIGGERS[pick.value].start) };
        draw();
        form.changed();
      },
    },
    Object.entries(TRIGGERS).map(([kind, one]) =>
      h("option", { value: kind, selected: kind === definition.trigger.kind }, one.label),
    ),
  );
  const draw = () =>
    fill(
      body,
      TRIGGERS[definition.trigger.kind].fields.map((spec) => form.field(definition.trigger, spec, "trigger")),
    );
  draw();
  return h("fieldset", {}, h("legend", {}, "What starts a run"), pick, body);
}
