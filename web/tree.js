// The run's tree beside its time line. Only the rows in sight exist, so thousands cost what dozens do.

import { now } from "./api.js";
import { h, set, text } from "./dom.js";
import { took, words } from "./format.js";
import { progressOf, snippet } from "./row-words.js";
import { statusIcon, statusWord } from "./status.js";

const OVERSCAN = 6;
const FOLD_OVER = 50;

export class TreeView {
  /** `select(path)`: somebody chose a row. */
  constructor(store, select) {
    this.store = store;
    this.select = select;
    this.folded = new Map();
    this.rows = [];
    this.drawn = new Map();
    this.active = null;
    this.chosen = null;
    this.shape = -1;
    this.narrow = matchMedia("(max-width: 700px)");
    this.el = h("div", {
      role: "tree",
      tabindex: 0,
      class: "tree",
      "aria-label": "Steps of the run",
      onkeydown: (event) => this.key(event),
      onclick: (event) => this.click(event),
      onfocus: () => this.activate(this.active ?? this.rows[0]?.path, false),
    });
  }

  get rowHeight() {
    return this.narrow.matches ? 48 : 36;
  }

  isFolded(path) {
    const said = this.folded.get(path);
    if (said !== undefined) return said;
    const node = this.store.nodes.get(path);
    return node.kind === "item" || (this.store.children.get(path)?.length ?? 0) > FOLD_OVER;
  }

  fold(path, folded) {
    this.folded.set(path, folded);
    this.shape = -1;
    this.draw();
  }

  /** Choose a row, as if it had been clicked; what is above it is unfolded. */
  choose(path) {
    this.chosen = path;
    for (let up = this.store.nodes.get(path)?.parent; up; up = this.store.nodes.get(up)?.parent)
      this.folded.set(up, false);
    this.shape = -1;
    this.draw();
  }

  flatten() {
    this.rows = [];
    const walk = (parent, level) => {
      const list = this.store.children.get(parent) ?? [];
      list.forEach((path, i) => {
        this.rows.push({ path, level, position: i + 1, of: list.length });
        if (this.store.children.get(path)?.length && !this.isFolded(path)) walk(path, level + 1);
      });
    };
    walk("", 1);
    this.shape = this.store.shape;
  }

