// One node of the tree, in full: what it was given, what came of it, and how to stop only that.

import { fill, h, text } from "./dom.js";
import { time, took, words } from "./format.js";
import { copyable } from "./parts.js";
import { address, placeOfScope } from "./router.js";
import { badge, setBadge } from "./status.js";
import { stopBranch } from "./stop.js";

const NEAR_END = 24;

export class DetailPanel {
  /** `close()`: somebody closed it. Without a chosen node it follows what runs. */
  constructor(store, close) {
    this.store = store;
    this.path = null;
    this.shownPath = null;
    this.heading = h("h2", { tabindex: -1 });
    this.status = badge("pending");
    this.took = h("span", { class: "muted" });
    this.facts = h("dl", { class: "facts" });
    this.stop = h("button", { type: "button", onclick: () => stopBranch(store.path, this.node()) }, "Stop this part");
    this.error = h("p", { class: "error-text" });
    this.output = h("pre", { class: "output", tabindex: 0, "aria-label": "Output" });
    this.input = h("pre", { class: "output", tabindex: 0, "aria-label": "Input" });
    this.outputBox = h("section", {}, h("h3", {}, "Output"), this.output);
    this.inputBox = h("details", {}, h("summary", {}, "Input"), this.input);
    this.close = h("button", { type: "button", class: "quiet", "aria-label": "Close details", onclick: close }, "✕");
    this.empty = h("p", { class: "muted" }, "Choose a row to see its input, output and errors.");
    this.content = h(
      "div",
      {},
      h("div", { class: "row" }, this.status, this.took, h("span", { class: "grow" }), this.stop),
      this.error,
      this.outputBox,
      this.inputBox,
      this.facts,
    );
    this.el = h(
      "aside",
      { class: "detail", "aria-label": "Details" },
      h("div", { class: "row" }, this.heading, h("span", { class: "grow" }), this.close),
      this.empty,
      this.content,
    );
  }

  /** Show the node at `path`; null: whatever runs. */
  show(path, focus = false) {
    this.path = path;
    this.draw();
    if (focus) this.heading.focus({ preventScroll: true });
  }

  node() {
    if (this.path) return this.store.nodes.get(this.path) ?? null;
    const latest = this.store.ended ? null : this.store.latest();
    return latest ?? this.store.nodes.get(this.shownPath) ?? null; // what was followed stays: nothing jumps at the end
  }

  draw() {
    const node = this.node();
    this.el.classList.toggle("chosen", Boolean(this.path));
    this.close.hidden = !this.path;
    this.empty.hidden = Boolean(node);
    this.content.hidden = !node;
    text(this.heading, node ? (this.path || node.status !== "running" ? node.name : `Now: ${node.name}`) : "Details");
    if (!node) return;
    if (this.shownPath !== node.path || this.attempt !== node.attempt) this.begin(node);
    setBadge(this.status, node.status);
    text(this.took, took(node));
    const run = this.store.run;
    this.stop.hidden =
      run.status !== "running" || !["running", "pending"].includes(node.status) || Boolean(node.cancel);
    this.error.hidden = !node.error;
    text(this.error, node.error ? `${node.error.message} (${node.error.code})` : "");
    this.drawText(node);
    if (this.version !== node.version) this.drawFacts(node);
    this.version = node.version;
  }

  begin(node) {
    this.shownPath = node.path;
    this.attempt = node.attempt;
    this.version = null;
    this.output.textContent = "";
    this.input.textContent = node.input_preview ?? "";
    this.inputBox.hidden = !node.input_preview;
  }

  /** Add what is new of the text; a reader who is at its end stays there. */
  drawText(node) {
    const said = this.store.textOf(node.path);
    const had = this.output.textContent;
    this.outputBox.hidden = !said;
    if (said === had) return;
    const atEnd = this.output.scrollHeight - this.output.scrollTop - this.output.clientHeight < NEAR_END;
    if (said.startsWith(had) && had) this.output.append(said.slice(had.length));
    else this.output.textContent = said;
    if (atEnd && node.status === "running") this.output.scrollTop = this.output.scrollHeight;
  }

  drawFacts(node) {
    const facts = [
      ["Kind", words(node.kind)],
      ["Path", copyable(node.path, "path")],
      node.attempt > 1 && ["Attempt", String(node.attempt)],
      node.started_at && ["Began", time(node.started_at)],
      node.ended_at && ["Ended", time(node.ended_at)],
      node.reused_from && ["Taken over from", copyable(String(node.reused_from.run_id ?? node.reused_from), "run")],
      node.cancel && ["Stopped by", node.cancel.requested_by?.name ?? words(node.cancel.source ?? "the run")],
      node.cancel?.reason && ["Reason", node.cancel.reason],
      node.child && ["Child run", childLink(node.child)],
      ...node.side_effects.map((effect) => [words(effect.kind), `${effect.what}${effect.done ? "" : " (perhaps)"}`]),
    ];
    fill(
      this.facts,
      facts.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    );
  }
}

function childLink(child) {
  const href = address(placeOfScope(child.scope), child.workflow_id, "runs", child.run_id);
  return h("a", { href }, child.run_id);
}
