// The API: every request of the page goes through here.

/** What the service answered when it refused; status 0: it could not be reached. */
export class Problem extends Error {
  constructor(status, body) {
    super((body && body.detail) || `the service answered ${status}`);
    this.status = status;
    this.body = body || {};
    this.code = this.body.code || (status === 0 ? "offline" : "unknown");
    this.errors = this.body.errors || [];
  }
}

let skew = 0;

/** Now, by the service's clock, in milliseconds: durations are counted from moments that it wrote. */
export const now = () => Date.now() + skew;

function noteClock(headers) {
  const said = Date.parse(headers.get("date") || "");
  const found = said + 500 - Date.now();
  skew = Number.isNaN(said) || Math.abs(found) < 2000 ? 0 : found;
}

/** A request. Answers `{status, data, headers}`; raises `Problem`, and `AbortError` when `signal` fired. */
export async function call(method, path, { body, headers, signal, raw } = {}) {
  const sent = { "X-Requested-With": "truestop", "X-Truestop-Source": "page", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let answer, content;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      redirect: "error",
    });
    content = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the service can't be reached" });
  }
  noteClock(answer.headers);
  if (!answer.ok) throw new Problem(answer.status, parsed(content));
  return { status: answer.status, headers: answer.headers, data: raw ? content : parsed(content) };
}

function parsed(content) {
  try {
    return content ? JSON.parse(content) : null;
  } catch {
    return null;
  }
}

/** The body of a GET. */
export const get = async (path, signal) => (await call("GET", path, { signal })).data;

/** The body of a POST. */
export const post = async (path, body, signal) => (await call("POST", path, { body, signal })).data;

/** Every entry of a list, page by page; `each` sees each page as it comes. At most `most` entries. */
export async function all(path, signal, each = () => {}, most = 20000) {
  const found = [];
  let after = null;
  do {
    const page = await get(withQuery(path, { limit: 200, after }), signal);
    found.push(...page.items);
    each(page.items);
    after = page.next;
  } while (after !== null && found.length < most);
  return found;
}

/** A path with a query; null, undefined and "" are left out. */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (!given.length) return path;
  return path + (path.includes("?") ? "&" : "?") + new URLSearchParams(given);
}

/** A path below the workflows of a place: `{kind: "user"}` or `{kind: "group", id}`. */
export function api(place, parts = [], query = {}) {
  const path = [`/api/${place.kind}/workflows`, ...parts.map(encodeURIComponent)].join("/");
  return withQuery(path, place.kind === "group" ? { group_id: place.id, ...query } : query);
}
