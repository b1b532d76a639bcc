// For operators: what runs anywhere, what seems stuck, and stopping many runs at once with a reason.

import { get, now, withQuery } from "./api.js";
import { askBulkStop, bulkSentence } from "./bulk-stop.js";
import { fill, h, keyed, text } from "./dom.js";
import { count, duration, moment, startedBy } from "./format.js";
import { copyable, loading } from "./parts.js";
import { query, setQuery } from "./router.js";
import { badge, setBadge } from "./status.js";
import { wedgedView } from "./wedged.js";

const EVERY_MS = 3000;
const PAGE = 100;
const MINUTE = 60;

/** Show what runs. */
export function show({ root, signal, title }) {
  title("Operators");
  return loading(root, signal, async () => {
    const view = new Operators(root, signal);
    await view.load();
    view.keepUp();
  });
}

class Operators {
  constructor(root, signal) {
    Object.assign(this, { signal, chosen: new Set(), runs: [], next: null });
    this.connection = h("p", { class: "connection", role: "status" });
    this.wedged = h("section", { "aria-label": "What seems stuck" });
    this.body = h("tbody");
    this.everyone = h("input", {
      type: "checkbox",
      "aria-label": "Choose all that are shown",
      onchange: () => this.chooseAll(this.everyone.checked),
    });
    this.summary = h("p", { class: "muted" });
    this.stop = h("button", {
      type: "button",
      class: "stop",
      onclick: () => this.ask({ run_ids: [...this.chosen] }, count(this.chosen.size, "run")),
    });
    this.stopAll = h(
      "button",
      {
        type: "button",
        class: "stop",
        onclick: () => this.ask(this.matching(), "every active run that matches the filters"),
      },
      "Stop all that match…",
    );
    this.done = h("div", { role: "status" });
    const field = (name, label, props) =>
      h(
        "label",
        { class: "row" },
        label,
        h("input", {
          type: "text",
          value: query(name) ?? "",
          autocomplete: "off",
          ...props,
          onchange: (event) => this.filter(name, event.target.value.trim()),
        }),
      );
    fill(
      root,
      h("header", { class: "view-head" }, h("h1", { tabindex: -1 }, "Operators")),
      this.connection,
      this.wedged,
      h("h2", {}, "Active runs everywhere"),
      h(
        "div",
        { class: "row filters" },
        field("scope", "Scope", { placeholder: "user:… or group:…" }),
        field("workflow_id", "Workflow id"),
        field("minutes", "Older than, in minutes", { inputmode: "numeric", class: "minutes" }),
      ),
      h("div", { class: "row" }, this.stop, this.stopAll, this.summary),
      this.done,
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "operators" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, this.everyone),
              ["Status", "Run", "Whose", "Started", "Parts"].map((name) => h("th", { scope: "col" }, name)),
            ),
          ),
          this.body,
        ),
      ),
    );
  }

  /** The filters, as the service names them. */
  matching() {
    const minutes = Number(query("minutes") || 0);
    return {
      ...(query("scope") && { scope: query("scope") }),
      ...(query("workflow_id") && { workflow_id: query("workflow_id") }),
      older_than: minutes * MINUTE || 0,
    };
  }

  filter(name, value) {
    setQuery(name, value);
    this.chosen.clear();
    this.load().catch((error) => text(this.connection, error.message));
  }

  async load() {
    const [page, wedged] = await Promise.all([
      get(withQuery("/api/admin/runs", { status: "active", limit: PAGE, ...this.matching() }), this.signal),
      get("/api/admin/wedged?limit=20", this.signal),
    ]);
    this.runs = page.items;
    this.next = page.next;
    text(this.connection, "");
    this.draw();
    this.drawWedged(wedged);
  }

  async keepUp() {
    while (!this.signal.aborted) {
      await new Promise((done) => setTimeout(done, EVERY_MS));
      if (this.signal.aborted || document.hidden) continue;
      try {
        await this.load();
      } catch (error) {
        if (!this.signal.aborted)
          text(
            this.connection,
            error.status === 0 ? "Offline. What you see may be old; it catches up by itself." : error.message,
          );
      }
    }
  }

  draw() {
    const ids = new Set(this.runs.map((run) => run.id));
    for (const id of this.chosen) if (!ids.has(id)) this.chosen.delete(id);
    keyed(
      this.body,
      this.runs,
      (run) => `${run.workflow_id} ${run.id}`,
      (run) => this.row(run),
      (el, run) => el.update(run),
    );
    text(
      this.summary,
      this.runs.length
        ? `${this.next ? `The newest ${this.runs.length}` : count(this.runs.length, "active run")}`
        : "Nothing runs.",
    );
    this.drawChosen();
  }

  drawChosen() {
    text(this.stop, this.chosen.size ? `Stop ${count(this.chosen.size, "run")}…` : "Stop the chosen…");
    this.stop.disabled = !this.chosen.size;
    this.stopAll.disabled = !this.runs.length;
    this.everyone.checked = this.runs.length > 0 && this.chosen.size === this.runs.length;
    for (const el of this.body.children) el.choose(this.chosen);
  }

  chooseAll(all) {
    this.chosen = new Set(all ? this.runs.map((run) => run.id) : []);
    this.drawChosen();
  }

  row(first) {
    const box = h("input", {
      type: "checkbox",
      "aria-label": `Choose run ${first.id}`,
      onchange: () => {
        this.chosen[box.checked ? "add" : "delete"](first.id);
        this.drawChosen();
      },
    });
    const state = badge(first.status);
    const spent = h("span", { class: "number" });
    const parts = h("td", { class: "number" });
    const events = withQuery(`/api/admin/runs/${encodeURIComponent(first.id)}/events`, {
      scope: first.scope,
      workflow_id: first.workflow_id,
    });
    const el = h(
      "tr",
      {},
      h("td", {}, box),
      h("td", {}, state),
      h(
        "th",
        { scope: "row" },
        copyable(first.id, "run id"),
        h("a", { href: events, download: "", "aria-label": `Events of run ${first.id}` }, "Events"),
      ),
      h("td", {}, h("div", {}, first.scope), h("div", { class: "muted" }, startedBy(first))),
      h("td", {}, moment(first.started_at ?? first.created_at), " · ", spent),
      parts,
    );
    el.update = (run) => {
      setBadge(state, run.status);
      text(spent, duration(now() - Date.parse(run.started_at ?? run.created_at)));
      text(parts, `${run.counts.completed} of ${run.counts.total}`);
    };
    el.choose = (chosen) => {
      box.checked = chosen.has(first.id);
    };
    return el;
  }

  drawWedged(found) {
    const key = JSON.stringify(
      [found.cancelling, found.leases, found.operations].map((list) => list.map((one) => one.run_id)),
    );
    if (this.wedgedKey === key) return;
    this.wedgedKey = key;
    fill(this.wedged, wedgedView(found));
  }

  async ask(selection, what) {
    const answer = await askBulkStop(selection, what);
    if (!answer) return;
    text(this.done, bulkSentence(answer));
    this.chosen.clear();
    await this.load();
  }
}
