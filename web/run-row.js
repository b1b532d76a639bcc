// A run as a row of the history, with Stop while it is active and Resume once it was stopped or failed.

import { api, now } from "./api.js";
import { h, text } from "./dom.js";
import { duration, startedBy, time } from "./format.js";
import { address, go } from "./router.js";
import { ENDED, badge, setBadge } from "./status.js";
import { StopControl } from "./stop.js";

/** The row. `changed(run)`: its Stop was answered. The element has `update(run)`, and `tick()` for what counts time. */
export function runRow(place, first, changed) {
  let run = first;
  const state = badge(run.status);
  const name = h(
    "a",
    { href: address(place, run.workflow_id, "runs", run.id) },
    state,
    h("span", { class: "hidden-text" }, ` run of ${new Date(run.created_at).toLocaleString()}`),
  );
  const spent = h("td", { class: "number" });
  const stop = new StopControl({
    path: () => api(place, [run.workflow_id, "runs", run.id, "cancel"]),
    name: "this run",
    accepted: (receipt) => changed({ ...run, status: receipt.status, cancel: receipt }),
  });
  const resume = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: async () => {
        const { askResume } = await import("./resume.js");
        const made = await askResume(api(place, [run.workflow_id, "runs", run.id, "resume"]), run);
        if (made) go(address(place, made.workflow_id, "runs", made.id));
      },
    },
    "Resume…",
  );
  const compare =
    run.resumed_from && h("a", { href: address(place, run.workflow_id, "runs", run.id, "compare") }, "Compare");
  const why = h("span", { class: "muted" });
  const el = h(
    "tr",
    {},
    h("th", { scope: "row" }, name, why),
    h("td", {}, time(run.started_at ?? run.created_at)),
    spent,
    h("td", {}, startedBy(run)),
    h("td", {}, h("div", { class: "row end" }, compare, resume, stop.el)),
  );
  el.update = (next) => {
    if (ENDED.has(run.status) && !ENDED.has(next.status)) return;
    run = next;
    setBadge(state, run.status);
    text(
      why,
      run.status === "cancelled" && run.cancel
        ? ` by ${run.cancel.requested_by?.name ?? "the service"}`
        : run.error
          ? ` ${run.error.code}`
          : "",
    );
    resume.hidden = !["failed", "cancelled"].includes(run.status);
    stop.update(run);
    el.tick();
  };
  el.tick = () => {
    const from = Date.parse(run.started_at ?? run.created_at);
    text(spent, run.status === "queued" ? "" : duration((run.ended_at ? Date.parse(run.ended_at) : now()) - from));
    if (run.status === "cancelling") stop.update(run);
  };
  return el;
}
