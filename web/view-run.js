// A run, live: how far it is, what it does now, its time line; and Stop.

import { api, get, now, post } from "./api.js";
import { announce, fill, h, text } from "./dom.js";
import { DetailPanel } from "./detail.js";
import { duration, startedBy, time } from "./format.js";
import { copyable, crumbs, loading, once, tabs } from "./parts.js";
import { cancelSentence, inFlight } from "./receipt.js";
import { address, go, query, setQuery } from "./router.js";
import { RunTabs } from "./run-tabs.js";
import { ENDED, badge, setBadge, statusWord } from "./status.js";
import { StopControl } from "./stop.js";
import { RunStore } from "./store.js";
import { TreeView } from "./tree.js";

const TICK_MS = 500;
const TABS = [
  ["steps", "Steps"],
  ["events", "Events"],
  ["artifacts", "Artifacts"],
  ["receipt", "Receipt"],
  ["input", "Input and output"],
];

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
      path: () => store.path("cancel"),
      accepted: (receipt) => store.applyReceipt(receipt),
      name: `the run of ${definition.name}`,
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
    this.steps = h(
      "div",
      { class: "run-body" },
      h("div", { class: "grow" }, this.counts, this.nothing, this.tree.el),
      this.detail.el,
    );
    this.panel = h("div", { id: "panel", role: "tabpanel", tabindex: -1 });
    this.others = new RunTabs(store, this.panel, (path) => this.toNode(path));
    this.tabs = tabs("Parts of the run", TABS, (id) => this.open(id));
    fill(
      root,
      crumbs(["Workflows", address(place)], [definition.name, address(place, definition.id)], ["Run"]),
      h(
        "header",
        { class: "view-head" },
        h(
          "div",
          { class: "grow" },
          h("h1", { tabindex: -1 }, definition.name),
          h("div", { class: "row" }, this.badge, this.facts),
        ),
        h("div", { class: "row" }, this.more, this.stop.el),
      ),
      this.notice,
      this.connection,
      this.tabs.el,
      this.panel,
    );
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
    text(
      this.connection,
      error.status === 401
        ? "You were signed out: reload to sign in. The run goes on."
        : error.status === 404
          ? "This run was deleted."
          : `No longer live: ${error.message}. Reload to see more.`,
    );
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
    this.others.begin();
    if (id === "steps") fill(this.panel, this.steps);
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
      fill(
        this.facts,
        this.spent,
        " · started ",
        time(run.started_at ?? run.created_at),
        ` ${startedBy(run)} · `,
        copyable(run.id, "run id"),
      );
    }
    text(this.spent, spent);
    this.stop.update(run);
    this.drawNotice(run);
    if (connection === "offline" || this.wasOffline) {
      text(
        this.connection,
        connection === "offline" ? "Offline. What you see may be old; it catches up by itself." : "",
      );
      this.wasOffline = connection === "offline";
    }
    if (this.tab === "steps") this.drawSteps();
    else this.others.draw(this.tab);
  }

  /** Another status: what is said, and what can be done. */
  changed(run) {
    if (this.status)
      announce(
        run.status === "cancelled" ? "The run is cancelled." : `The run is ${statusWord(run.status).toLowerCase()}`,
      );
    this.status = run.status;
    setBadge(this.badge, run.status);
    this.setTitle(`${statusWord(run.status)} · ${this.definition.name}`);
    const resume = h("button", { type: "button", onclick: () => this.resume(resume) }, "Resume…");
    const again = h(
      "button",
      {
        type: "button",
        onclick: () =>
          once(again, async () => {
            const made = await post(api(this.place, [this.definition.id, "run"]), { input: run.input });
            go(address(this.place, this.definition.id, "runs", made.id));
          }),
      },
      "Run again",
    );
    const before =
      run.resumed_from &&
      h("a", { class: "button", href: address(this.place, run.workflow_id, "runs", run.id, "compare") }, "Compare");
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
      fill(
        this.noticeText,
        run.cancel
          ? cancelSentence(run)
          : [h("strong", {}, "It failed: "), run.error.message, h("span", { class: "muted" }, ` (${run.error.code})`)],
      );
    }
    fill(this.noticeList, run.status === "cancelling" ? inFlight(run.cancel) : null);
  }

  drawSteps() {
    const { counts } = this.store.run;
    this.nothing.hidden = this.store.nodes.size > 0;
    text(
      this.counts,
      counts.total
        ? ["completed", "running", "failed", "cancelled", "skipped", "pending"]
            .filter((status) => counts[status])
            .map((status) => `${counts[status].toLocaleString()} ${statusWord(status).toLowerCase()}`)
            .join(" · ")
        : "",
    );
    this.tree.draw();
    this.detail.draw();
  }

  /** Show a row of the tree, from another tab. */
  toNode(path) {
    this.open("steps");
    this.tree.choose(path);
    this.choose(path);
  }
}
