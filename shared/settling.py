"""How a run ends: exactly once, with its executions stamped, its lock freed and its workflow told in one transaction.

`settle` ends a cancelling run, `end_run` one that completed or failed. Both are idempotent and may race: every write is
guarded, so whoever comes second finds it done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from shared import deliveries, locks
from shared.branches import STAMP_BATCH, cancelled_branch, settle_branch
from shared.errors import ConditionFailed, Conflict, NotFound, StoreError, Throttled, TruestopError, Unavailable
from shared.events import event, terminal_event
from shared.executions import ExecutionSpec, RunRef, run_ref, step_path
from shared.file_sync import wake_waiting
from shared.ids import now
from shared.names import LOCK_ID, WORKFLOW_ID, CancelOutcome, CancelSource, DocumentType, EventType, Kind, TriggerKind
from shared.operations import Begun, Ending, Superseded, finish, run_guard
from shared.outputs import adopt
from shared.services import Services
from shared.states import UNFINISHED_EXECUTION, RunStatus, WorkflowStatus, execution_sources
from shared.states import ExecutionStatus as Ex
from shared.store.port import Check, Create, Delete, Document, FieldIn, Op, Partition, Patch, Prefix, Query

log = logging.getLogger(__name__)

SECONDS_A_DAY = 24 * 3600


class StillInFlight(TruestopError):
    """A run can't end by itself while an operation of it is on record as working. The caller tries again later."""

    def __init__(self, run_id: str, in_flight: int) -> None:
        super().__init__(run_id, in_flight)
        self.run_id, self.in_flight = run_id, in_flight
        self.message = f"run {run_id} still has {in_flight} operations in flight"


def receipt_id(kind: str, key: str) -> str:
    """The id of the receipt that says which run a trigger already produced."""
    return f"receipt:{kind}:{key}"


def receipt_closed(services: Services, outcome: str) -> dict[str, Any]:
    """The fields of a receipt whose run has ended. Cosmos DB removes it by its `ttl`, `retention` in every store."""
    return {"outcome": outcome, "ttl": round(services.settings.receipt_days * SECONDS_A_DAY)}


async def settle(
    services: Services,
    ref: RunRef,
    *,
    force: bool = False,
    observed_at: str | None = None,
    also: Sequence[Create] = (),
) -> Document:
    """End a cancelling run, if nothing of it is in flight any more; with `force`, also if something is. Answers the run.

    Idempotent and safe to race: every write is guarded, and the last one ends the run, frees the lock and tells the
    workflow in one transaction. `force` first raises the epoch, so that nothing late can write. `also`: events that the
    transaction that ends it writes.
    """
    while True:
        run = await services.store.get(ref.partition, ref.run_id)
        if run["status"] != RunStatus.CANCELLING or (run["in_flight"] and not force):
            return run
        if run["in_flight"] and not run["cancel"]["forced"]:
            await _raise_epoch(services, run)
            continue
        try:
            if not await _stamp(services, run, Ex.CANCELLED):
                continue
            return await _end(services, run, RunStatus.CANCELLED, observed_at, also)
        except ConditionFailed:
            continue  # another settler was quicker, or an operation ended meanwhile: look again


async def settle_accepted(services: Services, run: Document, force: bool) -> Document:
    """`settle` right after a cancel of `run` was accepted. The accept stands if this fails: its orchestration settles it.

    With `force` it raises what the store raises: nobody else would apply that.
    """
    try:
        return await settle(services, run_ref(run), force=force)
    except (Throttled, Unavailable) as error:
        if force:
            raise
        log.warning("run %s is cancelled, and not settled yet: %s", run["id"], error)
        return run


async def _raise_epoch(services: Services, run: Document) -> None:
    """Fence off everything that is in flight. Done once: a second settler goes on from there.

    Only if it is still in flight: what has ended meanwhile needed no force, and the receipt must not say so.
    """
    epoch = run["epoch"] + 1
    guard = run_guard(run_ref(run), (RunStatus.CANCELLING,))
    same = (FieldIn("cancel.forced", (False,)), FieldIn("in_flight", (run["in_flight"],)))
    ops: list[Op] = [Patch(run["id"], set={"epoch": epoch, "cancel.forced": True}, when=(*guard, *same))]
    if await locks.owned(services.store, run_ref(run)):
        ops.append(Patch(LOCK_ID, set={"epoch": epoch}, when=(FieldIn("run_id", (run["id"],)),)))
    try:
        fenced = (await services.store.transact(run_ref(run).partition, ops))[0]
    except ConditionFailed:
        return
    if fenced is not None:
        services.watcher.notify(fenced)


