// The forms of a workflow's steps: add, move, remove, and an agent's sub-agents.

import { fill, h } from "./dom.js";
import { COMMON, STEPS, SUB_AGENT } from "./kinds.js";

export class StepForms {
  /** Forms of `steps`, which they change in place. */
  constructor(form, steps) {
    Object.assign(this, { form, steps, el: h("div", { class: "editor" }) });
    this.draw();
  }

  draw() {
    fill(
      this.el,
      this.steps.map((step, i) => this.step(step, i)),
    );
  }

  step(step, i) {
    const { steps } = this;
    const kind = STEPS[step.kind];
    const act = (label, name, work, disabled) =>
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "aria-label": `${label} step ${step.name}`,
          title: label,
          disabled,
          onclick: () => {
            work();
            this.redraw();
          },
        },
        name,
      );
    const fields = kind
      ? this.form.all(step, kind.fields, `steps.${i}`)
      : h("p", {}, "This page does not know this kind of step: edit it as JSON.");
    return h(
      "fieldset",
      { "data-step": i },
      h("legend", {}, `${i + 1}. ${kind?.label ?? step.kind}`),
      h(
        "div",
        { class: "step-head" },
        h("span", { class: "muted grow" }, kind?.about),
        act("Move up", "↑", () => steps.splice(i - 1, 0, ...steps.splice(i, 1)), i === 0),
        act("Move down", "↓", () => steps.splice(i + 1, 0, ...steps.splice(i, 1)), i === steps.length - 1),
        act("Remove", "✕", () => steps.splice(i, 1), steps.length === 1),
      ),
      this.form.field(
        step,
        {
          name: "name",
          label: "Name",
          type: "string",
          hint: "Small letters, digits and _; later steps use its output by this name.",
        },
        `steps.${i}`,
      ),
      fields,
      h(
        "details",
        {},
        h("summary", {}, "Limits and failures"),
        h(
          "div",
          { class: "pair" },
          COMMON.map((spec) => this.form.field(step, spec, `steps.${i}`)),
        ),
      ),
    );
  }

  redraw() {
    for (const where of [...this.form.fields.keys()]) if (where.startsWith("steps.")) this.form.fields.delete(where);
    this.draw();
    this.form.changed();
  }

  add(kind) {
    const { steps } = this;
    const base = kind.split("_")[0];
    let name = base;
    for (let n = 2; steps.some((step) => step.name === name); n += 1) name = `${base}${n}`;
    steps.push({ kind, name, ...structuredClone(STEPS[kind].start) });
    this.redraw();
    this.el.lastElementChild.querySelector("input").focus();
  }
}

/** The sub-agents of an agent, each with all that an agent has. */
export function subAgents(form, object, spec, where) {
  const body = h("div", { class: "editor" });
  const draw = () => {
    const list = object.agents ?? [];
    fill(
      body,
      list.map((agent, i) =>
        h(
          "fieldset",
          {},
          h("legend", {}, agent.name || "Sub-agent"),
          form.all(agent, SUB_AGENT, `${where}.${i}`),
          h(
            "button",
            {
              type: "button",
              onclick: () => {
                list.splice(i, 1);
                if (!list.length) delete object.agents;
                draw();
                form.changed();
              },
            },
            "Remove this sub-agent",
          ),
        ),
      ),
      h(
        "button",
        {
          type: "button",
          onclick: () => {
            object.agents = [
              ...list,
              { name: `helper${list.length + 1}`, description: "", instructions: "", tools: [] },
            ];
            draw();
            form.changed();
          },
        },
        "Add a sub-agent",
      ),
    );
  };
  draw();
  return body;
}
