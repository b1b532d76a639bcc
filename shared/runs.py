"""Cancelling a run and everything below it. `starting.py` begins runs, `settling.py` ends them.

The cancel in four lines: `request_cancel` moves the run to `cancelling` in one guarded transaction, after which no
operation can begin (`operations.begin`). It wakes what is in flight. Whoever sees the last operation end calls `settle`,
which is idempotent: it stamps what is unfinished and ends the run in one transaction that also frees the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.branches import below
from shared.errors import ConditionFailed, Conflict, NotFound, Problem
from shared.events import event, terminal_event
from shared.executions import RunRef, run_ref
from shared.ids import now
from shared.names import WORKFLOW_ID, CancelSource, EventType, Kind
from shared.services import Services
from shared.settling import report_to_parent, settle_accepted
from shared.starting import Start, child_start, find_document, queued_run
from shared.states import TERMINAL_RUN, RunStatus, WorkflowStatus, sources
from shared.states import ExecutionStatus as Ex
from shared.store.port import Create, Document, FieldIn, Op, Partition, Patch

CHILDREN_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A request to cancel a run. `grace_seconds` None: the workflow's."""

    requested_by: Mapping[str, str]
    source: CancelSource = CancelSource.API
    reason: str | None = None
    grace_seconds: float | None = None
    force: bool = False


async def request_cancel(
    services: Services, partition: Partition, run_id: str, request: CancelRequest, also: Sequence[Create] = ()
) -> Document:
    """Accept a cancel: when this returns, nothing of the run can begin any more, in any process. Answers the run.

    So can nothing of its child runs: each has accepted as well, depth first, before this answers. Idempotent, also after a
    crash in the middle; the first request's facts stay. Settles at once when nothing is in flight, or with `force`. `also`:
    events that the accept writes. Raises `NotFound`, and `Problem` 409 `run_already_finished` when the run's own end landed
    first.
    """
    while True:
        run = await services.store.get(partition, run_id)
        if run["status"] == RunStatus.CANCELLED:
            return run
        if run["status"] in TERMINAL_RUN:
            raise Problem(
                409, "run_already_finished", f"the run has ended: {run['status']}", extra={"state": run["status"]}
            )
        if run["status"] == RunStatus.CANCELLING:
            break
        accepted = await _accept(services, partition, run, request, also)
        if accepted is not None:
            run = accepted
            break
    try:
        if run["in_flight"] and await cancel_children(services, run, request):
            run = await services.store.get(partition, run_id)
    finally:
        # Last: what is stopped now competes with the accepts of the tree, for which the caller waits.
        services.watcher.notify(run)
    if run["in_flight"] == 0 or request.force:
        return await settle_accepted(services, run, request.force)
    return run


def _cancel_facts(run: Document, request: CancelRequest) -> dict[str, Any]:
    """The record of a cancel as it is accepted."""
    grace = request.grace_seconds
    return {
        "requested_at": now(),
        "requested_by": dict(request.requested_by),
        "source": request.source,
        "reason": request.reason,
        "grace_seconds": run["definition"]["grace_seconds"] if grace is None else grace,
        "observed_at": None,
        "stopped_at": None,
        "acknowledged": None,
        "forced": False,
    }


async def _accept(
    services: Services, partition: Partition, run: Document, request: CancelRequest, also: Sequence[Create]
) -> Document | None:
    """The linearization point of a cancel. None when the run moved on meanwhile."""
    cancel = _cancel_facts(run, request)
    ops: list[Op] = [
        Patch(
            run["id"],
            set={"status": RunStatus.CANCELLING, "cancel": cancel},
            when=(FieldIn("status", sources(RunStatus.CANCELLING)),),
        ),
        Patch(WORKFLOW_ID, set={"runtime.status": WorkflowStatus.CANCELLING}),
        event(
            run["id"],
            EventType.RUN_CANCELLING,
            source=request.source,
            reason=request.reason,
            requested_by=dict(request.requested_by),
        ),
        *also,
    ]
    try:
        return (await services.store.transact(partition, ops))[0]
    except ConditionFailed:
        return None


async def cancel_children(services: Services, run: Document, request: CancelRequest, path: str | None = None) -> int:
    """Cancel the child runs of `run` that have not ended (only those at and below `path`, if given). Answers how many.

    To be called once the cancel of `run`, or of the branch at `path`, was accepted: then no further child can be begun. One
    that isn't created yet gets a tombstone under its name, so that it never starts.
    """
    standing_in = await below(services, run_ref(run), path, Ex.RUNNING, kind=Kind.CHILD_RUN)
    grace = run["cancel"]["grace_seconds"] if run["cancel"] else run["definition"]["grace_seconds"]
    passed_on = replace(request, source=CancelSource.PARENT, grace_seconds=grace)
    at_once = asyncio.Semaphore(CHILDREN_AT_ONCE)

    async def cancel(execution: Document) -> None:
        async with at_once:
            await _cancel_child(services, run, execution, passed_on)

    await asyncio.gather(*(cancel(one) for one in standing_in))
    return len(standing_in)


async def _cancel_child(services: Services, run: Document, execution: Document, request: CancelRequest) -> None:
    link = execution["child"]
    partition = Partition(link["scope"], link["workflow_id"])
    while True:
        try:
            await request_cancel(services, partition, link["run_id"], request)
            return
        except NotFound:
            if await _entomb(services, partition, child_start(run, execution["id"], link["run_id"], None), request):
                return
        except Problem:
            return  # it has ended by itself


async def _entomb(services: Services, partition: Partition, start: Start, request: CancelRequest) -> bool:
    """Record a child that isn't there yet as cancelled, so that it never starts. Answers False if it came meanwhile."""
    workflow = await find_document(services, partition, WORKFLOW_ID)
    if workflow is None:
        return True  # without its workflow it can't start either
    run, moment = queued_run(partition, workflow, start), now()
    facts = {"observed_at": moment, "stopped_at": moment, "acknowledged": True}
    run |= {"status": RunStatus.CANCELLED, "ended_at": moment, "cancel": {**_cancel_facts(run, request), **facts}}
    ops: list[Op] = [Create(run), terminal_event(run["id"], EventType.RUN_CANCELLED, source=request.source)]
    try:
        await services.store.transact(partition, ops)
    except Conflict:
        return False
    await report_to_parent(services, run)
    return True


async def observe(services: Services, ref: RunRef, observed_at: str) -> None:
    """Note when work first learnt of the cancel. The first note stays; losing the race to it is fine."""
    try:
        await services.store.transact(
            ref.partition,
            [
                Patch(
                    ref.run_id,
                    set={"cancel.observed_at": observed_at},
                    when=(FieldIn("status", (RunStatus.CANCELLING,)), FieldIn("cancel.observed_at", (None,))),
                )
            ],
        )
    except (ConditionFailed, NotFound):
        pass  # noted already, or settled