async def _stamp(services: Services, run: Document, status: Ex) -> bool:
    """Stamp a batch of unfinished executions. Answers whether none was left."""
    ref = run_ref(run)
    unfinished = await services.store.query(
        Query(
            DocumentType.EXECUTION,
            ref.partition,
            where=(Prefix("id", f"{ref.run_id}:"), FieldIn("status", UNFINISHED_EXECUTION)),
            limit=STAMP_BATCH,
        )
    )
    if not unfinished.items:
        return True
    ops: list[Op] = [Check(ref.run_id, when=run_guard(ref, (run["status"],)))]
    for one in unfinished.items:
        changes: dict[str, Any] = {"status": status, "ended_at": now()}
        if status == Ex.SKIPPED and one["status"] == Ex.RUNNING:
            changes["status"] = Ex.FAILED  # a container that its failing run leaves open
        elif one["operation"] and one["status"] == Ex.RUNNING:
            changes |= {"cancel_outcome": CancelOutcome.ABANDONED, "ended_cancelling": True}
        ops.append(Patch(one["id"], set=changes, when=(FieldIn("status", execution_sources(changes["status"])),)))
        if status == Ex.CANCELLED:
            ops.append(event(ref.run_id, EventType.EXECUTION_CANCELLED, one["id"]))
    await services.store.transact(ref.partition, ops)
    return unfinished.next is None


async def end_run(
    services: Services, ref: RunRef, status: RunStatus, error: dict[str, str] | None, also: Sequence[Create] = ()
) -> Document:
    """End a run by itself (`completed`, `failed`), unless a cancel was accepted first: then settle that. Idempotent.

    `also`: events that the transaction that ends it writes. Raises `StillInFlight`.
    """
    while True:
        run = await services.store.get(ref.partition, ref.run_id)
        if run["status"] == RunStatus.CANCELLING:
            return await settle(services, ref)
        if run["status"] != RunStatus.RUNNING or run["epoch"] != ref.epoch:
            return run
        if run["in_flight"]:
            raise StillInFlight(ref.run_id, run["in_flight"])
        try:
            if await _stamp(services, run, Ex.SKIPPED):
                return await _end(services, {**run, "error": error}, status, None, also)
        except ConditionFailed:
            continue


async def _end(
    services: Services, run: Document, status: RunStatus, observed_at: str | None, also: Sequence[Create]
) -> Document:
    """The one transaction that ends a run. Raises `ConditionFailed` when the run is not as `run` says."""
    ref, (observed, ended) = run_ref(run), _times(run, observed_at)
    counts = _final_counts(run["counts"], status)
    changes: dict[str, Any] = {"status": status, "ended_at": ended, "in_flight": 0, "counts": counts}
    changes["error"] = run["error"]
    guard = list(run_guard(ref, (run["status"],)))
    acknowledged = None
    if status == RunStatus.CANCELLED:
        acknowledged = not (run["cancel"]["forced"] or await _abandoned(services, ref))
        changes |= {
            "cancel.stopped_at": ended,
            "cancel.observed_at": observed,
            "cancel.acknowledged": acknowledged,
        }
    else:
        last = await _last_output(services, run)
        changes["output_preview"] = last["output_preview"] if last is not None else None
    if run["cancel"] is None or not run["cancel"]["forced"]:
        guard.append(FieldIn("in_flight", (0,)))
    ops: list[Op] = [
        Patch(ref.run_id, set=changes, when=tuple(guard), etag=run["_etag"]),  # the counts are of this version
        _workflow_after(run, status, ended),
        *_after_cancel(run, status, ended),
        terminal_event(ref.run_id, _ENDED[status], error=run["error"], acknowledged=acknowledged),
    ]
    ops.extend(also)
    ops.extend(Patch(receipt, set=receipt_closed(services, status)) for receipt in run["receipts"])
    cancel = run["cancel"] and {**run["cancel"], "acknowledged": acknowledged}
    told = deliveries.at_run_end({**run, "status": status, "ended_at": ended, "cancel": cancel}, _ENDED[status])
    ops.extend(told)
    lock = await locks.owned(services.store, ref)
    if lock is not None:
        ops.append(Delete(LOCK_ID, when=(FieldIn("run_id", (ref.run_id,)), FieldIn("epoch", (ref.epoch,)))))
    try:
        ended_run = (await services.store.transact(ref.partition, ops))[0] or run
        if lock is None:
            log.warning("run %s ended without its lock", ref.run_id)
        services.watcher.notify(ended_run)
        await deliveries.wake(services, (delivery.document for delivery in told))
        await _tell_parent(services, ended_run)
        await _wake_files(services, ended_run)
        return ended_run
    except (Conflict, NotFound) as error:
        if isinstance(error, NotFound) and error.document_id in run["receipts"]:
            # It aged out while the run was active.
            left = [receipt for receipt in run["receipts"] if receipt != error.document_id]
            return await _end(services, {**run, "receipts": left}, status, observed_at, also)
        if isinstance(error, NotFound) and error.document_id != LOCK_ID:
            raise
        # Another settler was quicker: the terminal event is there, or the lock is gone.
        raise ConditionFailed(error.document_id, error.op_index or 0) from error


