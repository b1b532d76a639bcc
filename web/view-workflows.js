// The workflows of a place: what runs, what comes next, how the last run ended; Run and Stop in the row.

import { all, api, post } from "./api.js";
import { fill, h, keyed, set, text } from "./dom.js";
import { relative, time, triggerWords } from "./format.js";
import { loading, message, once, tell } from "./parts.js";
import { address, go, query, setQuery } from "./router.js";
import { badge, setBadge } from "./status.js";
import { StopControl } from "./stop.js";

const BUSY_MS = 1500;
const CALM_MS = 5000;

/** Show the list. */
export function show({ root, place, signal, title, placeName, author }) {
  title(placeName);
  return loading(root, signal, async () => {
    const view = new List({ root, place, placeName, author });
    await view.load(signal);
    view.draw();
    view.keepUp(signal);
  });
}

class List {
  constructor({ root, place, placeName, author }) {
    Object.assign(this, { root, place, author, items: [], text: query("q") ?? "", status: query("status") ?? "" });
    const find = h("input", {
      type: "search",
      id: "find",
      placeholder: "Find by name",
      value: this.text,
      oninput: (event) => this.filter("text", "q", event.target.value),
    });
    const status = h(
      "select",
      { id: "status", onchange: (event) => this.filter("status", "status", event.target.value) },
      [
        ["", "All"],
        ["running", "Running"],
        ["cancelling", "Stopping"],
        ["idle", "Idle"],
      ].map(([id, name]) => h("option", { value: id, selected: id === this.status }, name)),
    );
    this.list = h("ul", { class: "cards" });
    this.rest = h("div");
    this.offline = h("p", { class: "connection", role: "status" });
    this.tools = h(
      "div",
      { class: "row filters" },
      h("label", { for: "find", class: "hidden-text" }, "Find by name"),
      find,
      h("label", { for: "status", class: "hidden-text" }, "Status"),
      status,
    );
    fill(
      root,
      h(
        "header",
        { class: "view-head" },
        h("div", { class: "grow" }, h("h1", { tabindex: -1 }, placeName)),
        author && h("a", { class: "button primary", href: address(place, "new") }, "New workflow"),
      ),
      this.tools,
      this.offline,
      this.list,
      this.rest,
    );
  }

  filter(field, name, value) {
    this[field] = value;
    setQuery(name, value);
    this.draw();
  }

  async load(signal) {
    this.items = await all(api(this.place), signal);
  }

  /** Read the list again while it is looked at: sooner while something runs. */
  async keepUp(signal) {
    while (!signal.aborted) {
      const busy = this.items.some((one) => one.runtime.status !== "idle");
      await new Promise((done) => {
        this.again = done;
        setTimeout(done, busy ? BUSY_MS : CALM_MS);
      });
      if (signal.aborted || document.hidden) continue;
      try {
        await this.load(signal);
        text(this.offline, "");
        this.draw();
      } catch (error) {
        if (signal.aborted) return;
        text(
          this.offline,
          error.status === 401
            ? "You were signed out: reload to sign in."
            : error.status === 0
              ? "Offline. What you see may be old; it catches up by itself."
              : error.message,
        );
      }
    }
  }

  draw() {
    const wanted = this.text.trim().toLowerCase();
    const shown = this.items.filter(
      (one) => one.name.toLowerCase().includes(wanted) && (!this.status || one.runtime.status === this.status),
    );
    this.tools.hidden = !this.items.length;
    keyed(
      this.list,
      shown,
      (one) => one.id,
      (one) => this.row(one),
      (el, one) => el.update(one),
    );
    const state = this.items.length ? (shown.length ? "" : "none") : "empty";
    if (this.state === state) return;
    this.state = state;
    fill(
      this.rest,
      state === "empty"
        ? message(
            "No workflows yet",
            "A workflow is a list of steps: read documents, ask a model, write a file. Begin with a template or from nothing.",
            this.author && h("a", { class: "button primary", href: address(this.place, "new") }, "New workflow"),
          )
        : state
          ? h("p", { class: "muted" }, "No workflow is like that.")
          : null,
    );
  }

  row(first) {
    let one = first;
    const name = h("a", { class: "card-name", href: address(this.place, one.id) });
    const state = badge(one.runtime.status);
    const about = h("p", { class: "muted" });
    const last = h("p", { class: "muted" });
    const live = h("a", { class: "button" }, "Watch");
    const run = h(
      "button",
      {
        type: "button",
        onclick: () =>
          once(run, async () => {
            const made = await post(api(this.place, [one.id, "run"]), {});
            go(address(this.place, one.id, "runs", made.id));
          }),
      },
      "Run",
    );
    const stop = new StopControl({
      path: () => api(this.place, [one.id, "runs", one.runtime.active_run_id, "cancel"]),
      name: one.name,
      accepted: (receipt) => {
        tell(receipt.status === "cancelled" ? `${one.name}: cancelled.` : `${one.name}: stopping.`);
        this.again?.();
      },
    });
    const el = h(
      "li",
      { class: "card" },
      h("div", { class: "grow" }, h("div", { class: "row" }, name, state), about, last),
      h("div", { class: "row actions" }, live, run, stop.el),
    );
    el.update = (changed) => {
      one = changed;
      const { runtime } = one;
      const idle = runtime.status === "idle";
      text(name, one.name);
      state.hidden = idle;
      setBadge(state, runtime.status);
      live.hidden = idle;
      run.hidden = !idle;
      set(run, { "aria-label": `Run ${one.name}` });
      if (!idle)
        set(live, {
          href: address(this.place, one.id, "runs", runtime.active_run_id),
          "aria-label": `Watch ${one.name}`,
        });
      const next = !one.enabled
        ? "Turned off"
        : runtime.next_run_at
          ? `${triggerWords(one.trigger)} · next ${relative(runtime.next_run_at)}`
          : triggerWords(one.trigger);
      text(about, next);
      const lastKey = `${runtime.last_run_id},${runtime.last_run_status}`;
      if (el.lastKey !== lastKey) {
        el.lastKey = lastKey;
        fill(
          last,
          runtime.last_run_id
            ? [
                "Last run ",
                h(
                  "a",
                  { href: address(this.place, one.id, "runs", runtime.last_run_id) },
                  badge(runtime.last_run_status),
                ),
                " ",
                time(runtime.last_run_ended_at),
              ]
            : "It has not run yet",
        );
      }
      if (stop.runId !== runtime.active_run_id) {
        stop.runId = runtime.active_run_id;
        stop.update({ status: idle ? "idle" : runtime.status, cancel: null });
      } else if (!(stop.run.status === "cancelling" && runtime.status === "running"))
        stop.update({ status: runtime.status, cancel: stop.run.cancel });
    };
    return el;
  }
}
