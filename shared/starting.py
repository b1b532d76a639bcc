"""A run's beginning: accept it with its receipts, or record that it was skipped; then begin it. `runs.py` cancels it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared import locks
from shared.branches import below
from shared.errors import AlreadyProduced, ConditionFailed, Conflict, NoLongerDue, NotFound, Problem
from shared.events import event, terminal_event
from shared.executions import ExecutionSpec, RunRef, new_execution, step_path
from shared.ids import now
from shared.names import LOCK_ID, REMOVING, WORKFLOW_ID, DocumentType, EventType, Kind, TriggerKind
from shared.operations import run_guard
from shared.permissions import refuse_off
from shared.services import Services
from shared.settling import receipt_closed, receipt_id
from shared.states import TERMINAL_RUN, RunStatus, WorkflowStatus
from shared.states import ExecutionStatus as Ex
from shared.store.evaluate import holds
from shared.store.port import Check, Create, Document, FieldIn, Op, Partition, Patch

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
    store, run = services.store, queued_run(partition, workflow, start)
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
    owner = lock["run_id"] if (lock := await find_document(services, partition, LOCK_ID)) is not None else None
    raise Problem(409, "workflow_busy", f"run {owner} still holds the lock", extra={"active_run_id": owner})


def queued_run(partition: Partition, workflow: Document, start: Start) -> Document:
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
    run = await find_document(services, partition, start.run_id)
    if run is not None:
        key = start.keys[0] if start.keys else None
        if run["type"] != DocumentType.RUN or run["trigger"] != {"kind": start.trigger, "key": key}:
            raise Problem(409, "run_id_taken", f"{start.run_id} is the id of something else")
        return run
    for key in start.keys:
        receipt = await find_document(services, partition, receipt_id(start.trigger, key))
        if receipt is not None:
            raise AlreadyProduced(key, receipt["run_id"])
    return None


async def find_document(services: Services, partition: Partition, document_id: str) -> Document | None:
    """The document, None if there is none."""
    try:
        return await services.store.get(partition, document_id)
    except NotFound:
        return None


async def skip_run(services: Services, partition: Partition, workflow: Document, start: Start, reason: str) -> Document:
    """Record a `skipped` run for a trigger that came to nothing, with its receipts: it will never start. Idempotent.

    `reason`: for people, such as which run was active. Answers the run; raises as `start_run` does, except `workflow_busy`.
    """
    run = queued_run(partition, workflow, start)
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


async def begin_run(services: Services, ref: RunRef, run: Document) -> Document:
    """Move a queued `run`, as just read, to `running` and lay out its steps. Idempotent; answers it as it is then."""
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
