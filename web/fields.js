// Form fields bound to a value inside a definition, each with its hint and what the service says of it.

import { h, set, text } from "./dom.js";
import { MADE } from "./widgets.js";

let serial = 0;

/** The fields of a form: what they change, and where an error of the service is shown. */
export class Form {
  /** `changed()`: something was typed. `lists`: what choices are made of: `{tools, workflows}`. */
  constructor(changed, lists) {
    this.changed = changed;
    this.lists = lists;
    this.fields = new Map();
  }

  /** A field of `object` as `spec` says; `path`: how the service names the object. */
  field(object, spec, path) {
    const where = path ? `${path}.${spec.name}` : spec.name;
    const made = (MADE[spec.type] ?? MADE.string)(this, object, spec, where);
    return made.group ? this.group(made, spec, where) : this.single(made, spec, where);
  }

  single(made, spec, where) {
    const id = `field-${(serial += 1)}`;
    const input = made.input;
    input.id = id;
    const hint = spec.hint && h("p", { class: "hint", id: `${id}-hint` }, spec.hint);
    const wrong = h("p", { class: "wrong", id: `${id}-wrong` });
    set(input, { "aria-describedby": [hint && `${id}-hint`, `${id}-wrong`].filter(Boolean).join(" ") });
    this.register(where, input, wrong);
    const label = h("label", { for: id }, spec.label);
    return spec.type === "check"
      ? h("div", { class: "field check" }, input, label, hint, wrong)
      : h("div", { class: "field" }, label, hint, input, wrong);
  }

  group(made, spec, where) {
    const wrong = h("p", { class: "wrong" });
    this.register(where, made.group, wrong);
    return h(
      "div",
      { class: "field", role: "group", "aria-label": spec.label },
      h("strong", {}, spec.label),
      made.group,
      wrong,
    );
  }

  register(where, input, wrong) {
    const field = { input, wrong, touched: false };
    this.fields.set(where, field);
    for (const event of ["input", "change"])
      input.addEventListener(event, () => {
        field.touched = true;
      });
  }

  /** Many fields; those of `more` behind a summary. */
  all(object, specs, path) {
    const one = (spec) => this.field(object, spec, path);
    const more = specs.filter((spec) => spec.more);
    return [
      ...specs.filter((spec) => !spec.more).map(one),
      more.length ? h("details", {}, h("summary", {}, "More"), h("div", { class: "editor" }, more.map(one))) : null,
    ];
  }

  /** Show the service's errors `[{field, message}]`; `every`: also of fields that nobody has touched. Answers those without a field. */
  show(errors, every) {
    const said = new Map();
    const rest = [];
    for (const error of errors) {
      const where = this.nearest(error.field);
      if (where) said.set(where, [...(said.get(where) ?? []), error.message]);
      else rest.push(error);
    }
    for (const [where, field] of this.fields) {
      const messages = (every || field.touched) && said.get(where);
      text(field.wrong, messages ? messages.join("; ") : "");
      set(field.input, { "aria-invalid": messages ? "true" : null });
    }
    return rest;
  }

  nearest(name) {
    for (let where = name; where; where = where.includes(".") ? where.slice(0, where.lastIndexOf(".")) : "") {
      if (this.fields.get(where)?.input.isConnected) return where;
    }
    return null;
  }

  /** Go to the first field with an error. */
  focusFirst() {
    const field = [...this.fields.values()].find(
      ({ input }) => input.isConnected && input.getAttribute("aria-invalid"),
    );
    field?.input.closest("details:not([open])")?.setAttribute("open", "");
    (field?.input.matches("input, select, textarea")
      ? field.input
      : field?.input.querySelector("input, select, textarea")
    )?.focus();
  }
}
