"""What must hold of every cancelled run, seen from outside."""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.support.api import ENDED, ModelLog, Run, tokens_after

IN_FLIGHT_SECONDS = 0.1
"""How long after the work stopped a token that was on its way may still be noted."""
STATUSES = ("pending", "running", "completed", "failed", "cancelled", "skipped")


def cancel(run: Run, **body: Any) -> tuple[httpx.Response, float]:
    """Cancel; answers the answer, and when it was there on the clock of the model's log."""
    answer = run.cancel(**body)
    return answer, time.monotonic()


def assert_ended_whole(run: Run) -> dict[str, Any]:
    """An ended run, its tree, its counts, its events, its workflow and its lock agree. Answers the run."""
    whole, tree, types = run.get(), run.executions(), run.types()
    assert whole["status"] in ENDED
    assert [path for path, one in tree.items() if one["status"] in ("pending", "running")] == []
    assert all(one["ended_at"] is not None for one in tree.values() if one["started_at"] is not None)
    counted = {status: sum(one["status"] == status for one in tree.values()) for status in STATUSES}
    assert whole["counts"] == {**counted, "total": len(tree)}
    assert types[-1] == f"run.{whole['status']}"
    assert [one for one in types if one in ("run.completed", "run.failed", "run.cancelled")] == types[-1:]
    assert types.count("run.started") <= 1
    assert types.count("run.cancelling") == (whole["status"] == "cancelled")
    return dict(whole)


def assert_cancelled_whole(run: Run, acknowledged: bool | None = True) -> dict[str, Any]:
    """`assert_ended_whole`, and the receipt is the run's and complete. Answers the receipt."""
    whole, receipt = assert_ended_whole(run), run.receipt()
    assert whole["status"] == "cancelled"
    assert whole["cancel"] == receipt
    assert (receipt["run_id"], receipt["status"]) == (run.id, "cancelled")
    if acknowledged is not None:
        assert receipt["acknowledged"] is acknowledged
    assert receipt["requested_at"] <= receipt["observed_at"] <= receipt["stopped_at"]
    outcomes = {one["outcome"] for one in receipt["in_flight"]}
    assert None not in outcomes
    # An operation that had not stopped is exactly what makes a cancel unacknowledged.
    assert ("abandoned" in outcomes) <= (receipt["acknowledged"] is False)
    return dict(receipt)


def assert_workflow_free(run: Run) -> None:
    """The workflow is idle, remembers this run, and a new run starts at once (and is cancelled again)."""
    runtime = run.workflow.get()["runtime"]
    assert (runtime["status"], runtime["active_run_id"], runtime["last_run_id"]) == ("idle", None, run.id)
    assert runtime["last_run_status"] == run.get()["status"]
    following = run.workflow.start()
    assert following.id != run.id
    following.cancel(force=True)
    following.wait("cancelled", "completed")


def assert_nothing_after(run: Run, model: ModelLog, answered: float) -> list[dict[str, Any]]:
    """No model request began after the cancel's answer, and none got a token once the run read `cancelled`.

    A process that learns of the cancel by its next poll may send the request of an operation that had begun before; the
    receipt then lists it. What had not stopped when the run ended (`acknowledged: false`) may have got tokens; it is
    stopped all the same. Answers the requests.
    """
    run.wait("cancelled")
    assert run.ended_by is not None
    entries, receipt = model.idle(), run.receipt()
    late = [one for one in entries if one["t"] > answered]
    in_flight = [one for one in receipt["in_flight"] if one["kind"] == "model_call"]
    allowed = 0 if model.processes == 1 else len(in_flight)
    assert len(late) <= allowed, f"{len(late)} model requests began after the answer, {allowed} had begun before"
    if receipt["acknowledged"]:
        assert sum(tokens_after(one, run.ended_by + IN_FLIGHT_SECONDS) for one in entries) == 0
    return entries


def assert_promise_kept(
    run: Run, model: ModelLog | None, answered: float, acknowledged: bool | None = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All of the above for a run that reads `cancelled`, and it stays so while the workflow goes on with another run.

    `answered`: when its cancel's answer was there. Answers the receipt and, given a `model`, the run's requests to it.
    """
    receipt = assert_cancelled_whole(run, acknowledged)
    before = run.get(), run.executions(), run.events()
    entries = assert_nothing_after(run, model, answered) if model is not None else []
    assert_workflow_free(run)
    assert (run.get(), run.executions(), run.events()) == before
    return receipt, entries
