// The inputs of a form by type, each bound to a value inside a definition.

import { fill, h } from "./dom.js";

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
const options = (list, chosen) =>
  list.map(([id, name]) => h("option", { value: String(id), selected: String(id) === String(chosen) }, name));

/** How each type of field is made: `(form, object, spec, where)` answers `{input}`, or `{group}` for several inputs. */
export const MADE = {
  string: (form, object, spec) => ({
    input: h("input", {
      type: "text",
      value: read(object, spec.name) ?? "",
      autocomplete: "off",
      oninput: typed(form, object, spec, (value) => value || (spec.keep ? "" : undefined)),
    }),
  }),
  text: (form, object, spec) => ({
    input: h("textarea", {
      rows: spec.rows ?? 3,
      value: read(object, spec.name) ?? "",
      oninput: typed(form, object, spec, (value) => value || undefined),
    }),
  }),
  number: (form, object, spec) => ({
    input: h("input", {
      type: "text",
      inputmode: "decimal",
      class: "short",
      value: String(read(object, spec.name) ?? ""),
      oninput: typed(form, object, spec, numeral),
    }),
  }),
  check: (form, object, spec) => ({
    input: h("input", {
      type: "checkbox",
      checked: read(object, spec.name) ?? true,
      onchange: (event) => {
        write(object, spec.name, event.target.checked);
        form.changed();
      },
    }),
  }),
  lines: (form, object, spec) => ({
    input: h("textarea", {
      rows: 3,
      value: (read(object, spec.name) ?? []).join("\n"),
      oninput: typed(form, object, spec, (value) =>
        value
          .split("\n")
          .map((line) => line.trim())
          .filter(Boolean),
      ),
    }),
  }),
  select: (form, object, spec) => ({
    input: h(
      "select",
      {
        onchange: typed(form, object, spec, (value) =>
          spec.options.find(([id]) => String(id) === value)[0] === ""
            ? undefined
            : spec.options.find(([id]) => String(id) === value)[0],
        ),
      },
      options(spec.options, read(object, spec.name) ?? ""),
    ),
  }),
  json: (form, object, spec) => ({
    input: h("textarea", {
      rows: 3,
      class: "code",
      spellcheck: "false",
      value: read(object, spec.name) === undefined ? "" : JSON.stringify(read(object, spec.name), null, 2),
      oninput: typed(form, object, spec, jsonOr),
    }),
  }),
  tool: (form, object, spec) => ({
    input: h(
      "select",
      { onchange: typed(form, object, spec, (value) => value) },
      options(
        form.lists.tools.filter((one) => one.name !== "run_workflow").map((one) => [one.name, one.name]),
        read(object, spec.name),
      ),
    ),
  }),
  workflow: (form, object, spec) => ({
    input: h(
      "select",
      { onchange: typed(form, object, spec, (value) => value) },
      options([["", "Choose one"], ...form.lists.workflows.map((one) => [one.id, one.name])], read(object, spec.name)),
    ),
  }),
  tools: (form, object, spec) => ({
    group: h(
      "div",
      { class: "choices" },
      form.lists.tools.map((tool) =>
        h(
          "label",
          { title: tool.description.split("\n")[0] },
          h("input", {
            type: "checkbox",
            checked: (read(object, spec.name) ?? []).includes(tool.name),
            onchange: (event) => {
              const chosen = new Set(read(object, spec.name) ?? []);
              chosen[event.target.checked ? "add" : "delete"](tool.name);
              write(object, spec.name, [...chosen]);
              form.changed();
            },
          }),
          tool.name,
        ),
      ),
    ),
  }),
  documents: (form, object, spec, where) => ({
    group: choice(form, object, spec, where, "documents", [
      ["prefix", "All whose name begins with", { type: "string" }, ""],
      ["names", "These, one a line", { type: "lines" }, [""]],
      ["step", "Those that an earlier step brought in", { type: "string" }, ""],
    ]),
  }),
  schedule: (form, object, spec, where) => ({
    group: choice(form, { [spec.name]: object }, spec, where.slice(0, where.lastIndexOf(".")), "schedule", [
      [
        "every.value",
        "Every",
        {
          type: "number",
          also: {
            name: "every.unit",
            label: "Unit",
            type: "select",
            options: ["seconds", "minutes", "hours", "days"].map((unit) => [unit, unit]),
          },
        },
        { every: { value: 1, unit: "days" } },
      ],
      [
        "cron",
        "Cron",
        {
          type: "string",
          hint: "Minute, hour, day, month, weekday: 0 7 * * 1-5",
          also: {
            name: "time_zone",
            label: "Time zone",
            type: "string",
            hint: "Such as Europe/Paris; UTC if left empty.",
          },
        },
        { cron: "0 7 * * 1-5" },
      ],
    ]),
  }),
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
    const pick = h(
      "select",
      {
        "aria-label": `How to choose the ${label}`,
        onchange: (event) => {
          const [next, , , begin] = ways.find(([one]) => one === event.target.value);
          for (const key of Object.keys(held())) if (key !== "kind") delete held()[key];
          if (next.includes(".") || (typeof begin === "object" && !Array.isArray(begin)))
            Object.assign(held(), structuredClone(begin));
          else write(held(), next, structuredClone(begin));
          draw();
          form.changed();
        },
      },
      options(
        ways.map(([id, one]) => [id, one]),
        name,
      ),
    );
    const inner = form.field(held(), { ...field, name, label: title, keep: true }, where);
    const also = field.also && form.field(held(), field.also, where);
    fill(body, h("div", { class: "field" }, h("strong", {}, "Which"), pick), inner, also);
  };
  draw();
  return body;
}
