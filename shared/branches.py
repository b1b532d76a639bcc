"""A branch of a run's tree that was cancelled alone: what a refused begin means there, and how the branch ends.

A path in the run's `cancelled_executions` refuses every begin at or below it (`operations.run_guard`); the run goes on.
Whoever sees the last operation of such a branch end calls `settle_branch`, which stamps what is left of it.
"""

from __future__ import annotations

from typing import Any

from shared.errors import ConditionFailed, NotFound
from shared.events import event
from shared.executions import RunRef, ancestors
from shared.ids import now
from shared.names import OUTCOME_BRANCH_CANCELLED, OUTCOME_RETRY, DocumentType, EventType, Kind
from shared.operations import run_guard
from shared.services import Services
from shared.states import UNFINISHED_EXECUTION, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.store.paging import every
from shared.store.port import Document, FieldIn, Op, Patch, Prefix, Query

STAMP_BATCH = 45
"""Executions stamped in one transaction: each takes two writes, and 100 is the limit."""


def cancelled_branch(run: Document, path: str) -> str | None:
    """The topmost cancelled path at or above `path`, if the run goes on without it."""
    cancelled = run["cancelled_executions"]
    return next((one for one in ancestors(path) if one in cancelled), None)


def cancelled_outcome(run: Document, ref: RunRef) -> dict[str, Any]:
    """The outcome of cancelled work: the run is cancelled (or has gone on without this epoch), or only a branch of it is."""
    goes_on = run["status"] == RunStatus.RUNNING and run["epoch"] == ref.epoch
    return {"status": OUTCOME_BRANCH_CANCELLED if goes_on else Ex.CANCELLED}


async def refusal(services: Services, ref: RunRef, path: str) -> dict[str, Any]:
    """The outcome of work at `path` whose guard refused. Stamps what is left of its branch, if that was cancelled."""
    run = await services.store.get(ref.partition, ref.run_id)
    outcome = cancelled_outcome(run, ref)
    if outcome["status"] == OUTCOME_BRANCH_CANCELLED:
        branch = cancelled_branch(run, path)
        if branch is None:
            return {"status": OUTCOME_RETRY, "after_seconds": 0.0}  # it wasn't the guard: another delivery was quicker
        await settle_branch(services, ref, branch)
    return outcome


async def below(
    services: Services, ref: RunRef, path: str | None, *statuses: Ex, kind: Kind | None = None
) -> list[Document]:
    """The executions at and below `path` (None: all of the run) in one of `statuses`, of `kind` if given, in path order."""
    of_kind = () if kind is None else (FieldIn("kind", (kind,)),)
    where = (Prefix("id", ref.execution_id(path or "")), FieldIn("status", statuses), *of_kind)
    query = Query(DocumentType.EXECUTION, ref.partition, where, limit=500)
    return [one async for one in every(services.store, query) if path is None or path in ancestors(one["path"])]


async def settle_branch(services: Services, ref: RunRef, path: str) -> None:
    """Stamp what is unfinished at and below the cancelled `path`, unless an operation there is still in flight.

    Idempotent and safe to race. Does nothing once the run itself is cancelled or has ended: settling that stamps it all.
    """
    while unfinished := await below(services, ref, path, *UNFINISHED_EXECUTION):
        if any(one["operation"] and one["status"] == Ex.RUNNING for one in unfinished):
            return
        try:
            await services.store.transact(ref.partition, _stamp(ref, unfinished[:STAMP_BATCH]))
        except ConditionFailed as error:
            if error.op_index == 0:
                return
            continue  # one of them has just changed: look again
        except NotFound:
            return


def _stamp(ref: RunRef, batch: list[Document]) -> list[Op]:
    running = sum(one["status"] == Ex.RUNNING for one in batch)
    changes = {"counts.running": -running, "counts.pending": running - len(batch), "counts.cancelled": len(batch)}
    ops: list[Op] = [
        Patch(
            ref.run_id,
            increment={name: by for name, by in changes.items() if by},
            when=run_guard(ref, (RunStatus.RUNNING,)),
        )
    ]
    ended = {"status": Ex.CANCELLED, "ended_at": now()}
    for one in batch:
        same = (FieldIn("status", (one["status"],)), FieldIn("attempt", (one["attempt"],)))
        ops.append(Patch(one["id"], set=ended, when=same))
        ops.append(event(ref.run_id, EventType.EXECUTION_CANCELLED, one["id"]))
    return ops
