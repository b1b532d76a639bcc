// Stop: asked for once, believed only when it is true. "Stopping…" is not "Cancelled".

import { Problem, now, post } from "./api.js";
import { announce, fill, h, text } from "./dom.js";
import { duration } from "./format.js";
import { tell } from "./parts.js";
import { ENDED, statusWord } from "./status.js";

const FORCE = {
  title: "Force this run to end?",
  detail:
    "It waits for work that has not stopped in its grace period. Forced, the run ends now as cancelled and nothing late can change it, but what still works may go on for a while outside: the receipt will name it.",
  yes: "Force it to end",
  no: "Keep waiting",
};
const RUN = {
  title: "Stop this run?",
  detail:
    "No further step, model call or tool begins once the service answers. What is in flight is stopped, or waited for. Text and artifacts that are there are kept.",
  yes: "Stop run",
  no: "Keep running",
};
const BRANCH = {
  title: "Stop only this part?",
  detail: "It and what is below it stop. The rest of the run goes on.",
  yes: "Stop this part",
  no: "Keep running",
};

/** Ask, then POST `path`. Answers the service's answer, or null. `watch` gets a function that tells the dialog of changes. */
function ask(what, path, body, watch = () => {}) {
  return new Promise((done) => {
    let answer = null;
    let busy = false;
    const reason = h("textarea", { id: "stop-reason", rows: 2, maxlength: 1000, autocomplete: "off" });
    const note = h("p", { class: "note", role: "alert" });
    const no = h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, what.no);
    const yes = h("button", { type: "submit", class: "primary" }, what.yes);
    const form = h(
      "form",
      { method: "dialog", onsubmit: send },
      h("h2", { id: "stop-title" }, what.title),
      h("p", {}, what.detail),
      h("label", { for: "stop-reason" }, "Reason ", h("span", { class: "muted" }, "(optional)")),
      reason,
      note,
      h("div", { class: "row end" }, no, yes),
    );
    const dialog = h("dialog", { "aria-labelledby": "stop-title", class: "stop-dialog", onclose: end }, form);
    const update = (run) => {
      if (busy || answer || (!ENDED.has(run.status) && (run.status !== "cancelling" || what === FORCE))) return;
      const by = run.cancel?.requested_by?.name;
      note.textContent =
        run.status === "cancelling" || run.status === "cancelled"
          ? `${by || "Somebody"} has asked for this already.`
          : `It has ended by itself: ${statusWord(run.status).toLowerCase()}.`;
      yes.remove();
      no.textContent = "Close";
    };

    async function send(event) {
      event.preventDefault();
      if (busy) return;
      busy = true;
      set(true);
      try {
        answer = await post(path, { ...body, ...(reason.value.trim() ? { reason: reason.value.trim() } : {}) });
        dialog.close();
      } catch (error) {
        busy = false;
        set(false);
        if (error instanceof Problem && error.code === "run_already_finished") {
          update({ status: error.body.state || "completed" });
        } else {
          note.textContent =
            error.status === 0
              ? "The service can't be reached, so nothing is certain: the run may still be going. Try again."
              : `It was not accepted: ${error.message}`;
        }
      }
    }
    function set(sending) {
      yes.setAttribute("aria-disabled", String(sending));
      yes.textContent = sending ? "Asking…" : what.yes;
      reason.disabled = sending;
    }
    function end() {
      dialog.remove();
      watch(null);
      done(answer);
    }
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
    watch(update);
  });
}

/** Stop one branch. Says what of the run goes on. */
export async function stopBranch(runPath, node) {
  const answer = await ask(
    { ...BRANCH, title: `Stop only “${node.name}”?` },
    runPath("executions", node.path, "cancel"),
    {},
  );
  if (!answer) return;
  const left = answer.remaining_active_in_run;
  tell(
    answer.run_status === "running"
      ? `“${node.name}” stops. The run goes on${left ? `, with ${left} ${left === 1 ? "operation" : "operations"} at work` : ""}.`
      : "The whole run is being stopped.",
  );
}

/** A Stop button that follows its run: `Stop`, then "Stopping…" with its time, then nothing. */
export class StopControl {
  /** `path()`: where to POST; `accepted(receipt)`: what to do with the answer; `name`: of what is stopped, for who can't see. */
  constructor({ path, accepted, name }) {
    this.path = path;
    this.accepted = accepted;
    this.button = h(
      "button",
      { type: "button", class: "stop", "aria-label": `Stop ${name}`, onclick: () => this.open() },
      "Stop",
    );
    this.stopping = h("span", { class: "stopping" });
    this.force = h("button", { type: "button", class: "stop", onclick: () => this.open(true) }, "Force…");
    this.el = h("span", { class: "stop-control" });
    this.tellDialog = null;
    this.asking = false;
    this.shown = "";
  }

  async open(force = false) {
    if (this.asking) return;
    this.asking = true;
    const watch = (update) => {
      this.tellDialog = update;
      if (update) update(this.run);
    };
    const receipt = await ask(force ? FORCE : RUN, this.path(), force ? { force: true } : {}, watch);
    this.asking = false;
    if (!receipt) {
      this.show();
      return;
    }
    announce(receipt.status === "cancelled" ? "Cancelled." : "Stopping.");
    this.update({ ...this.run, status: receipt.status, cancel: receipt });
    this.accepted(receipt);
  }

  /** What is known of the run: `{status, cancel}`. */
  update(run) {
    this.run = run;
    this.tellDialog?.(run);
    this.show();
  }

  show() {
    const { status, cancel } = this.run;
    const since = cancel ? now() - Date.parse(cancel.requested_at) : 0;
    const late = Boolean(cancel) && since > cancel.grace_seconds * 1000 + 1000;
    const mode =
      status === "queued" || status === "running"
        ? "stop"
        : status === "cancelling"
          ? late
            ? "force"
            : "stopping"
          : "";
    if (mode !== this.shown) {
      const had = this.el.contains(document.activeElement);
      fill(this.el, { stop: this.button, stopping: this.stopping, force: [this.stopping, this.force], "": "" }[mode]);
      if (had && mode) (this.el.querySelector("button") ?? focusable(this.stopping)).focus();
      this.shown = mode;
    }
    text(this.stopping, cancel ? `Stopping… ${duration(since)}` : "Stopping…");
  }
}

function focusable(el) {
  el.tabIndex = -1;
  return el;
}
