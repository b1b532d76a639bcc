"""How a run begins and ends, as its orchestrator asks."""

from __future__ import annotations

from typing import Any

from shared.executions import RunRef, step_path
from shared.names import OUTCOME_GRACE_EXPIRED, CancelSource
from shared.resume import copy_finished
from shared.runs import CancelRequest, request_cancel
from shared.services import Services
from shared.settling import end_run, settle
from shared.starting import begin_run
from shared.states import RunStatus
from shared.steps import shape_of

GRACE_EXPIRED = CancelRequest(
    {"id": "system", "name": "System"}, CancelSource.RECONCILE, "the grace is over", force=True
)
"""Cancels again what is cancelling already, its child runs included, now by force. The first request's facts stay."""


async def begin(services: Services, ref: RunRef) -> dict[str, Any]:
    """Begin the run. Answers `status`, and when it runs its plan: the steps as the pipeline needs them."""
    run = await services.store.get(ref.partition, ref.run_id)
    if run["status"] == RunStatus.QUEUED and run["resume"] is not None:
        await copy_finished(services, run)
    run = await begin_run(services, ref, run)
    if run["status"] == RunStatus.CANCELLING:  # before it began, or by the time of a redelivery
        run = await settle(services, ref)
    plan = [
        {
            "path": step_path(i),
            "shape": shape_of(step["kind"]),
            "timeout_seconds": step.get("timeout_seconds"),
            "on_error": step.get("on_error", "stop"),
            "on_cancelled": step.get("on_cancelled", "continue"),
        }
        for i, step in enumerate(run["definition"]["steps"])
    ]
    return {"status": run["status"], "steps": plan, "grace_seconds": run["definition"]["grace_seconds"]}


async def end(services: Services, ref: RunRef, outcome: dict[str, Any]) -> dict[str, Any]:
    """End the run as `outcome` says: `completed`, `failed` (with `error`), `cancelled`, or `grace_expired`.

    A pipeline that says `cancelled` only reports what the store said; so does a grace that expired. What the run becomes
    is decided by its record.
    """
    status = outcome["status"]
    if status in (RunStatus.COMPLETED, RunStatus.FAILED):
        run = await end_run(services, ref, RunStatus(status), outcome.get("error"))
    else:
        run = await settle(services, ref)
        if run["status"] == RunStatus.CANCELLING and status == OUTCOME_GRACE_EXPIRED:
            run = await request_cancel(services, ref.partition, ref.run_id, GRACE_EXPIRED)
    return {"status": run["status"]}
