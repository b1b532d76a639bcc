"""A receipt that waits for the outcome of a run that has ended or is gone. It is kept: it is what prevents a second run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.errors import ConditionFailed, NotFound
from shared.ids import to_text
from shared.names import OUTCOME_LOST, DocumentType, EventType
from shared.repairs.work import Work, active, repair_event
from shared.settling import receipt_closed
from shared.store.port import Compare, Document, FieldIn, Op, Partition, Patch, Query


def open_receipts(work: Work) -> Query:
    """The receipts without an outcome, but for the newest."""
    before = datetime.now(UTC) - timedelta(seconds=work.services.settings.start_after_seconds)
    where = (FieldIn("outcome", (None,)), Compare("at", "<", to_text(before)))
    return Query(DocumentType.RECEIPT, None, where=where)


async def check(work: Work, receipt: Document) -> None:
    """Give `receipt` the outcome of its run, if that will not do so itself."""
    partition = Partition(receipt["scope"], receipt["workflow_id"])
    run = await work.find(partition, receipt["run_id"])
    if active(run):
        return
    outcome = OUTCOME_LOST if run is None else run["status"]
    ops: list[Op] = [
        Patch(receipt["id"], set=receipt_closed(work.services, outcome), when=(FieldIn("outcome", (None,)),))
    ]
    data = {"receipt": receipt["id"], "outcome": outcome}
    if run is not None:
        ops.append(repair_event(run, EventType.REPAIR_RECEIPT, **data))
    try:
        await work.services.store.transact(partition, ops)
    except (ConditionFailed, NotFound):
        return  # someone else was quicker
    work.count(run or {**receipt, "id": receipt["run_id"]}, EventType.REPAIR_RECEIPT, data)
