"""A run's life until its end: start it, begin it, accept its cancel. `settling.py` ends it.

The cancel in four lines: `request_cancel` moves the run to `cancelling` in one guarded transaction, after which no
operation can begin (`operations.begin`). It wakes what is in flight. Whoever sees the last operation end calls `settle`,
which is idempotent: it stamps what is unfinished and ends the run in one transaction that also frees the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared import locks
from shared.branches import below
from shared.errors import AlreadyProduced, ConditionFailed, Conflict, NoLongerDue, NotFound, Problem
from shared.events import event, terminal_event
from shared.executions import ExecutionSpec, RunRef, new_execution, run_ref, step_path
from shared.ids import now
from shared.names import LOCK_ID, REMOVING, WORKFLOW_ID, CancelSource, DocumentType, EventType, Kind, TriggerKind
from shared.operations import run_guard
from shared.permissions import refuse_off
from shared.services import Services
from shared.settling import receipt_closed, receipt_id, report_to_parent, settle_accepted
from shared.states import TERMINAL_RUN, RunStatus, WorkflowStatus, sources
from shared.states import ExecutionStatus as Ex
from shared.store.evaluate import holds
from shared.store.port import Check, Create, Document, FieldIn, Op, Partition, Patch

CHILDREN_AT_ONCE = 32
MAX_KEYS = 40
"""Keys of one run: its start and its end each write a receipt for every key, in one transaction of at most 100 writes."""

START_TRIES = 10
"""How often a start is tried while runs that are in its way keep ending."""


@dataclass(frozen=True, slots=True)
class Start:
    """A request to start a run.

    `keys`: what maps to this run (an idempotency key, a slot, each file's version), at most `MAX_KEYS`. Each leaves a
    receipt, so that none of them ever produces another run.
    """

    run_id: str
    instance_id: str
    """The Durable instance: unique over all scopes, which a run id that a caller chose is not."""
    input: Any
    requested_by: Mapping[str, str]
    trigger: TriggerKind = TriggerKind.MANUAL
    keys: tuple[str, ...] = ()
    parent: Mapping[str, str] | None = None
    """The run and execution that this one is a child of: scope, workflow_id, run_id, execution_id."""
    depth: int = 0
    """How many runs are above it."""
    when: tuple[FieldIn, ...] = ()
    """What must be so of the workflow: a trigger's guard against a workflow that changes under it."""
    resumed_from: str | None = None
    """The run of this workflow that it goes on from, and `resume`: what of that it repeats."""
    resume: Mapping[str, Any] | None = None


def child_start(run: Document, execution_id: str, run_id: str, given: Any) -> Start:
    """The start of a child run of `run`, for which `execution_id` stands there."""
    parent = {
        "scope": run["scope"],
        "workflow_id": run["workflow_id"],
        "run_id": run["id"],
        "execution_id": execution_id,
    }
    kind, depth = TriggerKind.CHILD_RUN, run["depth"] + 1
    return Start(run_id, run_id, given, run["requested_by"], kind, parent=parent, depth=depth)


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A request to cancel a run. `grace_seconds` None: the workflow's."""

    requested_by: Mapping[str, str]
    source: CancelSource = CancelSource.API
    reason: str | None = None
    grace_seconds: float | None = None
    force: bool = False


async def start_run(
    services: Services, partition: Partition, workflow: Document, start: Start
) -> tuple[Document, bool]:
    """Accept a run: durable and `queued` when this returns. Answers it, and whether this call created it.

    The same run id again answers the same run. Raises `AlreadyProduced` when a key's receipt names another run, or one that
    is gone; `NoLongerDue` when `start.when` doesn't hold; `Problem` 409 `workflow_busy` with `active_run_id`,
    `run_id_taken`, `nothing_to_resume`; 403 `workflows_off`.
    """
    if start.parent is None:  # the children of a run that was started go with it
        refuse_off(services.settings, partition.scope)
    store, run = services.store, _queued_run(partition, workflow, start)
    ops: list[Op] = [
        Patch(
            WORKFLOW_ID,
            set={"runtime.status": WorkflowStatus.RUNNING, "runtime.active_run_id": start.run_id},
            increment={"runtime.run_count": 1},
            when=(FieldIn("runtime.active_run_id", (None,)), *start.when),
        ),
        Create(locks.new_lock(start.run_id, services.settings.lease_seconds)),
        Create(run),
        event(start.run_id, EventType.RUN_QUEUED, trigger=start.trigger, requested_by=dict(start.requested_by)),
    ]
    ops.extend(_receipts(services, start, run))
    if start.resumed_from is not None:
        ops.append(Check(start.resumed_from, when=(FieldIn(REMOVING, (None, False)),)))
    for _ in range(START_TRIES):
        try:
            return (await store.transact(partition, ops))[2] or run, True
        except (ConditionFailed, Conflict, NotFound) as error:
            if error.document_id == start.resumed_from:
                raise Problem(409, "nothing_to_resume", "the run is no longer kept") from None
            found = await _produced(services, partition, start)
            if found is not None:
                return found, False
            active = (await _due(services, partition, start))["runtime"]["active_run_id"]
            if active is not None:
                raise Problem(
                    409, "workflow_busy", f"run {active} is active", extra={"active_run_id": active}
                ) from None
            # The run that was in the way has just ended: try again.
    # A lock without an active run is nothing that we leave behind: `reconcile` frees it when its lease is over.
    owner = lock["run_id"] if (lock := await _existing(services, partition, LOCK_ID)) is not None else None
    raise Problem(409, "workflow_busy", f"run {owner} still holds the lock", extra={"active_run_id": owner})


def _queued_run(partition: Partition, workflow: Document, start: Start) -> Document:
    """A run's document as it is accepted."""
    return {
        "id": start.run_id,
        "type": DocumentType.RUN,
        "instance_id": start.instance_id,
        "workflow_id": partition.workflow_id,
        "scope": partition.scope,
        "status": RunStatus.QUEUED,
        "epoch": 1,
        "trigger": {"kind": start.trigger, "key": start.keys[0] if start.keys else None},
        "receipts": [receipt_id(start.trigger, key) for key in start.keys],
        "definition": workflow["definition"],
        "input": start.input,
        "requested_by": dict(start.requested_by),
        "created_at": now(),
        "started_at": None,
        "ended_at": None,
        "in_flight": 0,
        "cancelled_executions": [],
        "cancel": None,
        "resumed_from": start.resumed_from,
        "resume": start.resume,
        "parent": start.parent,
        "depth": start.depth,
        "counts": {status.value: 0 for status in Ex} | {"total": 0},
        "output_preview": None,
        "error": None,
    }


def _receipts(services: Services, start: Start, run: Document) -> list[Op]:
    """What remembers that the keys of `start` produced this run."""
    if len(start.keys) > MAX_KEYS:
        raise ValueError(f"a run has at most {MAX_KEYS} keys, not {len(start.keys)}")
    closed = receipt_closed(services, run["status"]) if run["status"] in TERMINAL_RUN else {"outcome": None}
    common = {"type": DocumentType.RECEIPT, "run_id": run["id"], "at": run["created_at"], **closed}
    return [Create({"id": receipt_id(start.trigger, key), "key": key, **common}) for key in start.keys]


async def _produced(services: Services, partition: Partition, start: Start) -> Document | None:
    """The run that `start` asked for, if it is there already. Raises as `start_run` does for what stands in its way."""
    run = await _existing(services, partition, start.run_id)
    if run is not None:
        key = start.keys[0] if start.keys else None
        if run["type"] != DocumentType.RUN or run["trigger"] != {"kind": start.trigger, "key": key}:
            raise Problem(409, "run_id_taken", f"{start.run_id} is the id of something else")
        return run
    for key in start.keys:
        receipt = await _existing(services, partition, receipt_id(start.trigger, key))
        if receipt is not None:
            raise AlreadyProduced(key, receipt["run_id"])
    return None


async def _existing(services: Services, partition: Partition, document_id: str) -> Document | None:
    try:
        return await services.store.get(partition, document_id)
    except NotFound:
        return None


async def skip_run(services: Services, partition: Partition, workflow: Document, start: Start, reason: str) -> Document:
    """Record a `skipped` run for a trigger that came to nothing, with its receipts: it will never start. Idempotent.

    `reason`: for people, such as which run was active. Answers the run; raises as `start_run` does, except `workflow_busy`.
    """
    run = _queued_run(partition, workflow, start)
    run |= {"status": RunStatus.SKIPPED, "ended_at": run["created_at"], "error": {"code": "skipped", "message": reason}}
    ops: list[Op] = [
        Check(WORKFLOW_ID, when=start.when),
        Create(run),
        terminal_event(start.run_id, EventType.RUN_SKIPPED, trigger=start.trigger, reason=reason),
        *_receipts(services, start, run),
    ]
    try:
        await services.store.transact(partition, ops)
    except NotFound:
        raise Problem(404, "workflow_not_found", "there is no such workflow") from None
    except Conflict:
        return await _produced(services, partition, start) or run
    except ConditionFailed:
        found = await _produced(services, partition, start)
        if found is None:
            raise NoLongerDue from None
        return found
    return run


async def _due(services: Services, partition: Partition, start: Start) -> Document:
    """The workflow, if it is as `start` wants it."""
    try:
        workflow = await services.store.get(partition, WORKFLOW_ID)
    except NotFound:
        raise Problem(404, "workflow_not_found", "there is no such workflow") from None
    if not all(holds(condition, workflow) for condition in start.when):
        raise NoLongerDue
    return workflow


async def begin_run(services: Services, ref: RunRef) -> Document:
    """Move a queued run to `running` and lay out its steps. Idempotent; answers the run as it is then."""
    run = await services.store.get(ref.partition, ref.run_id)
    if run["status"] != RunStatus.QUEUED:
        return run
    reused = {one["path"] for one in await below(services, ref, None, *Ex)} if run["resume"] else set()
    steps = {path: step for i, step in enumerate(run["definition"]["steps"]) if (path := step_path(i)) not in reused}
    ops: list[Op] = [
        Patch(
            ref.run_id,
            set={"status": RunStatus.RUNNING, "started_at": now()},
            increment={"counts.total": len(steps), "counts.pending": len(steps)},
            when=run_guard(ref, (RunStatus.QUEUED,)),
        ),
        locks.renewal(ref, services.settings.lease_seconds),
        event(ref.run_id, EventType.RUN_STARTED, reused=len(reused)),
    ]
    for path, step in steps.items():
        spec = ExecutionSpec(path, Kind.STEP, step["name"])
        ops.append(Create(new_execution(ref, spec, Ex.PENDING, operation=False)))
    try:
        return (await services.store.transact(ref.partition, ops))[0] or run
    except (ConditionFailed, Conflict):
        return await services.store.get(ref.partition, ref.run_id)


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
    workflow = await _existing(services, partition, WORKFLOW_ID)
    if workflow is None:
        return True  # without its workflow it can't start either
    run, moment = _queued_run(partition, workflow, start), now()
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
