// The live feed: windows of server-sent events, one request each, from the last id on. Nothing is lost or doubled: an id
// counts only once its event was applied, and the next window begins right after it. Closing it cancels nothing.

import { Problem, call, withQuery } from "./api.js";

const WINDOW_MS = 40_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const GONE = new Set([400, 401, 403, 404]);

/** The events of a window: `{events: [{type, id, data}], retry}`. One without its blank line was cut short: it comes again. */
export function read(content) {
  const events = [];
  let retry = null;
  const blocks = content.replaceAll("\r\n", "\n").split("\n\n");
  blocks.pop();
  for (const block of blocks) {
    const found = { type: "message", id: null, data: [] };
    for (const line of block.split("\n")) {
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "data") found.data.push(value);
      else if (field === "event") found.type = value;
      else if (field === "id") found.id = value;
      else if (field === "retry" && /^\d+$/.test(value)) retry = Number(value);
    }
    if (found.id !== null || found.data.length) events.push({ ...found, data: found.data.join("\n") });
  }
  return { events, retry };
}

/** Where the feed is now: a window that is answered at once. */
export async function position(path, signal) {
  const { data } = await call("GET", path, { signal, raw: true });
  return read(data).events.findLast((one) => one.id !== null)?.id ?? null;
}

/**
 * Follow `path` from `token` on: `apply(type, document)` for each change, `state("live" | "offline" | "paused")`.
 * Ends with "ended" when all of a run that ended was told, "restart" when the service no longer knows the token.
 */
export async function follow(path, token, { apply, state, signal }) {
  let pause = 0;
  let failures = 0;
  for (;;) {
    await rest(pause, signal);
    await visible(state, signal);
    if (signal.aborted) return "aborted";
    try {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(WINDOW_MS)]);
      const answer = await call("GET", withQuery(path, {}), {
        signal: limit,
        raw: true,
        headers: token ? { "Last-Event-ID": token } : {},
      });
      state("live");
      failures = 0;
      if (answer.status === 204) return "ended";
      const { events, retry } = read(answer.data);
      for (const one of events) {
        if (one.data) apply(one.type, JSON.parse(one.data));
        token = one.id ?? token;
      }
      pause = retry ?? 200;
    } catch (error) {
      if (signal.aborted) return "aborted";
      if (error instanceof Problem && error.status === 422) return "restart";
      if (error instanceof Problem && GONE.has(error.status)) throw error;
      if (failures++) state("offline"); // one window that was cut is no news
      pause = Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS) * (0.75 + Math.random() / 2);
    }
  }
}

/** Wait until the page is looked at: a hidden one needs no news, and browsers allow few connections at once. */
function visible(state, signal) {
  if (!document.hidden) return Promise.resolve();
  state("paused");
  return event([document, "visibilitychange"], signal);
}

/** Wait for a time; less if the network comes back. */
function rest(ms, signal) {
  if (!ms) return Promise.resolve();
  let timer;
  const passed = new Promise((done) => {
    timer = setTimeout(done, ms);
  });
  return Promise.race([passed, event([window, "online"], signal)]).finally(() => clearTimeout(timer));
}

function event([target, name], signal) {
  return new Promise((done) => {
    target.addEventListener(name, done, { once: true, signal });
    signal.addEventListener("abort", done, { once: true });
  });
}
