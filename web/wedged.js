// What seems stuck, for operators.

import { h } from "./dom.js";
import { duration, time, words } from "./format.js";
import { copyable } from "./parts.js";
import { table } from "./receipt.js";

const HEADS = ["What", "Run", "Whose", "How long"];

/** The service's answer as a table. */
export function wedgedView({ cancelling, leases, operations }) {
  const rows = [
    ...cancelling.map((one) => [
      "Not settled after its grace",
      one,
      `${duration(one.seconds_late * 1000)} late, ${one.in_flight} in flight`,
    ]),
    ...leases.map((one) => ["Its lease has expired", one, `${duration(one.seconds_late * 1000)} ago`]),
    ...operations.map((one) => [`${words(one.kind)} ${one.name} takes long`, one, ["since ", time(one.started_at)]]),
  ];
  if (!rows.length) return h("p", { class: "muted" }, "Nothing seems stuck.");
  const shown = rows.map(([what, one, long]) => [what, copyable(one.run_id, "run id"), one.scope, long]);
  return [h("h2", {}, "What seems stuck"), table(HEADS, shown)];
}
