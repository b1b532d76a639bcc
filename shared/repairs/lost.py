"""A running run whose orchestration is gone: terminated in the portal, failed, removed, or ended without ending it.

A terminated one is a person's cancel. Of the others, a run whose steps have all ended ends as they did. One with
operations in flight is cancelled, so that they are stopped and waited for; one without fails.
"""

from __future__ import annotations

from functools import partial

from shared.executions import run_ref, step_path
from shared.names import CancelSource, EventType
from shared.orchestration import Instance, InstanceState, instance_of
from shared.repairs.work import SecondLook, Work, repair_event
from shared.settling import StillInFlight, end_run
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Document

_WHY = {
    InstanceState.FAILED: "its orchestration failed",
    InstanceState.ENDED: "its orchestration ended before it",
    InstanceState.MISSING: "its orchestration was removed",
}

_PASSED = (Ex.COMPLETED, Ex.FAILED)


async def check(work: Work, run: Document) -> SecondLook | None:
    """End `run` if its instance is dead. Whether one is missing is looked at twice."""
    instance = await instance_of(work.orchestrations, run)
    if instance.state == InstanceState.MISSING:
        return partial(_look_again, work, run)
    await _mend(work, run, instance)
    return None


async def _look_again(work: Work, run: Document) -> None:
    await _mend(work, run, await instance_of(work.orchestrations, run))


async def _mend(work: Work, run: Document, instance: Instance) -> None:
    if instance.state == InstanceState.ALIVE:
        return
    # An instance that ended well ended its run first. What follows reads the run again, so it finds that done.
    if instance.state == InstanceState.TERMINATED:
        await work.cancel(run, CancelSource.PORTAL, instance.said or "its orchestration was terminated")
        return
    why = _WHY[instance.state] + (f": {instance.said}" if instance.said else "")
    status, error = await _as_its_steps_ended(work, run) or (
        RunStatus.FAILED,
        {"code": "orchestration_lost", "message": why},
    )
    repair = repair_event(run, EventType.REPAIR_ENDED, reason=why)
    try:
        await end_run(work.services, run_ref(run), status, error, also=(repair,))
    except StillInFlight:
        await work.cancel(run, CancelSource.RECONCILE, why)
        return
    await work.note(run, repair)


async def _as_its_steps_ended(work: Work, run: Document) -> tuple[RunStatus, dict[str, str] | None] | None:
    """How the run ended, if its steps say so; None if one of them has not ended."""
    ref = run_ref(run)
    for index, step in enumerate(run["definition"]["steps"]):
        execution = await work.find(ref.partition, ref.execution_id(step_path(index)))
        status = None if execution is None else execution["status"]
        if execution is not None and status == Ex.FAILED and step.get("on_error", "stop") == "stop":
            return RunStatus.FAILED, execution["error"]
        passed = _PASSED if step.get("on_cancelled") == "stop" else (*_PASSED, Ex.CANCELLED)
        if status not in passed:
            return None
    return RunStatus.COMPLETED, None
