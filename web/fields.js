// Form fields bound to a value inside a definition, each with its hint and what the service says of it.

import { fill, h, set, text } from "./dom.js";

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
    return spec.type === "check" ? h("div", { class: "field check" }, input, label, hint, wrong) : h("div", { class: "field" }, label, hint, input, wrong);
  }

  group(made, spec, where) {
    const wrong = h("p", { class: "wrong" });
    this.register(where, made.group, wrong);
    return h("div", { class: "field", role: "group", "aria-label": spec.label }, h("strong", {}, spec.label), made.group, wrong);
  }

  register(where, input, wrong) {
    const field = { input, wrong, touched: false };
    this.fields.set(where, field);
    for (const event of ["input", "change"]) input.addEventListener(event, () => { field.touched = true; });
  }

  /** Many fields; those of `more` behind a summary. */
  all(object, specs, path) {
    const one = (spec) => this.field(object, spec, path);
    const more = specs.filter((spec) => spec.more);
    return [...specs.filter((spec) => !spec.more).map(one), more.length ? h("details", {}, h("summary", {}, "More"), h("div", { class: "editor" }, more.map(one))) : null];
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
    const field = [...this.fields.values()].find(({ input }) => input.isConnected && input.getAttribute("aria-invalid"));
    field?.input.closest("details:not([open])")?.setAttribute("open", "");
    (field?.input.matches("input, select, textarea") ? field.input : field?.input.querySelector("input, select, textarea"))?.focus();
  }
}

function read(object, name) {
  return name.split(".").reduce((inner, part) => inner?.[part], object);
}

/** Set or, for undefined, remove a value; a holder that became empty goes too. */
function write(object, name, value) {
  const [first, ...rest] = name.split(".");
  if (rest.length) {
    object[first] ??= {};
    write(object[first], rest.join("."), value);
    if (!Object.keys(object[first]).length) delete object[first];
  } else if (value === undefined) delete object[first];
  else object[first] = value;
}

const typed = (form, object, spec, convert) => (event) => {
  write(object, spec.name, convert(event.target.value));
  form.changed();
};
const options = (list, chosen) => list.map(([id, name]) => h("option", { value: String(id), selected: String(id) === String(chosen) }, name));

const MADE = {
  string: (form, object, spec) => ({ input: h("input", { type: "text", value: read(object, spec.name) ?? "", autocomplete: "off", oninput: typed(form, object, spec, (value) => value || (spec.keep ? "" : undefined)) }) }),
  text: (form, object, spec) => ({ input: h("textarea", { rows: spec.rows ?? 3, value: read(object, spec.name) ?? "", oninput: typed(form, object, spec, (value) => value || undefined) }) }),
  number: (form, object, spec) => ({ input: h("input", { type: "text", inputmode: "decimal", class: "short", value: String(read(object, spec.name) ?? ""), oninput: typed(form, object, spec, numeral) }) }),
  check: (form, object, spec) => ({ input: h("input", { type: "checkbox", checked: read(object, spec.name) ?? true, onchange: (event) => { write(object, spec.name, event.target.checked); form.changed(); } }) }),
  lines: (form, object, spec) => ({ input: h("textarea", { rows: 3, value: (read(object, spec.name) ?? []).join("\n"), oninput: typed(form, object, spec, (value) => value.split("\n").map((line) => line.trim()).filter(Boolean)) }) }),
  select: (form, object, spec) => ({ input: h("select", { onchange: typed(form, object, spec, (value) => spec.options.find(([id]) => String(id) === value)[0] === "" ? undefined : spec.options.find(([id]) => String(id) === value)[0]) }, options(spec.options, read(object, spec.name) ?? "")) }),
  json: (form, object, spec) => ({ input: h("textarea", { rows: 3, class: "code", spellcheck: "false", value: read(object, spec.name) === undefined ? "" : JSON.stringify(read(object, spec.name), null, 2), oninput: typed(form, object, spec, jsonOr) }) }),
  tool: (form, object, spec) => ({ input: h("select", { onchange: typed(form, object, spec, (value) => value) }, options(form.lists.tools.filter((one) => one.name !== "run_workflow").map((one) => [one.name, one.name]), read(object, spec.name))) }),
  workflow: (form, object, spec) => ({ input: h("select", { onchange: typed(form, object, spec, (value) => value) }, options([["", "Choose one"], ...form.lists.workflows.map((one) => [one.id, one.name])], read(object, spec.name))) }),
  tools: (form, object, spec) => ({ group: h("div", { class: "choices" }, form.lists.tools.map((tool) => h("label", { title: tool.description.split("\n")[0] },
    h("input", { type: "checkbox", checked: (read(object, spec.name) ?? []).includes(tool.name), onchange: (event) => {
      const chosen = new Set(read(object, spec.name) ?? []);
      chosen[event.target.checked ? "add" : "delete"](tool.name);
      write(object, spec.name, [...chosen]);
      form.changed();
    } }), tool.name))) }),
  documents: (form, object, spec, where) => ({ group: choice(form, object, spec, where, "documents", [
    ["prefix", "All whose name begins with", { type: "string" }, ""], ["names", "These, one a line", { type: "lines" }, [""]], ["step", "Those that an earlier step brought in", { type: "string" }, ""]]) }),
  schedule: (form, object, spec, where) => ({ group: choice(form, { [spec.name]: object }, spec, where.slice(0, where.lastIndexOf(".")), "schedule", [
    ["every.value", "Every", { type: "number", also: { name: "every.unit", label: "Unit", type: "select", options: ["seconds", "minutes", "hours", "days"].map((unit) => [unit, unit]) } }, { every: { value: 1, unit: "days" } }],
    ["cron", "Cron", { type: "string", hint: "Minute, hour, day, month, weekday: 0 7 * * 1-5", also: { name: "time_zone", label: "Time zone", type: "string", hint: "Such as Europe/Paris; UTC if left empty." } }, { cron: "0 7 * * 1-5" }]]) }),
  agents: (form, object, spec, where) => ({ group: form.lists.agents(form, object, spec, where) }),
};

function numeral(value) {
  if (!value.trim()) return undefined;
  return Number.isNaN(Number(value)) ? value : Number(value);
}

function jsonOr(value) {
  if (!value.trim()) return undefined;
  try {
    return JSON.parse(value);
  } catch {
    return value; // the service says what is wrong
  }
}

/** One of several ways to say something: a choice, and the fields of what was chosen. */
function choice(form, object, spec, where, label, ways) {
  const held = () => object[spec.name] ?? (object[spec.name] = {});
  const body = h("div", { class: "pair" });
  const draw = () => {
    const way = ways.find(([name]) => read(held(), name) !== undefined) ?? ways[0];
    const [name, title, field] = way;
    const pick = h("select", { "aria-label": `How to choose the ${label}`, onchange: (event) => {
      const [next, , , begin] = ways.find(([one]) => one === event.target.value);
      for (const key of Object.keys(held())) if (key !== "kind") delete held()[key];
      if (next.includes(".") || typeof begin === "object" && !Array.isArray(begin)) Object.assign(held(), structuredClone(begin));
      else write(held(), next, structuredClone(begin));
      draw();
      form.changed();
    } }, options(ways.map(([id, one]) => [id, one]), name));
    const inner = form.field(held(), { ...field, name, label: title, keep: true }, where);
    const also = field.also && form.field(held(), field.also, where);
    fill(body, h("div", { class: "field" }, h("strong", {}, "Which"), pick), inner, also);
  };
  draw();
  return body;
}
