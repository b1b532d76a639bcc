// The filters of a history: kept in the address, so that they can be sent to somebody.

import { h } from "./dom.js";
import { words } from "./format.js";
import { query } from "./router.js";

const STATUSES = ["running", "cancelling", "completed", "failed", "cancelled", "skipped", "queued"];
const TRIGGERS = ["manual", "schedule", "file_sync", "child_run", "request"];

/** Whether any is set. */
export const filtered = () => ["status", "trigger", "from", "to"].some((name) => query(name));

/** The inputs. `filter(name, value)`: one was changed. */
export function historyFilters(filter) {
  const choose = (name, label, options) =>
    h(
      "label",
      { class: "row" },
      label,
      h(
        "select",
        { onchange: (event) => filter(name, event.target.value) },
        h("option", { value: "" }, "All"),
        options.map((one) => h("option", { value: one, selected: query(name) === one }, words(one))),
      ),
    );
  const day = (name, label) =>
    h(
      "label",
      { class: "row" },
      label,
      h("input", {
        type: "date",
        value: query(name) ?? "",
        onchange: (event) => filter(name, event.target.value),
      }),
    );
  return h(
    "div",
    { class: "row filters" },
    choose("status", "Status", STATUSES),
    choose("trigger", "Started by", TRIGGERS),
    day("from", "From"),
    day("to", "To"),
  );
}
