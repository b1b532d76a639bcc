"""Ending an attempt that won't end itself, because its process is gone or its body ignores the stop.

Each is one transaction, with the operations that lie inside it, conditional on what was seen of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.branches import cancelled_branch
from shared.errors import ConditionFailed, NotFound
from shared.events import event
from shared.executions import RunRef
from shared.ids import now
from shared.names import CancelOutcome, EventType
from shared.operations import LOST, as_seen, run_guard, running_inside
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Create, Document, DocumentStore, FieldIn, Op, Patch


async def reap(
    store: DocumentStore,
    ref: RunRef,
    gone: Document,
    run_status: RunStatus,
    outcome: CancelOutcome,
    also: Sequence[Create] = (),
) -> Document | None:
    """End a cancelled attempt as `lost` or `abandoned`.

    `gone`: the execution as it was seen. `run_status`: that of the run, `running` when only a branch was cancelled.
    `also`: events that are written with it. Answers the run after it, None if something changed first.
    """
    cancelling = run_status == RunStatus.CANCELLING
    changes = {"status": Ex.CANCELLED, "cancel_outcome": outcome, "ended_cancelling": cancelling}
    data = {"outcome": outcome}
    return await _end(store, ref, gone, run_status, changes, EventType.EXECUTION_CANCELLED, data, also)


async def reap_inside(store: DocumentStore, ref: RunRef, path: str, run: Document) -> Document:
    """End what is on record as working inside the operation at `path`, though that is not at work and never will be again.

    Its end, or its begin, was in doubt. `run`: as it was seen after the last begin that can have landed. Answers the run
    after it.
    """
    if run["status"] == RunStatus.RUNNING and cancelled_branch(run, path) is None:
        return run  # it will be tried again, which settles this
    inside = await running_inside(store, ref, path)
    if inside and (await store.get(ref.partition, ref.execution_id(path)))["status"] == Ex.RUNNING:
        return run  # another delivery is at work
    for left in inside:
        run = await reap(store, ref, left, run["status"], CancelOutcome.STOPPED) or run
    return run


async def give_up(store: DocumentStore, ref: RunRef, lost: Document) -> Document | None:
    """End a lost attempt as failed: its fan-out has halted, so nobody tries it again.

    Without this it would be on record as working for ever, and its run could not end. Answers as `reap` does.
    """
    changes = {"status": Ex.FAILED, "error": LOST}
    return await _end(store, ref, lost, RunStatus.RUNNING, changes, EventType.EXECUTION_FAILED, {"error": LOST}, ())


async def _end(
    store: DocumentStore,
    ref: RunRef,
    gone: Document,
    run_status: RunStatus,
    changes: dict[str, Any],
    told: EventType,
    data: dict[str, Any],
    also: Sequence[Create],
) -> Document | None:
    group = [gone, *await running_inside(store, ref, gone["path"])]
    operations = sum(bool(one["operation"]) for one in group)
    status = changes["status"]
    counts = {"in_flight": -operations, "counts.running": -len(group), f"counts.{status}": len(group)}
    ops: list[Op] = [Patch(ref.run_id, increment=counts, when=run_guard(ref, (run_status,)))]
    for one in group:
        heartbeat = (FieldIn("heartbeat_at", (one["heartbeat_at"],)),) if one is gone else ()
        ops.append(Patch(one["id"], set={**changes, "ended_at": now()}, when=(*as_seen(one), *heartbeat)))
        ops.append(event(ref.run_id, told, one["id"], **data))
    ops.extend(also)
    try:
        return (await store.transact(ref.partition, ops))[0]
    except (ConditionFailed, NotFound):
        return None
