// Small parts of many views, and the states that every view has beside its own.

import { Problem } from "./api.js";
import { announce, fill, h, icon } from "./dom.js";

const COPY =
  "M5 2h7a1 1 0 0 1 1 1v8h-1.5V3.5H5zM3 5h6.5a1 1 0 0 1 1 1v7.5a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1m.5 1.5V13H9V6.5z";

/** An id that can be copied. */
export function copyable(id, label = "id") {
  const button = h(
    "button",
    { class: "quiet copy", type: "button", title: `Copy ${label}`, "aria-label": `Copy ${label} ${id}` },
    h("code", {}, id),
    icon(COPY),
  );
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(id);
      announce(`Copied ${label}.`);
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1200);
    } catch {
      getSelection().selectAllChildren(button.firstChild);
      announce("Select and copy it: the browser does not let this page write to the clipboard.");
    }
  });
  return button;
}

/** A page's place in the whole: links, the last entry is where one is. */
export function crumbs(...links) {
  return h(
    "nav",
    { class: "crumbs", "aria-label": "Breadcrumb" },
    h(
      "ol",
      {},
      links.map(([label, href]) =>
        h("li", {}, href ? h("a", { href }, label) : h("span", { "aria-current": "page" }, label)),
      ),
    ),
  );
}

/** A message in place of a part of a view. */
export const message = (title, detail, ...actions) => said("h2", title, detail, actions);

/** A message in place of a whole view. */
export const notice = (title, detail, ...actions) => said("h1", title, detail, actions);

function said(heading, title, detail, actions) {
  return h(
    "div",
    { class: "message" },
    h(heading, { tabindex: -1 }, title),
    detail && h("p", {}, detail),
    actions.length ? h("p", { class: "row" }, actions) : null,
  );
}

/** The address to sign in at, which leads back here. */
export const signInAddress = () =>
  `/.auth/login/aad?post_login_redirect_uri=${encodeURIComponent(location.pathname + location.search)}`;

/** What to show instead of a view that could not be loaded. `again` tries once more. */
export function failure(problem, again) {
  const retry = h("button", { type: "button", onclick: again }, "Try again");
  const home = h("a", { class: "button", href: "/" }, "To the workflows");
  if (!(problem instanceof Problem)) return notice("This view failed", String(problem.message || problem), retry);
  if (problem.status === 0)
    return notice("You are offline", "The service can't be reached. Whatever runs goes on without this page.", retry);
  if (problem.status === 401)
    return notice(
      "You are signed out",
      "Sign in to see your workflows and runs.",
      h("a", { class: "button primary", href: signInAddress() }, "Sign in"),
    );
  if (problem.status === 403) return notice("You may not see this", problem.message, home);
  if (problem.status === 404) return notice("There is nothing here", "It was deleted, or you may not see it.", home);
  if (problem.status === 503) return notice("The service is busy or its store is away", problem.message, retry);
  return notice("Something went wrong", problem.message, retry);
}

/** Load and show a view: nothing for a moment, then that it loads, then what `work` makes, or why it could not. */
export async function loading(root, signal, work) {
  const slow = setTimeout(() => fill(root, h("p", { class: "muted", role: "status" }, "Loading…")), 400);
  try {
    await work();
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    fill(
      root,
      failure(error, () => loading(root, signal, work)),
    );
  } finally {
    clearTimeout(slow);
  }
}

/** Do what a button asks for, once: it can't be pressed again meanwhile. A refusal is shown by `refused`. */
export async function once(button, work, refused = (problem) => tell(problem.message, true)) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") refused(error);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

let telling;

/** A short message at the page's foot, read aloud too. */
export function tell(said, isProblem = false) {
  let foot = document.getElementById("told");
  if (!foot) {
    foot = h("div", { id: "told", role: "status" });
    document.body.append(foot);
  }
  foot.className = isProblem ? "shown problem" : "shown";
  foot.textContent = said;
  clearTimeout(telling);
  telling = setTimeout(() => {
    foot.className = "";
    foot.textContent = "";
  }, 6000);
}

/** A row of tabs. `tabs`: [[id, label]]; `choose(id)` is called on a choice. Answers `{el, select}`. */
export function tabs(label, list, choose) {
  const buttons = list.map(([id, name]) =>
    h(
      "button",
      { role: "tab", type: "button", id: `tab-${id}`, "aria-controls": "panel", onclick: () => choose(id) },
      name,
    ),
  );
  const el = h("div", { role: "tablist", "aria-label": label, class: "tabs", onkeydown: move }, buttons);
  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = buttons.indexOf(document.activeElement);
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  }
  function select(id) {
    for (const button of buttons) {
      const chosen = button.id === `tab-${id}`;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    }
  }
  return { el, select };
}
