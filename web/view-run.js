// A run, live: how far it is, what it does now, its time line; and Stop.

import { now, post } from "./api.js";
import { announce, fill, h, keyed, text } from "./dom.js";
import { DetailPanel } from "./detail.js";
import { count, duration, size, startedBy, time, words } from "./format.js";
import { copyable, crumbs, loading, once, tabs } from "./parts.js";
import { cancelSentence, inFlight, receiptView } from "./receipt.js";
import { address, go, query, setQuery } from "./router.js";
import { ENDED, badge, setBadge, statusWord } from "./status.js";
import { StopControl } from "./stop.js";
import { RunStore } from "./store.js";
import { TreeView } from "./tree.js";
import { api, get } from "./api.js";

const TICK_MS = 500;
const EVENTS_SHOWN = 200;
const TABS = [["steps", "Steps"], ["events", "Events"], ["artifacts", "Artifacts"], ["receipt", "Receipt"], ["input", "Input and output"]];

/** Show a run. */
export function show({ root, place, workflow, run, signal, title }) {
  return loading(root, signal, async () => {
    const store = new RunStore(place, workflow, run);
    const [definition, token] = await Promise.all([get(api(place, [workflow]), signal), store.open(signal)]);
    const view = new RunView(store, definition, { root, place, title });
    view.start(signal);
    store.keepUp(token, signal).catch((error) => signal.aborted || view.lost(error));
  });
}

class RunView {
  constructor(store, definition, { root, place, title }) {
    Object.assign(this, { store, definition, place, setTitle: title });
    const { run } = store;
    this.badge = badge(run.status);
    this.facts = h("p", { class: "muted facts-line" });
    this.counts = h("p", { class: "muted" });
    this.stop = new StopControl({
      path: () => store.path("cancel"), accepted: (receipt) => store.applyReceipt(receipt), name: `the run of ${definition.name}`,
    });
    this.more = h("span", { class: "row" });
    this.notice = h("div", { class: "notice", hidden: true });
    this.noticeText = h("div");
    this.noticeList = h("div");
    this.notice.append(this.noticeText, this.noticeList);
    this.connection = h("p", { class: "connection", role: "status" });
    this.detail = new DetailPanel(store, () => this.choose(null));
    this.tree = new TreeView(store, (path) => this.choose(path));
    this.nothing = h("p", { class: "muted" }, "Nothing has begun yet.");
    this.panel = h("div", { id: "panel", role: "tabpanel", tabindex: -1 });
    this.tabs = tabs("Parts of the run", TABS, (id) => this.open(id));
    fill(root,
      crumbs(["Workflows", address(place)], [definition.name, address(place, definition.id)], ["Run"]),
      h("header", { class: "view-head" },
        h("div", { class: "grow" }, h("h1", { tabindex: -1 }, definition.name), h("div", { class: "row" }, this.badge, this.facts)),
        h("div", { class: "row" }, this.more, this.stop.el)),
      this.notice, this.connection, this.tabs.el, this.panel);
  }

  start(signal) {
    const draw = () => this.draw();
    this.store.listen(draw, signal);
    addEventListener("scroll", draw, { passive: true, signal });
    addEventListener("resize", draw, { passive: true, signal });
    const tick = setInterval(() => document.hidden || draw(), TICK_MS);
    signal.addEventListener("abort", () => clearInterval(tick));
    this.open(TABS.some(([id]) => id === query("tab")) ? query("tab") : "steps");
    if (query("node") && this.store.nodes.has(query("node"))) {
      this.tree.choose(query("node"));
      this.detail.show(query("node"));
    }
    this.draw();
  }

  lost(error) {
    text(this.connection, error.status === 401 ? "You were signed out: reload to sign in. The run goes on."
      : error.status === 404 ? "This run was deleted." : `No longer live: ${error.message}. Reload to see more.`);
  }

  choose(path) {
    setQuery("node", path);
    this.tree.chosen = path;
    this.detail.show(path, Boolean(path) && innerWidth < 900);
    if (!path) this.tree.el.focus({ preventScroll: true });
    this.draw();
  }

  open(id) {
    this.tab = id;
    this.tabs.select(id);
    setQuery("tab", id === "steps" ? null : id);
    this.panel.setAttribute("aria-labelledby", `tab-${id}`);
    this.drawn = null;
    const made = { steps: () => h("div", { class: "run-body" }, h("div", { class: "grow" }, this.counts, this.nothing, this.tree.el), this.detail.el) }[id];
    fill(this.panel, made ? made() : null);
    this.draw();
  }

  draw() {
    const { run, connection } = this.store;
    if (this.status !== run.status) this.changed(run);
    const from = Date.parse(run.started_at ?? run.created_at);
    const spent = duration((run.ended_at ? Date.parse(run.ended_at) : now()) - from);
    if (this.factsFor !== run.started_at + run.status) {
      this.factsFor = run.started_at + run.status;
      this.spent = h("span", { class: "number" });
      fill(this.facts, this.spent, " · started ", time(run.started_at ?? run.created_at), ` ${startedBy(run)} · `, copyable(run.id, "run id"));
    }
    text(this.spent, spent);
    this.stop.update(run);
    this.drawNotice(run);
    if (connection === "offline" || this.wasOffline) {
      text(this.connection, connection === "offline" ? "Offline. What you see may be old; it catches up by itself." : "");
      this.wasOffline = connection === "offline";
    }
    this[`draw_${this.tab}`]();
  }