async def _abandoned(services: Services, ref: RunRef) -> bool:
    """Whether something of the run had not stopped: without force that is in a child run, which was forced itself."""
    where = (Prefix("id", f"{ref.run_id}:"), FieldIn("cancel_outcome", (CancelOutcome.ABANDONED,)))
    return bool((await services.store.query(Query(DocumentType.EXECUTION, ref.partition, where, limit=1))).items)


async def _tell_parent(services: Services, run: Document) -> None:
    """Report at once, if that can be done: the parent's orchestration asks as well, so a failure costs time only."""
    try:
        await report_to_parent(services, run)
    except StoreError as error:
        log.warning("can't report the end of run %s to its parent: %s", run["id"], error)


async def _wake_files(services: Services, run: Document) -> None:
    """Let files that waited for the end of this run have theirs at once."""
    if run["definition"]["trigger"]["kind"] != TriggerKind.FILE_SYNC:
        return
    try:
        async with asyncio.timeout(deliveries.WAKE_SECONDS):
            await wake_waiting(services, run_ref(run).partition)
    except (StoreError, TimeoutError) as error:
        log.warning("files that waited for run %s wait a little longer: %s", run["id"], error)


async def report_to_parent(services: Services, child: Document) -> None:
    """End the operation that stands for an ended `child` in its parent's run, as the child ended. Idempotent.

    `child`: its run; one with the status None is no longer kept.
    """
    link = child["parent"]
    if link is None:
        return
    try:
        run = await services.store.get(Partition(link["scope"], link["workflow_id"]), link["run_id"])
        leaf = await services.store.get(run_ref(run).partition, link["execution_id"])
    except NotFound:
        return
    if leaf["status"] != Ex.RUNNING:
        return
    ref = run_ref(run)
    try:
        ending = await _as_child_ended(services, child, run, leaf)
        run = await finish(services.store, await begun_again(services, ref, leaf), ending)
    except Superseded:
        return
    if run["status"] == RunStatus.CANCELLING and run["in_flight"] == 0:
        await settle(services, ref)
    elif (branch := cancelled_branch(run, leaf["path"])) is not None:
        await settle_branch(services, ref, branch)


async def begun_again(services: Services, ref: RunRef, leaf: Document) -> Begun:
    """What a begin answered for the operation `leaf`, from its documents: for whoever ends it in another process."""
    documents = [leaf]
    if leaf["top"] != leaf["path"]:
        documents.insert(0, await services.store.get(ref.partition, ref.execution_id(leaf["top"])))
    specs = tuple(ExecutionSpec(one["path"], Kind(one["kind"]), one["name"], child=one["child"]) for one in documents)
    attempts = {one["path"]: one["attempt"] for one in documents}
    return Begun(ref, specs, attempts, leaf["failures"], await services.store.get(ref.partition, ref.run_id))


