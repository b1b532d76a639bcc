// A resumed run beside the one that it resumed: what was taken over, what was done again, what came of it.

import { all, api, get } from "./api.js";
import { fill, h } from "./dom.js";
import { took, words } from "./format.js";
import { crumbs, loading } from "./parts.js";
import { table } from "./receipt.js";
import { address } from "./router.js";
import { badge } from "./status.js";
import { sortKey } from "./store.js";

const SHOWN = 400;

/** Show the comparison. */
export function show({ root, place, workflow, run, signal, title }) {
  return loading(root, signal, async () => {
    title("Compare");
    const path = (id, ...more) => api(place, [workflow, "runs", id, ...more]);
    const after = await get(path(run), signal);
    const link = (id, label) => h("a", { href: address(place, workflow, "runs", id) }, label);
    const head = [
      crumbs(
        ["Workflows", address(place)],
        ["Workflow", address(place, workflow)],
        ["Run", address(place, workflow, "runs", run)],
        ["Compare"],
      ),
      h("header", { class: "view-head" }, h("h1", { tabindex: -1 }, "Compared with the run that it resumed")),
    ];
    if (!after.resumed_from) {
      fill(root, head, h("p", {}, "This run resumed no other."));
      return;
    }
    const old = after.resumed_from.run_id ?? after.resumed_from;
    const [before, was, is] = await Promise.all([
      get(path(old), signal),
      all(path(old, "executions"), signal),
      all(path(run, "executions"), signal),
    ]);
    fill(
      root,
      head,
      table(
        ["What", "Before", "After"],
        [
          ["Run", link(before.id, "the run before"), link(after.id, "this run")],
          ["Status", badge(before.status), badge(after.status)],
          ["Took", took(before), took(after)],
          ...["completed", "failed", "cancelled"].map((name) => [
            words(name),
            String(before.counts[name]),
            String(after.counts[name]),
          ]),
        ],
      ),
      h("h2", { class: "gap" }, "Part by part"),
      parts(was, is),
    );
  });
}

function parts(was, is) {
  const before = new Map(was.map((one) => [one.path, one]));
  const after = new Map(is.map((one) => [one.path, one]));
  const paths = [...new Set([...before.keys(), ...after.keys()])].sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
  const rows = paths.slice(0, SHOWN).map((path) => {
    const [one, other] = [before.get(path), after.get(path)];
    return [
      `${"\u00a0\u00a0".repeat((other ?? one).depth)}${(other ?? one).name}`,
      one ? badge(one.status) : "—",
      other ? badge(other.status) : "—",
      difference(one, other),
    ];
  });
  return [
    table(["Part", "Before", "After", "What happened"], rows),
    paths.length > SHOWN && h("p", { class: "muted" }, `The first ${SHOWN} of ${paths.length} parts.`),
  ];
}

function difference(one, other) {
  if (!other) return "Not begun again";
  if (other.reused_from) return h("span", { class: "same" }, "Taken over, not done again");
  if (!one) return "New in this run";
  if (one.output_preview && one.output_preview === other.output_preview) return "Done again, with the same output";
  return other.status === "completed" ? "Done again" : "Begun again";
}
