"""A cancelling run that nobody settles: the settler died, what is in flight died, or its grace is long over.

An operation is dead when its heartbeat stands still for as long as a fence takes, on this process's own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from shared.executions import run_ref
from shared.names import CancelOutcome, DocumentType, EventType
from shared.reaping import reap
from shared.repairs import children
from shared.repairs.work import SecondLook, Work, age, repair_event
from shared.settling import settle
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import MAX_PAGE, Document, FieldIn, Prefix, Query

LATE_FENCES = 3
"""How many fences after the end of its grace a run is ended by force: its supervisors and its orchestrator come first, and
the grace began on another machine's clock."""


async def check(work: Work, run: Document) -> SecondLook | None:
    """Settle `run` if nothing of it is in flight or its grace is long over; else see whether what is in flight lives."""
    cancel = run["cancel"]
    late = cancel["grace_seconds"] + LATE_FENCES * work.services.settings.fence_seconds
    if run["in_flight"] == 0 or cancel["forced"] or age(cancel["requested_at"]) > late:
        await _settle(work, run)
        return None
    await children.pass_on(work, run)
    return partial(_reap, work, run, await _at_work(work, run))


async def _settle(work: Work, run: Document) -> None:
    repair = repair_event(run, EventType.REPAIR_SETTLED, in_flight=run["in_flight"])
    await settle(work.services, run_ref(run), force=run["in_flight"] > 0, also=(repair,))
    await work.note(run, repair)


async def _at_work(work: Work, run: Document) -> list[Document]:
    """The operations that are at work, as their heartbeats are now; without those inside them, which have none."""
    query = Query(
        DocumentType.EXECUTION,
        run_ref(run).partition,
        where=(Prefix("id", f"{run['id']}:"), FieldIn("status", (Ex.RUNNING,)), FieldIn("operation", (True,))),
        limit=MAX_PAGE,
    )
    outermost: list[Document] = []
    for one in (await work.services.store.query(query)).items:  # by id: what lies inside comes after it
        if not any(one["id"].startswith(f"{outer['id']}.") for outer in outermost):
            outermost.append(one)
    return outermost


async def _reap(work: Work, run: Document, before: Sequence[Document]) -> None:
    """End as lost what has not moved since `before`, and the run with it if that was all."""
    heartbeats = {one["id"]: one["heartbeat_at"] for one in before}
    for lost in await _at_work(work, run):
        if heartbeats.get(lost["id"], "") != lost["heartbeat_at"]:
            continue
        if lost["child"] is not None:
            await children.report(work, lost)  # it has no heartbeat: it lives as long as its child run
            continue
        repair = repair_event(run, EventType.REPAIR_REAPED, execution=lost["id"])
        after = await reap(
            work.services.store, run_ref(run), lost, RunStatus.CANCELLING, CancelOutcome.LOST, also=(repair,)
        )
        if after is not None:
            work.count(run, EventType.REPAIR_REAPED, repair.document["data"])
    now = await work.again(run)
    if now["status"] == RunStatus.CANCELLING and now["in_flight"] == 0:
        await _settle(work, now)
