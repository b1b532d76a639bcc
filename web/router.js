// Addresses of the page. Each thing has one, so that it can be sent to somebody.
//
//   /                                     personal workflows
//   /app/{place}/workflows                place: user, or groups/{id}
//   /app/{place}/workflows/new            also .../{id}, .../{id}/edit
//   /app/{place}/workflows/{id}/runs/{id} also .../compare
//   /app/operators

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** What a path shows: `{view, place, workflow, run}`; the view is "missing" for what is no address of ours. */
export function parse(path) {
  const parts = path.split("/").filter(Boolean).map(decodePart);
  if (!parts.length) return { view: "workflows", place: { kind: "user" } };
  if (parts.shift() !== "app") return { view: "missing" };
  if (parts[0] === "operators" && parts.length === 1) return { view: "operators" };
  const place = placeOf(parts);
  if (!place || parts.shift() !== "workflows" || !parts.every((part) => ID.test(part))) return { view: "missing" };
  const [workflow, what, run, more] = parts;
  if (!workflow) return { view: "workflows", place };
  if (workflow === "new" && !what) return { view: "editor", place };
  if (!what) return { view: "workflow", place, workflow };
  if (what === "edit" && !run) return { view: "editor", place, workflow };
  if (what !== "runs" || !run || parts.length > 4) return { view: "missing" };
  if (!more) return { view: "run", place, workflow, run };
  return more === "compare" ? { view: "compare", place, workflow, run } : { view: "missing" };
}

function decodePart(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

function placeOf(parts) {
  const kind = parts.shift();
  if (kind === "user") return { kind };
  const id = kind === "groups" ? parts.shift() : undefined;
  return id && ID.test(id) ? { kind: "group", id } : null;
}

/** The address of something in a place. */
export function address(place, ...parts) {
  const where = place.kind === "user" ? "user" : `groups/${encodeURIComponent(place.id)}`;
  return [`/app/${where}/workflows`, ...parts.map(encodeURIComponent)].join("/");
}

/** The place of a document's scope. */
export function placeOfScope(scope) {
  const [kind, id] = scope.split(/:(.*)/s);
  return kind === "user" ? { kind } : { kind, id };
}

/** Go to an address of the page, unless the view asks to stay. */
export function go(path) {
  if (!dispatchEvent(new Event("truestop:leave", { cancelable: true }))) return;
  history.pushState(null, "", path);
  dispatchEvent(new Event("truestop:address"));
}

/** Set a parameter of the address without leaving the view; null removes it. */
export function setQuery(name, value) {
  const url = new URL(location.href);
  if (value === null || value === "") url.searchParams.delete(name);
  else url.searchParams.set(name, value);
  history.replaceState(null, "", url);
}

/** A parameter of the address. */
export const query = (name) => new URLSearchParams(location.search).get(name);

/** Call `show` now, and whenever the address changes. Links of the page don't load it anew. */
export function route(show) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (
      !link ||
      event.defaultPrevented ||
      event.button ||
      event.metaKey ||
      event.ctrlKey ||
      event.shiftKey ||
      event.altKey
    )
      return;
    const url = new URL(link.href);
    const ours = url.origin === location.origin && (url.pathname === "/" || url.pathname.startsWith("/app/"));
    if (!ours || link.target || link.hasAttribute("download") || link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    go(url.pathname + url.search);
  });
  addEventListener("popstate", show);
  addEventListener("truestop:address", show);
  show();
}
