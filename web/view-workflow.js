// A workflow: what it does, its runs with filters, and all that can be done with it.

import { api, call, get, post, withQuery } from "./api.js";
import { askDelete } from "./ask-delete.js";
import { fill, h, keyed, text } from "./dom.js";
import { filtered, historyFilters } from "./history-filters.js";
import { count, relative, triggerWords, words } from "./format.js";
import { copyable, crumbs, loading, once, tell } from "./parts.js";
import { address, go, query, setQuery } from "./router.js";
import { runRow } from "./run-row.js";
import { ACTIVE, badge } from "./status.js";
import { follow, position } from "./stream.js";

const PAGE = 25;
const TICK_MS = 1000;

/** Show a workflow. */
export function show({ root, place, workflow, signal, title, author }) {
  return loading(root, signal, async () => {
    const stream = api(place, [workflow, "stream"]);
    const token = await position(stream, signal);
    const definition = await get(api(place, [workflow]), signal);
    const view = new WorkflowView({ root, place, definition, signal, author });
    title(view.definition.name);
    await view.load();
    view.draw();
    const tick = setInterval(() => document.hidden || view.tick(), TICK_MS);
    signal.addEventListener("abort", () => clearInterval(tick));
    follow(stream, token, {
      signal,
      apply: (type, one) => view.apply(type, one),
      state: (said) => view.connected(said),
    }).then(
      (end) => end === "restart" && show({ root, place, workflow, signal, title, author }),
      (error) => signal.aborted || view.lost(error),
    );
  });
}

class WorkflowView {
  constructor({ root, place, definition, signal, author }) {
    Object.assign(this, { place, definition, signal, runs: new Map(), after: null });
    const edit = h("a", { class: "button", href: address(place, definition.id, "edit") }, "Edit");
    this.run = h(
      "button",
      { type: "button", class: "primary", onclick: () => once(this.run, () => this.start()) },
      "Run",
    );
    this.toggle = h("button", {
      type: "button",
      onclick: () => once(this.toggle, () => this.change({ enabled: !this.definition.enabled })),
    });
    const remove = h("button", { type: "button", class: "danger", onclick: () => this.remove() }, "Delete…");
    this.about = h("p", { class: "muted" });
    this.connection = h("p", { class: "connection", role: "status" });
    this.body = h("tbody");
    this.more = h("button", { type: "button", onclick: () => once(this.more, () => this.load(true)) }, "Older runs");
    this.none = h("p", { class: "muted" });
    this.activity = h("ol", { class: "events" });
    this.lately = h("section", { hidden: true }, h("h2", {}, "Now"), this.activity);
    fill(
      root,
      crumbs(["Workflows", address(place)], [definition.name]),
      h(
        "header",
        { class: "view-head" },
        h(
          "div",
          { class: "grow" },
          h("h1", { tabindex: -1 }, definition.name),
          definition.description && h("p", {}, definition.description),
          this.about,
          copyable(definition.id, "workflow id"),
        ),
        h("div", { class: "row" }, this.run, author && [edit, this.toggle, remove]),
      ),
      this.connection,
      this.lately,
      h("h2", {}, "Runs"),
      historyFilters((name, value) => this.filter(name, value)),
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "runs" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Status", "Started", "Took", "By", "What can be done"].map((name, i) =>
                h("th", { scope: "col" }, i === 4 ? h("span", { class: "hidden-text" }, name) : name),
              ),
            ),
          ),
          this.body,
        ),
      ),
      this.none,
      this.more,
    );
  }

  filter(name, value) {
    setQuery(name, value);
    this.load().then(
      () => this.draw(),
      (error) => tell(error.message, true),
    );
  }

  async load(older = false) {
    const midnight = (name, day) =>
      query(name) ? new Date(new Date(`${query(name)}T00:00`).getTime() + day * 86_400_000).toISOString() : null;
    const asked = {
      status: query("status"),
      trigger: query("trigger"),
      from: midnight("from", 0),
      to: midnight("to", 1),
      limit: PAGE,
      after: older ? this.after : null,
    };
    const page = await get(withQuery(api(this.place, [this.definition.id, "runs"]), asked), this.signal);
    if (!older) this.runs.clear();
    for (const run of page.items) this.runs.set(run.id, run);
    this.after = page.next;
    if (older) this.draw();
  }

  /** A change of the feed. With filters on, only runs that are shown change: what else fits is asked for anew. */
  apply(type, one) {
    if (type === "workflow") this.definition = one;
    else if (type === "run" && (this.runs.has(one.id) || !filtered())) this.runs.set(one.id, one);
    else if (type === "execution" && one.status === "running") this.latest = one;
    this.draw();
  }

  connected(state) {
    if (state === "offline") text(this.connection, "Offline. What you see may be old; it catches up by itself.");
    else if (this.connection.textContent) text(this.connection, "");
  }

  lost(error) {
    text(
      this.connection,
      error.status === 401
        ? "You were signed out: reload to sign in."
        : error.status === 404
          ? "This workflow was deleted."
          : error.message,
    );
  }

  draw() {
    const { definition } = this;
    const { runtime } = definition;
    const next = runtime.next_run_at ? ` · next ${relative(runtime.next_run_at)}` : "";
    text(
      this.about,
      `${definition.enabled ? triggerWords(definition.trigger) + next : "Turned off: it starts only by hand"} · ${count(definition.steps.length, "step")} · ${count(runtime.run_count, "run")}`,
    );
    text(this.toggle, definition.enabled ? "Turn off" : "Turn on");
    this.run.hidden = runtime.status !== "idle";
    const shown = [...this.runs.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    keyed(
      this.body,
      shown,
      (run) => run.id,
      (run) => runRow(this.place, run, (changed) => this.apply("run", changed)),
      (el, run) => el.update(run),
    );
    this.more.hidden = !this.after;
    text(this.none, shown.length ? "" : filtered() ? "No run is like that." : "It has not run yet.");
    this.drawNow(shown[0]);
  }

  /** The activity panel: what the active run does now. */
  drawNow(run) {
    const active = run && ACTIVE.has(run.status);
    this.lately.hidden = !active;
    if (!active) return;
    const href = address(this.place, run.workflow_id, "runs", run.id);
    const { completed, total } = run.counts;
    const now = this.latest?.id.startsWith(run.id) ? this.latest : null;
    const key = [run.status, completed, total, now?.id].join();
    if (this.nowKey === key) return;
    this.nowKey = key;
    fill(
      this.activity,
      h(
        "li",
        {},
        badge(run.status),
        h("a", { href }, "Watch this run"),
        h("span", { class: "muted" }, `${completed} of ${total} parts done`),
        now && h("span", {}, `${now.name}, ${words(now.kind).toLowerCase()}`),
      ),
    );
  }

  tick() {
    for (const el of this.body.children) el.tick();
  }

  async start() {
    const made = await post(api(this.place, [this.definition.id, "run"]), {});
    go(address(this.place, this.definition.id, "runs", made.id));
  }

  async change(patch) {
    const { data } = await call("PATCH", api(this.place, [this.definition.id]), {
      body: patch,
      headers: { "If-Match": this.definition.etag },
    });
    this.definition = data;
    this.draw();
  }

  async remove() {
    if (!(await askDelete(this.definition, api(this.place, [this.definition.id])))) return;
    tell(`${this.definition.name} was deleted.`);
    go(address(this.place));
  }
}
