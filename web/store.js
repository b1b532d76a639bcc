// What is known of a run: its document, its tree, its events. It only ever moves forward, whatever comes twice or late.

import { all, api, get } from "./api.js";
import { batched } from "./dom.js";
import { ENDED } from "./status.js";
import { follow, position } from "./stream.js";

const RANK = { queued: 0, running: 1, cancelling: 2, cancelled: 3, completed: 3, failed: 3, skipped: 3 };
const AGAIN_MS = 1000;

/** A path as a key that sorts as the run goes: numbers by value, not by digit. */
export const sortKey = (path) => path.replace(/\d+/g, (digits) => digits.padStart(5, "0"));

export class RunStore {
  constructor(place, workflowId, runId) {
    this.place = place;
    this.path = (...more) => api(place, [workflowId, "runs", runId, ...more]);
    this.streamPath = api(place, [workflowId, "stream"], { run_id: runId });
    this.id = runId;
    this.clear();
    this.listeners = new Set();
    this.changed = batched(() => this.listeners.forEach((listener) => listener()));
  }

  clear() {
    this.run = null;
    this.nodes = new Map();
    this.children = new Map([["", []]]);
    this.tallies = new Map();
    this.events = [];
    this.eventIds = new Set();
    this.shape = 0;
    this.connection = "live";
  }

  /** Call `listener` after each change, at most once a frame, until `signal` fires. */
  listen(listener, signal) {
    this.listeners.add(listener);
    signal.addEventListener("abort", () => this.listeners.delete(listener));
  }

  /** Load the run and keep it up to date until it has ended. Raises `Problem` if it can't be had. */
  async open(signal) {
    const token = await position(this.streamPath, signal);
    this.applyRun(await get(this.path(), signal));
    const loaded = Promise.all([
      all(this.path("executions"), signal, (page) => page.forEach((one) => this.apply("execution", one))),
      all(this.path("events"), signal, (page) => page.forEach((one) => this.apply("event", one))),
    ]);
    await loaded;
    return token;
  }

  /** Follow the run from `token`, the feed's position before it was loaded. */
  async keepUp(token, signal) {
    for (;;) {
      const end = await follow(this.streamPath, token, {
        signal,
        apply: (type, document) => this.apply(type, document),
        state: (connection) => {
          if (this.connection === connection) return;
          this.connection = connection;
          this.changed();
        },
      });
      if (end !== "restart") return;
      await new Promise((done) => setTimeout(done, AGAIN_MS));
      token = await this.open(signal);
    }
  }

  /** A changed document, as the stream tells it. */
  apply(type, document) {
    if (type === "run" && document.id === this.id) this.applyRun(document);
    else if (type === "execution" && document.id.startsWith(`${this.id}:`)) this.applyNode(document);
    else if (type === "event" && document.run_id === this.id) this.applyEvent(document);
  }

  applyRun(run) {
    if (this.run && RANK[run.status] < RANK[this.run.status]) return;
    this.run = run;
    this.changed();
  }

  /** What a cancel was answered: nobody has to wait for the feed to see it. */
  applyReceipt(receipt) {
    if (this.run) this.applyRun({ ...this.run, status: receipt.status, cancel: receipt });
  }

  applyNode(node) {
    const known = this.nodes.get(node.path);
    if (known && known.attempt > node.attempt) return;
    const parent = node.parent ?? "";
    if (!known) this.insert(parent, node.path);
    if (known?.status !== node.status) this.count(parent, known?.status, node.status);
    this.nodes.set(node.path, { ...node, version: (known?.version ?? 0) + 1 });
    this.changed();
  }

  insert(parent, path) {
    const list = this.children.get(parent) ?? [];
    this.children.set(parent, list);
    const key = sortKey(path);
    let at = list.length;
    while (at > 0 && sortKey(list[at - 1]) > key) at -= 1;
    list.splice(at, 0, path);
    this.shape += 1;
  }

  count(parent, before, after) {
    const tally = this.tallies.get(parent) ?? {};
    if (before) tally[before] -= 1;
    tally[after] = (tally[after] ?? 0) + 1;
    this.tallies.set(parent, tally);
  }

  applyEvent(event) {
    if (this.eventIds.has(event.id)) return;
    this.eventIds.add(event.id);
    let at = this.events.length;
    while (at > 0 && this.events[at - 1].id > event.id) at -= 1;
    this.events.splice(at, 0, event);
    this.changed();
  }

  get ended() {
    return ENDED.has(this.run?.status);
  }

  /** The operation that began last and still runs: what a reader wants to see. */
  latest() {
    let found = null;
    for (const node of this.nodes.values()) {
      if (node.status !== "running" || this.children.get(node.path)?.length) continue;
      if (!found || node.started_at > found.started_at) found = node;
    }
    return found;
  }

  /** The text that a node shows: its own, or that of what runs below it. */
  textOf(path) {
    const node = this.nodes.get(path);
    if (node?.output_preview) return node.output_preview;
    for (const child of this.children.get(path) ?? []) {
      const below = this.nodes.get(child);
      if (below.status === "running" && below.output_preview) return below.output_preview;
    }
    return "";
  }
}
