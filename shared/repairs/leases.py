"""Leases: a lock whose run is gone is freed, one whose run is alive is renewed (a run that waits renews nothing itself).

And a workflow that says that a run is active which isn't. A lock and that field are written with the run's end, so these
are what is left of documents that someone removed by hand.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared import locks
from shared.errors import ConditionFailed, NotFound
from shared.events import event
from shared.executions import run_ref
from shared.ids import to_text
from shared.names import LOCK_ID, WORKFLOW_ID, CancelSource, DocumentType, EventType
from shared.orchestration import InstanceState, instance_of
from shared.repairs.work import Work, active, repair_event
from shared.states import TERMINAL_RUN, WorkflowStatus
from shared.store.port import Check, Compare, Delete, Document, FieldIn, Op, Partition, Patch, Query

_EARLY = 0.25
"""The part of a lease that is left when it is renewed here: a run at work renews it earlier."""


def due_locks(work: Work) -> Query:
    """The locks that expired or will soon."""
    soon = datetime.now(UTC) + timedelta(seconds=work.services.settings.lease_seconds * _EARLY)
    return Query(DocumentType.LOCK, None, where=(Compare("expires_at", "<", to_text(soon)),))


async def check_lock(work: Work, lock: Document) -> None:
    """Renew or free `lock`. One whose run is active and whose instance is dead is another repair's matter."""
    partition = Partition(lock["scope"], lock["workflow_id"])
    run = await work.find(partition, lock["run_id"])
    if run is None or not active(run):
        await _free(work, partition, lock["run_id"], run)
        return
    if (await instance_of(work.orchestrations, run)).state == InstanceState.ALIVE:
        await _renew(work, run)


async def _renew(work: Work, run: Document) -> None:
    ref = run_ref(run)
    renewed = event(run["id"], EventType.LOCK_RENEWED, source=CancelSource.RECONCILE)
    ops: list[Op] = [locks.renewal(ref, work.services.settings.lease_seconds), renewed]
    try:
        await work.services.store.transact(ref.partition, ops)
    except (ConditionFailed, NotFound):
        return  # the run has just ended
    work.done[EventType.LOCK_RENEWED] += 1


def busy_workflows() -> Query:
    """The workflows that say that a run of theirs is active."""
    statuses = (WorkflowStatus.RUNNING, WorkflowStatus.CANCELLING)
    return Query(DocumentType.WORKFLOW, None, where=(FieldIn("runtime.status", statuses),))


async def check_workflow(work: Work, workflow: Document) -> None:
    """Free `workflow` if the run that it says is active has ended or is gone."""
    partition = Partition(workflow["scope"], workflow["workflow_id"])
    run_id = workflow["runtime"]["active_run_id"]
    run = await work.find(partition, run_id)
    if run is None or not active(run):
        await _free(work, partition, run_id, run)


async def _free(work: Work, partition: Partition, run_id: str, run: Document | None) -> None:
    """Let go of what run `run_id` still holds; `run` is its document, None if it is gone.

    A run is created with its lock and its workflow's field in one transaction, so one that is gone and still named there
    can't come back.
    """
    ops: list[Op] = []
    workflow, lock = await work.find(partition, WORKFLOW_ID), await work.find(partition, LOCK_ID)
    if workflow is not None and workflow["runtime"]["active_run_id"] == run_id:
        idle = {"runtime.status": WorkflowStatus.IDLE, "runtime.active_run_id": None}
        ops.append(Patch(WORKFLOW_ID, set=idle, when=(FieldIn("runtime.active_run_id", (run_id,)),)))
    if lock is not None and lock["run_id"] == run_id:
        ops.append(Delete(LOCK_ID, when=(FieldIn("run_id", (run_id,)),)))
    if not ops:
        return
    freed = [op.id for op in ops if isinstance(op, Patch | Delete)]
    if run is not None:
        ops += [
            Check(run_id, when=(FieldIn("status", TERMINAL_RUN),)),
            repair_event(run, EventType.REPAIR_FREED, freed=freed),
        ]
    try:
        await work.services.store.transact(partition, ops)
    except (ConditionFailed, NotFound):
        return  # someone else was quicker
    gone = run or {"id": run_id, "scope": partition.scope, "workflow_id": partition.workflow_id}
    work.count(gone, EventType.REPAIR_FREED, {"freed": freed})