  /** Draw what changed of the rows in sight. */
  draw() {
    if (this.shape !== this.store.shape) this.flatten();
    const height = this.rowHeight;
    this.el.style.height = `${this.rows.length * height}px`;
    const top = this.el.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - OVERSCAN);
    const last = Math.min(this.rows.length, Math.ceil((innerHeight - top) / height) + OVERSCAN);
    const span = this.span();
    const kept = new Set();
    for (let i = first; i < last; i += 1) {
      const row = this.rows[i];
      kept.add(row.path);
      const el = this.drawn.get(row.path) ?? this.make(row.path);
      this.place(el, row, i * height);
      this.update(el, row, span);
    }
    const active = this.active;
    for (const [path, el] of this.drawn) {
      if (kept.has(path)) continue;
      el.remove();
      this.drawn.delete(path);
    }
    set(this.el, { "aria-activedescendant": active && kept.has(active) ? idOf(active) : null });
  }

  span() {
    const { run } = this.store;
    const from = Date.parse(run.started_at ?? run.created_at);
    return { from, length: Math.max(1000, (run.ended_at ? Date.parse(run.ended_at) : now()) - from) };
  }

  make(path) {
    const parts = {
      said: h("span", { class: "hidden-text" }),
      twist: h("span", { class: "twist" }),
      mark: h("span", { class: "mark" }),
      name: h("span", { class: "node-name" }),
      kind: h("span", { class: "kind" }),
      progress: h("span", { class: "progress" }),
      snippet: h("span", { class: "snippet" }),
      bar: h("span", { class: "bar" }),
      took: h("span", { class: "took", "aria-hidden": "true" }),
    };
    const el = h(
      "div",
      { role: "treeitem", id: idOf(path), class: "node" },
      parts.said,
      h(
        "span",
        { class: "label", "aria-hidden": "true" },
        parts.twist,
        parts.mark,
        parts.name,
        parts.kind,
        parts.progress,
        parts.snippet,
      ),
      h("span", { class: "lane", "aria-hidden": "true" }, parts.bar),
      parts.took,
    );
    el.parts = parts;
    el.dataset.path = path;
    this.drawn.set(path, el);
    this.el.append(el);
    return el;
  }

  place(el, row, y) {
    const where = `${y},${row.level},${row.position},${row.of},${this.chosen === row.path},${this.active === row.path}`;
    if (el.where === where) return;
    el.where = where;
    el.style.transform = `translateY(${y}px)`;
    el.style.setProperty("--level", row.level - 1);
    set(el, {
      "aria-level": row.level,
      "aria-posinset": row.position,
      "aria-setsize": row.of,
      "aria-selected": String(this.chosen === row.path),
    });
    el.classList.toggle("active", this.active === row.path);
  }

  update(el, row, span) {
    const { parts } = el;
    const node = this.store.nodes.get(row.path);
    const inner = this.store.children.get(row.path)?.length ?? 0;
    const folded = inner > 0 && this.isFolded(row.path);
    const state = `${node.status},${inner > 0},${folded}`;
    if (el.state !== state) {
      el.state = state;
      parts.mark.replaceChildren(statusIcon(node.status));
      text(parts.twist, inner ? (folded ? "▸" : "▾") : "");
      set(el, { "aria-expanded": inner ? String(!folded) : null });
      el.dataset.status = node.status;
      parts.bar.className = `bar bar-${node.status}`;
      text(parts.said, `${node.name}, ${words(node.kind)}, ${statusWord(node.status)}`);
    }
    text(parts.name, node.name);
    text(parts.kind, node.kind === "step" || node.kind === "item" ? "" : words(node.kind).toLowerCase());
    text(parts.progress, inner > 1 && node.kind === "step" ? progressOf(this.store.tallies.get(row.path), inner) : "");
    text(parts.snippet, inner && !folded ? "" : snippet(node, this.store.textOf(row.path)));
    text(parts.took, took(node));
    this.drawBar(parts.bar, node, span);
  }

  drawBar(bar, node, span) {
    const from = node.started_at ? (Date.parse(node.started_at) - span.from) / span.length : null;
    const to = node.ended_at ? (Date.parse(node.ended_at) - span.from) / span.length : 1;
    const where = from === null || !node.started_at ? "" : `${(from * 100).toFixed(2)},${(to * 100).toFixed(2)}`;
    if (bar.where === where) return;
    bar.where = where;
    bar.hidden = !where;
    bar.style.left = `${Math.max(0, from * 100)}%`;
    bar.style.width = `${Math.max(0.4, Math.min(1, to) * 100 - Math.max(0, from) * 100)}%`;
  }

  click(event) {
    const el = event.target.closest("[role=treeitem]");
    if (!el) return;
    const { path } = el.dataset;
    if (event.target.closest(".twist") && this.store.children.get(path)?.length) this.fold(path, !this.isFolded(path));
    else this.pick(path);
  }

  pick(path) {
    this.active = this.chosen = path;
    this.select(path);
    this.draw();
  }

  activate(path, scroll = true) {
    if (!path) return;
    this.active = path;
    const at = this.rows.findIndex((row) => row.path === path);
    const y = this.el.getBoundingClientRect().top + at * this.rowHeight;
    if (scroll && (y < 80 || y > innerHeight - 100)) scrollBy(0, y - innerHeight / 2);
    this.draw();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.rows.findIndex((row) => row.path === this.active);
    const row = this.rows[at];
    const inner = row && this.store.children.get(row.path)?.length > 0;
    const moves = {
      ArrowDown: () => this.activate(this.rows[Math.min(at + 1, this.rows.length - 1)]?.path),
      ArrowUp: () => this.activate(this.rows[Math.max(at - 1, 0)]?.path),
      Home: () => this.activate(this.rows[0]?.path),
      End: () => this.activate(this.rows.at(-1)?.path),
      ArrowRight: () =>
        inner && (this.isFolded(row.path) ? this.fold(row.path, false) : this.activate(this.rows[at + 1]?.path)),
      ArrowLeft: () =>
        row &&
        (inner && !this.isFolded(row.path)
          ? this.fold(row.path, true)
          : this.activate(this.store.nodes.get(row.path).parent)),
      Enter: () => row && this.pick(row.path),
      " ": () => row && this.pick(row.path),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }
}

const idOf = (path) => `node-${path}`;