async def _as_child_ended(services: Services, child: Document, run: Document, leaf: Document) -> Ending:
    missing = Ending(Ex.FAILED, error={"code": "child_missing", "message": f"run {child['id']} is no longer kept"})
    if child["status"] is None:
        return missing
    if child["status"] == RunStatus.COMPLETED:
        try:
            last = await _last_output(services, child)
            own = (run_ref(run), leaf["path"], leaf["attempt"])
            return Ending(Ex.COMPLETED, await adopt(services.blobs, last, *own) if last else None)
        except NotFound:
            return missing  # it is being removed just now
    if child["status"] == RunStatus.FAILED:
        message = f"run {child['id']} failed: {child['error']['message']}"
        return Ending(Ex.FAILED, error={"code": "child_failed", "message": message})
    goes_on = run["status"] == RunStatus.RUNNING and cancelled_branch(run, leaf["path"]) is None
    if goes_on and child["cancel"]["source"] == CancelSource.PARENT:
        return Ending(Ex.FAILED, error={"code": "timeout", "message": "the child run took too long"})
    stopped = child["cancel"]["acknowledged"]
    return Ending(Ex.CANCELLED, cancel_outcome=CancelOutcome.STOPPED if stopped else CancelOutcome.ABANDONED)


def _times(run: Document, observed_at: str | None) -> tuple[str, str]:
    """When a cancel was observed, and when the run ended. In order also when the clocks of who wrote them are not."""
    ended = now()
    if run["status"] != RunStatus.CANCELLING:
        return ended, ended
    requested: str = run["cancel"]["requested_at"]
    observed = max(run["cancel"]["observed_at"] or observed_at or ended, requested)
    return observed, max(ended, observed)


_ENDED = {
    RunStatus.CANCELLED: EventType.RUN_CANCELLED,
    RunStatus.COMPLETED: EventType.RUN_COMPLETED,
    RunStatus.FAILED: EventType.RUN_FAILED,
}


def _workflow_after(run: Document, status: RunStatus, ended: str) -> Patch:
    return Patch(
        WORKFLOW_ID,
        set={
            "runtime.status": WorkflowStatus.IDLE,
            "runtime.active_run_id": None,
            "runtime.last_run_id": run["id"],
            "runtime.last_run_status": status,
            "runtime.last_run_started_at": run["started_at"],
            "runtime.last_run_ended_at": ended,
            "runtime.last_run_error": run["error"],
            "runtime.last_run_trigger": run["trigger"]["kind"],
        },
    )


_NOT_ABOUT_THE_WORKFLOW = (CancelSource.PARENT, CancelSource.RECONCILE)
"""Cancels that nobody decided with this workflow in mind."""


def _after_cancel(run: Document, status: RunStatus, ended: str) -> list[Op]:
    """What the definition of a run that was cancelled wants to happen to its workflow."""
    definition = run["definition"]
    if status != RunStatus.CANCELLED or run["cancel"]["source"] in _NOT_ABOUT_THE_WORKFLOW:
        return []
    if definition["after_cancel"] == "skip_next" and definition["trigger"]["kind"] == TriggerKind.SCHEDULE:
        return [Patch(WORKFLOW_ID, set={"runtime.skip_next_after": run["id"]})]
    if definition["after_cancel"] == "disable":
        unplanned = {"runtime.next_run_at": None, "runtime.skip_next_after": None}
        disabled = {"definition.enabled": False, "updated_at": ended, **unplanned}
        return [
            Patch(WORKFLOW_ID, set=disabled, increment={"revision": 1}),
            event(run["id"], EventType.WORKFLOW_DISABLED, reason="after_cancel is disable"),
        ]
    return []


def _final_counts(counts: dict[str, int], status: RunStatus) -> dict[str, int]:
    """The counts once everything unfinished is stamped. Nothing can begin or finish any more, so they are exact."""
    final = {**counts, Ex.PENDING: 0, Ex.RUNNING: 0}
    if status == RunStatus.CANCELLED:
        final[Ex.CANCELLED] += counts[Ex.PENDING] + counts[Ex.RUNNING]
    else:
        final[Ex.SKIPPED] += counts[Ex.PENDING]
        final[Ex.FAILED] += counts[Ex.RUNNING]
    return final


async def _last_output(services: Services, run: Document) -> Document | None:
    """The last step that has an output."""
    ref = run_ref(run)
    for index in reversed(range(len(run["definition"]["steps"]))):
        step = await services.store.get(ref.partition, ref.execution_id(step_path(index)))
        if step["output_preview"] is not None:
            return step
    return None
