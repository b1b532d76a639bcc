// The page: who is here, where they are, and the view of that address.

import { Problem, get } from "./api.js";
import { fill, h } from "./dom.js";
import { failure, notice, signInAddress } from "./parts.js";
import { address, go, parse, route } from "./router.js";

const VIEWS = {
  workflows: () => import("./view-workflows.js"),
  workflow: () => import("./view-workflow.js"),
  editor: () => import("./view-editor.js"),
  run: () => import("./view-run.js"),
  compare: () => import("./view-compare.js"),
  operators: () => import("./view-operators.js"),
};
const AUTHORS = new Set(["Owner", "Admin"]);
const OPERATOR = "Truestop.Admin";

let me = null;
let groups = [];
let leave = new AbortController();

const nav = h("nav", { "aria-label": "Main", class: "row" });
const who = h("div", { class: "row who" });
const main = h("main", { id: "main", tabindex: -1 });

fill(
  document.getElementById("app"),
  h(
    "header",
    { class: "top" },
    h("a", { class: "brand", href: "/" }, h("span", { class: "brand-mark", "aria-hidden": "true" }), "Truestop"),
    nav,
    h("span", { class: "grow" }),
    who,
  ),
  main,
);

/** Who is here, and in which groups. Raises `Problem`. */
async function meet() {
  me = await get("/api/me");
  try {
    groups = (await get("/api/groups?limit=200")).items;
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    groups = [];
  }
}

function drawTop(found) {
  const place = found.place ?? { kind: "user" };
  const here = place.kind === "group" ? place.id : "";
  const choose = h(
    "select",
    {
      id: "place",
      onchange: (event) => go(event.target.value ? address({ kind: "group", id: event.target.value }) : "/"),
    },
    h("option", { value: "", selected: !here }, "Personal"),
    groups.map((group) => h("option", { value: group.id, selected: here === group.id }, group.name)),
  );
  fill(
    nav,
    h(
      "a",
      { href: here ? address(place) : "/", "aria-current": found.view === "workflows" ? "page" : null },
      "Workflows",
    ),
    me.roles.includes(OPERATOR) &&
      h("a", { href: "/app/operators", "aria-current": found.view === "operators" ? "page" : null }, "Operators"),
  );
  fill(
    who,
    groups.length ? [h("label", { for: "place", class: "hidden-text" }, "Whose workflows"), choose] : null,
    h("span", { class: "muted name" }, me.name),
    h("a", { href: "/.auth/logout?post_logout_redirect_uri=/" }, "Sign out"),
  );
}

/** Whether the reader may write here. The service decides; this only leaves out what it would refuse. */
function mayAuthor(place) {
  if (place?.kind !== "group") return true;
  return AUTHORS.has(groups.find((group) => group.id === place.id)?.role);
}

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const found = parse(location.pathname);
  const root = h("div", { class: `view view-${found.view}` });
  const title = (said) => {
    if (!signal.aborted) document.title = `${said} · Truestop`;
  };
  const moved = main.firstChild !== null;
  try {
    if (!me) await meet();
    drawTop(found);
    fill(main, root);
    if (moved) scrollTo(0, 0);
    if (found.view === "missing") {
      title("Not found");
      fill(
        root,
        notice(
          "There is no such page",
          "The address leads nowhere here.",
          h("a", { class: "button", href: "/" }, "To the workflows"),
        ),
      );
    } else {
      const placeName =
        found.place?.kind === "group"
          ? (groups.find((group) => group.id === found.place.id)?.name ?? "Group")
          : "Workflows";
      const view = await VIEWS[found.view]();
      if (signal.aborted) return;
      await view.show({ ...found, root, signal, title, placeName, author: mayAuthor(found.place) });
    }
    if (moved && !signal.aborted) (root.querySelector("h1") ?? main).focus({ preventScroll: true });
  } catch (error) {
    if (signal.aborted) return;
    const signedOut = error instanceof Problem && error.status === 401;
    if (signedOut) {
      fill(nav);
      fill(who, h("a", { href: signInAddress() }, "Sign in"));
    }
    fill(main, root);
    fill(root, failure(error, show));
    document.title = signedOut ? "Signed out · Truestop" : "Truestop";
  }
}

route(show);
