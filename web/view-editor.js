// Create and edit a workflow: a form for every kind of step, checked by the service as one types; and its JSON.

import { all, api, call, get, withQuery } from "./api.js";
import { definitionForm } from "./definition-form.js";
import { fill, h, text } from "./dom.js";
import { Form } from "./fields.js";
import { relative } from "./format.js";
import { crumbs, loading, once, tabs, tell } from "./parts.js";
import { address, go } from "./router.js";
import { subAgents } from "./step-forms.js";
import { TEMPLATES } from "./templates.js";

const ADDED = ["id", "scope", "etag", "created_at", "updated_at", "runtime"];
const CHECK_AFTER_MS = 350;
const EMPTY = { name: "", trigger: { kind: "manual" }, steps: [{ kind: "model", name: "ask", prompt: "" }] };

/** Show the editor: of a workflow, or of a new one. */
export function show({ root, place, workflow, signal, title }) {
  return loading(root, signal, async () => {
    title(workflow ? "Edit" : "New workflow");
    const [tools, workflows, known] = await Promise.all([
      get("/api/tools", signal),
      all(api(place), signal),
      workflow ? get(api(place, [workflow]), signal) : null,
    ]);
    const editor = new Editor({
      root,
      place,
      known,
      signal,
      lists: { tools: tools.items, workflows: workflows.filter((one) => one.id !== workflow) },
    });
    editor.draw();
  });
}

class Editor {
  constructor({ root, place, known, signal, lists }) {
    Object.assign(this, { root, place, known, signal });
    this.definition = known
      ? Object.fromEntries(Object.entries(known).filter(([name]) => !ADDED.includes(name)))
      : structuredClone(EMPTY);
    this.form = new Form(() => this.changed(), { ...lists, agents: subAgents });
    this.saved = JSON.stringify(this.definition);
    this.every = false;
    this.way = "form";
    this.tabs = tabs(
      "How to edit",
      [
        ["form", "Form"],
        ["json", "JSON"],
      ],
      (id) => {
        this.way = id;
        this.drawBody();
      },
    );
    this.panel = h("div", { id: "panel", role: "tabpanel", tabindex: -1 });
    this.problems = h("div", { class: "note", role: "alert" });
    this.verdict = h("span", { class: "muted", role: "status" });
    this.save = h(
      "button",
      {
        type: "button",
        class: "primary",
        onclick: () =>
          once(
            this.save,
            () => this.store(),
            (problem) => this.refused(problem, true),
          ),
      },
      "Save",
    );
    addEventListener(
      "truestop:leave",
      (event) => {
        if (this.unsaved && !confirm("Leave without saving?")) event.preventDefault();
      },
      { signal },
    );
    addEventListener(
      "beforeunload",
      (event) => {
        if (this.unsaved) event.preventDefault();
      },
      { signal },
    );
  }

  get unsaved() {
    return JSON.stringify(this.definition) !== this.saved;
  }

  draw() {
    const back = this.known ? address(this.place, this.known.id) : address(this.place);
    const name = this.known ? `Edit ${this.known.name}` : "New workflow";
    const templates =
      !this.known &&
      h(
        "div",
        { class: "templates", role: "group", "aria-label": "Templates to start from" },
        TEMPLATES.map(([label, about, definition]) =>
          h(
            "button",
            { type: "button", onclick: () => this.begin(definition) },
            h("strong", {}, label),
            h("span", { class: "muted" }, about),
          ),
        ),
      );
    fill(
      this.root,
      crumbs(
        ...[
          ["Workflows", address(this.place)],
          this.known && [this.known.name, back],
          [this.known ? "Edit" : "New"],
        ].filter(Boolean),
      ),
      h("header", { class: "view-head" }, h("h1", { tabindex: -1 }, name)),
      templates,
      this.tabs.el,
      this.panel,
      h(
        "div",
        { class: "save-bar row" },
        this.save,
        h("a", { class: "button", href: back }, "Discard"),
        this.verdict,
        this.problems,
      ),
    );
    this.drawBody();
  }

  begin(definition) {
    this.definition = structuredClone(definition);
    this.every = false;
    this.drawBody();
    this.changed();
  }

  drawBody() {
    this.tabs.select(this.way);
    this.panel.setAttribute("aria-labelledby", `tab-${this.way}`);
    this.form.fields.clear();
    fill(this.panel, this.way === "json" ? this.json() : this.shape());
    if (this.errors) this.refused({ errors: this.errors }, false);
  }

  json() {
    const area = h("textarea", {
      class: "json",
      id: "json",
      spellcheck: "false",
      value: JSON.stringify(this.definition, null, 2),
      oninput: () => {
        try {
          this.definition = JSON.parse(area.value);
          this.changed();
        } catch (error) {
          text(this.verdict, `Not JSON yet: ${error.message}`);
        }
      },
    });
    return h("div", { class: "field" }, h("label", { for: "json" }, "Definition"), area);
  }

  /** The form; of what is no definition at all there is none. */
  shape() {
    const { steps } = this.definition ?? {};
    if (Array.isArray(steps) && steps.every((step) => step && typeof step === "object")) {
      return definitionForm(this.form, this.definition);
    }
    return h("p", {}, "A definition has a list of steps: this one must be mended as JSON first.");
  }

  changed() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.check(), CHECK_AFTER_MS);
  }

  /** Ask the service whether it would save this. An answer that is overtaken by typing is dropped. */
  async check() {
    const asked = JSON.stringify(this.definition);
    try {
      const { data } = await call("POST", withQuery(api(this.place), { dry_run: "true" }), {
        body: this.definition,
        signal: this.signal,
      });
      if (asked !== JSON.stringify(this.definition)) return;
      if (data.valid) this.accepted(data);
      else this.refused(data, this.every);
    } catch (error) {
      if (error.name !== "AbortError" && asked === JSON.stringify(this.definition)) this.refused(error, this.every);
    }
  }

  accepted(verdict) {
    this.errors = null;
    this.form.show([], false);
    text(this.problems, "");
    text(
      this.verdict,
      verdict.next_run_at ? `All is well. The first run is ${relative(verdict.next_run_at)}.` : "All is well.",
    );
  }

  refused(problem, every) {
    this.errors = problem.errors?.length ? problem.errors : null;
    if (!this.errors) {
      text(
        this.problems,
        problem.status === 0 ? "The service can't be reached; what you wrote is still here." : problem.message,
      );
      return;
    }
    const rest = this.form.show(this.errors, every);
    text(this.verdict, every ? "" : "Not complete yet.");
    const shown = this.way === "json" ? this.errors : every ? rest : [];
    fill(
      this.problems,
      shown.slice(0, 8).map((error) => h("p", {}, `${error.field}: ${error.message}`)),
      every && this.way === "form" && rest.length < this.errors.length
        ? h("p", {}, `${this.errors.length - rest.length} to mend above.`)
        : null,
    );
    if (every && this.way === "form") this.form.focusFirst();
  }

  async store() {
    this.every = true;
    const { data } = this.known
      ? await call("PUT", api(this.place, [this.known.id]), {
          body: this.definition,
          headers: { "If-Match": this.known.etag },
        })
      : await call("POST", api(this.place), { body: this.definition });
    this.saved = JSON.stringify(this.definition);
    tell(`${data.name} was saved.`);
    go(address(this.place, data.id));
  }
}
