// The parts of a run beside its tree: events, artifacts, the receipt, input and output.

import { get } from "./api.js";
import { fill, h, keyed, text } from "./dom.js";
import { count, size, time, words } from "./format.js";
import { receiptView } from "./receipt.js";
import { ENDED } from "./status.js";

const EVENTS_SHOWN = 200;

export class RunTabs {
  /** Draws into `panel`; `toNode(path)`: somebody wants to see a row of the tree. */
  constructor(store, panel, toNode) {
    Object.assign(this, { store, panel, toNode, drawn: null });
  }

  /** Another tab is opened: nothing of it is there yet. */
  begin() {
    this.drawn = null;
  }

  /** Draw the tab, if what it shows has changed. */
  draw(tab) {
    this[tab]();
  }

  follow(click, path) {
    if (click.ctrlKey || click.metaKey || click.shiftKey) return;
    click.preventDefault();
    this.toNode(path);
  }

  events() {
    const { events } = this.store;
    if (this.drawn === events.length) return;
    this.drawn = events.length;
    this.list ??= h("ol", { class: "events", reversed: true });
    const shown = events.slice(-EVENTS_SHOWN).reverse();
    const left = events.length - shown.length;
    if (this.list.parentElement !== this.panel) fill(this.panel, this.list, h("p", { class: "muted" }));
    keyed(
      this.list,
      shown,
      (event) => event.id,
      (event) => this.eventRow(event),
      () => {},
    );
    text(
      this.panel.lastChild,
      left > 0
        ? `The last ${EVENTS_SHOWN} of ${count(events.length, "event")}.`
        : events.length
          ? ""
          : "There are no events yet.",
    );
  }

  eventRow(event) {
    const path = event.execution_id?.split(":")[1];
    const node = this.store.nodes.get(path);
    const data = Object.entries(event.data ?? {}).filter(([, value]) => value !== null && value !== "");
    return h(
      "li",
      {},
      time(event.at),
      h("span", {}, words(event.type)),
      path
        ? h(
            "a",
            { href: `?node=${encodeURIComponent(path)}`, onclick: (click) => this.follow(click, path) },
            node?.name ?? path,
          )
        : null,
      data.length
        ? h(
            "code",
            {},
            data
              .map(
                ([name, value]) =>
                  `${name}: ${typeof value === "object" ? (value.name ?? JSON.stringify(value)) : value}`,
              )
              .join(", ")
              .slice(0, 300),
          )
        : null,
    );
  }

  artifacts() {
    const done = [...this.store.nodes.values()].filter((node) =>
      node.side_effects.some((effect) => effect.kind === "artifact"),
    );
    const key = done.map((node) => `${node.path}${node.version}`).join();
    if (this.drawn === key) return;
    this.drawn = key;
    get(this.store.path("artifacts")).then(
      ({ items }) => {
        if (this.drawn !== key) return;
        fill(
          this.panel,
          items.length
            ? h(
                "ul",
                { class: "artifacts" },
                items.map((one) =>
                  h(
                    "li",
                    {},
                    h("a", { href: this.artifactAddress(one.path), download: one.path.split("/").at(-1) }, one.path),
                    h("span", { class: "muted" }, ` ${size(one.size)} · `, time(one.at)),
                  ),
                ),
              )
            : h(
                "p",
                { class: "muted" },
                ENDED.has(this.store.run.status)
                  ? "The run wrote no artifact."
                  : "The run has written no artifact yet.",
              ),
        );
      },
      (error) => fill(this.panel, h("p", { class: "error-text" }, error.message)),
    );
  }

  artifactAddress(path) {
    const [base, rest] = this.store.path("artifacts").split("?");
    return `${base}/${path.split("/").map(encodeURIComponent).join("/")}${rest ? `?${rest}` : ""}`;
  }

  receipt() {
    const key = JSON.stringify([this.store.run.status, this.store.run.cancel]);
    if (this.drawn === key) return;
    this.drawn = key;
    fill(this.panel, receiptView(this.store.run));
  }

  input() {
    const { run } = this.store;
    const key = JSON.stringify([run.input, run.output_preview]);
    if (this.drawn === key) return;
    this.drawn = key;
    const shown = (value) =>
      value === null || value === undefined
        ? h("p", { class: "muted" }, "None.")
        : h(
            "pre",
            { class: "output", tabindex: 0 },
            typeof value === "string" ? value : JSON.stringify(value, null, 2),
          );
    fill(this.panel, h("h2", {}, "Input"), shown(run.input), h("h2", {}, "Output"), shown(run.output_preview));
  }
}
