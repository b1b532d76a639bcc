"""Cancelling one execution: it and what is below it stop, the run and everything beside it go on.

The accept adds the path to the run's `cancelled_executions` under the guard that every begin is ordered against: after it,
nothing at or below the path begins, in any process.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.branches import below, cancelled_branch, settle_branch
from shared.errors import ConditionFailed, NotFound, Problem
from shared.events import event
from shared.executions import ancestors, run_ref
from shared.ids import now
from shared.names import EventType
from shared.operations import run_guard
from shared.runs import CancelRequest, cancel_children
from shared.services import Services
from shared.states import TERMINAL_RUN, UNFINISHED_EXECUTION, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.store.port import Document, FieldIn, HoldsNone, Op, Partition, Patch

MAX_BRANCHES = 500
"""Branches of one run that may be cancelled: they are kept in its document."""


@dataclass(frozen=True, slots=True)
class NarrowCancel:
    """What a narrow cancel came to: the run as the accept left it, the execution, and what of the run is still at work."""

    run: Document
    execution: Document
    active: list[Document]


async def cancel_execution(
    services: Services, partition: Partition, run_id: str, path: str, request: CancelRequest
) -> NarrowCancel:
    """Accept the cancel of the execution at `path`: when this returns, nothing at or below it can begin any more.

    Idempotent. Raises `NotFound`; `Problem` 409 `run_already_finished`, `execution_already_finished` with `state`,
    `too_many_branches`.
    """
    while True:
        run = await services.store.get(partition, run_id)
        execution = await _cancellable(services, run, path)
        path = execution["path"]
        if run["status"] in TERMINAL_RUN:
            ended = {"state": run["status"]}
            raise Problem(409, "run_already_finished", f"the run has ended: {run['status']}", extra=ended)
        if run["status"] == RunStatus.CANCELLING or cancelled_branch(run, path) is not None:
            break
        if execution["status"] not in UNFINISHED_EXECUTION:
            ended = {"state": execution["status"]}
            raise Problem(409, "execution_already_finished", f"it has ended: {execution['status']}", extra=ended)
        if len(run["cancelled_executions"]) >= MAX_BRANCHES:
            raise Problem(409, "too_many_branches", f"{MAX_BRANCHES} branches of it were cancelled: cancel the run")
        accepted = await _accept(services, run, execution, request)
        if accepted is not None:
            run = accepted
            break
    services.watcher.notify(run)
    await cancel_children(services, run, request, path)
    await settle_branch(services, run_ref(run), cancelled_branch(run, path) or path)
    return await _result(services, run, execution)


async def _cancellable(services: Services, run: Document, path: str) -> Document:
    """The execution at `path`, or the one around it that it can only be stopped with.

    A model call inside an item's operation, say, or the only call of a step: they begin and end as one.
    """
    for ancestor in ancestors(path):
        execution = await services.store.get(run_ref(run).partition, f"{run['id']}:{ancestor}")
        if execution["operation"]:
            break
    if execution["top"] not in (None, execution["path"]):
        return await services.store.get(run_ref(run).partition, f"{run['id']}:{execution['top']}")
    return execution


async def _accept(services: Services, run: Document, execution: Document, request: CancelRequest) -> Document | None:
    """The linearization point of a narrow cancel. None when the run or the execution moved on meanwhile."""
    ref, path = run_ref(run), execution["path"]
    facts = {
        "requested_at": now(),
        "requested_by": dict(request.requested_by),
        "source": request.source,
        "reason": request.reason,
    }
    ops: list[Op] = [
        Patch(
            ref.run_id,
            append={"cancelled_executions": path},
            when=(*run_guard(ref, (RunStatus.RUNNING,)), HoldsNone("cancelled_executions", ancestors(path))),
        ),
        Patch(execution["id"], set={"cancel": facts}, when=(FieldIn("status", UNFINISHED_EXECUTION),)),
        event(ref.run_id, EventType.EXECUTION_CANCELLING, execution["id"], **facts),
    ]
    try:
        return (await services.store.transact(ref.partition, ops))[0]
    except (ConditionFailed, NotFound):
        return None


async def _result(services: Services, run: Document, execution: Document) -> NarrowCancel:
    ref = run_ref(run)
    at_work = [one for one in await below(services, ref, None, Ex.RUNNING) if one["operation"]]
    active = [one for one in at_work if cancelled_branch(run, one["path"]) is None]
    return NarrowCancel(run, await services.store.get(ref.partition, execution["id"]), active)