  /** Another status: what is said, and what can be done. */
  changed(run) {
    if (this.status) announce(run.status === "cancelled" ? "The run is cancelled." : `The run is ${statusWord(run.status).toLowerCase()}`);
    this.status = run.status;
    setBadge(this.badge, run.status);
    this.setTitle(`${statusWord(run.status)} · ${this.definition.name}`);
    const resume = h("button", { type: "button", onclick: () => this.resume(resume) }, "Resume…");
    const again = h("button", { type: "button", onclick: () => once(again, async () => {
      const made = await post(api(this.place, [this.definition.id, "run"]), { input: run.input });
      go(address(this.place, this.definition.id, "runs", made.id));
    }) }, "Run again");
    const before = run.resumed_from && h("a", { class: "button", href: address(this.place, run.workflow_id, "runs", run.id, "compare") }, "Compare");
    fill(this.more, ENDED.has(run.status) && [before, again, ["failed", "cancelled"].includes(run.status) && resume]);
  }

  async resume() {
    const { askResume } = await import("./resume.js");
    const made = await askResume(this.store.path("resume"), this.store.run);
    if (made) go(address(this.place, made.workflow_id, "runs", made.id));
  }

  drawNotice(run) {
    const shows = run.status === "cancelling" || run.status === "cancelled" || Boolean(run.error);
    this.notice.hidden = !shows;
    if (!shows) return;
    const state = `${run.status},${run.cancel?.stopped_at},${run.cancel?.in_flight.length}`;
    if (this.noticeFor !== state) {
      this.noticeFor = state;
      this.notice.classList.toggle("bad", run.status === "failed");
      fill(this.noticeText, run.cancel ? cancelSentence(run) : [h("strong", {}, "It failed: "), run.error.message, h("span", { class: "muted" }, ` (${run.error.code})`)]);
    }
    fill(this.noticeList, run.status === "cancelling" ? inFlight(run.cancel) : null);
  }

  draw_steps() {
    const { counts } = this.store.run;
    this.nothing.hidden = this.store.nodes.size > 0;
    text(this.counts, counts.total ? ["completed", "running", "failed", "cancelled", "skipped", "pending"]
      .filter((status) => counts[status]).map((status) => `${counts[status].toLocaleString()} ${statusWord(status).toLowerCase()}`).join(" · ") : "");
    this.tree.draw();
    this.detail.draw();
  }

  draw_events() {
    const { events } = this.store;
    if (this.drawn === events.length) return;
    this.drawn = events.length;
    this.list ??= h("ol", { class: "events", reversed: true });
    const shown = events.slice(-EVENTS_SHOWN).reverse();
    const left = events.length - shown.length;
    if (this.list.parentElement !== this.panel) fill(this.panel, this.list, h("p", { class: "muted" }));
    keyed(this.list, shown, (event) => event.id, (event) => this.eventRow(event), () => {});
    text(this.panel.lastChild, left > 0 ? `The last ${EVENTS_SHOWN} of ${count(events.length, "event")}.` : events.length ? "" : "There are no events yet.");
  }

  eventRow(event) {
    const path = event.execution_id?.split(":")[1];
    const node = this.store.nodes.get(path);
    const data = Object.entries(event.data ?? {}).filter(([, value]) => value !== null && value !== "");
    return h("li", {}, time(event.at), h("span", {}, words(event.type)),
      path ? h("a", { href: `?node=${encodeURIComponent(path)}`, onclick: (click) => this.toNode(click, path) }, node?.name ?? path) : null,
      data.length ? h("code", {}, data.map(([name, value]) => `${name}: ${typeof value === "object" ? value.name ?? JSON.stringify(value) : value}`).join(", ").slice(0, 300)) : null);
  }

  toNode(click, path) {
    if (click.ctrlKey || click.metaKey || click.shiftKey) return;
    click.preventDefault();
    this.open("steps");
    this.tree.choose(path);
    this.choose(path);
  }

  draw_artifacts() {
    const done = [...this.store.nodes.values()].filter((node) => node.side_effects.some((effect) => effect.kind === "artifact"));
    const key = done.map((node) => `${node.path}${node.version}`).join();
    if (this.drawn === key) return;
    this.drawn = key;
    get(this.store.path("artifacts")).then(({ items }) => {
      if (this.tab !== "artifacts") return;
      fill(this.panel, items.length ? h("ul", { class: "artifacts" }, items.map((one) => h("li", {},
        h("a", { href: this.artifactAddress(one.path), download: one.path.split("/").at(-1) }, one.path), h("span", { class: "muted" }, ` ${size(one.size)} · `, time(one.at)))))
        : h("p", { class: "muted" }, ENDED.has(this.store.run.status) ? "The run wrote no artifact." : "The run has written no artifact yet."));
    }, (error) => fill(this.panel, h("p", { class: "error-text" }, error.message)));
  }

  artifactAddress(path) {
    const [base, rest] = this.store.path("artifacts").split("?");
    return `${base}/${path.split("/").map(encodeURIComponent).join("/")}${rest ? `?${rest}` : ""}`;
  }

  draw_receipt() {
    const key = JSON.stringify([this.store.run.status, this.store.run.cancel]);
    if (this.drawn === key) return;
    this.drawn = key;
    fill(this.panel, receiptView(this.store.run));
  }

  draw_input() {
    const { run } = this.store;
    const key = JSON.stringify([run.input, run.output_preview]);
    if (this.drawn === key) return;
    this.drawn = key;
    const shown = (value) => (value === null || value === undefined ? h("p", { class: "muted" }, "None.") : h("pre", { class: "output", tabindex: 0 }, typeof value === "string" ? value : JSON.stringify(value, null, 2)));
    fill(this.panel, h("h2", {}, "Input"), shown(run.input), h("h2", {}, "Output"), shown(run.output_preview));
  }
}
