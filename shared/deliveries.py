"""Deliveries: notifications on their way to webhooks, one document for each webhook.

A delivery is created with the fact that it tells: in the very transaction that ends the run, or inside the operation of a
`notify` step. It says what is to be sent and how far that got; the queue only carries wake-ups. A message that is lost, or
never sent because the process died, costs no more than the time until `sweep` finds the delivery overdue.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from shared.errors import ConditionFailed, Conflict, NotFound, StoreError
from shared.executions import RunRef
from shared.ids import now, to_text
from shared.names import QUEUE_NOTIFICATIONS, DocumentType, EventType
from shared.services import Services
from shared.store.port import Compare, Create, Document, FieldIn, Partition, Patch, Query

log = logging.getLogger(__name__)

EVENT_NOTIFY = "notify"
WAKE_SECONDS = 2.0
"""How long a run's end waits for its wake-ups to be sent: `sweep` makes up for those that were not."""
OVERDUE_SECONDS = 60.0
SWEEP_BATCH, SWEEP_BATCHES = 100, 10


class DeliveryStatus(StrEnum):
    """How far a delivery got."""

    PENDING = "pending"
    """To be sent, or to be tried again."""
    DELIVERED = "delivered"
    """The receiver said that it has it."""
    FAILED = "failed"
    """Given up; `error` says why."""
    CANCELLED = "cancelled"
    """A notification of a run that was cancelled before it went out."""


def at_run_end(run: Document, event: EventType) -> list[Create]:
    """The deliveries that tell of a run's end; `run` is as it ends."""
    cancel = run["cancel"]
    shown = ("requested_at", "requested_by", "source", "reason", "acknowledged")
    facts = {
        **{name: run[name] for name in ("status", "created_at", "started_at", "ended_at", "error")},
        "trigger": run["trigger"]["kind"],
        "cancel": cancel and {name: cancel[name] for name in shown},
    }
    return _deliveries(run, event, f"{run['id']}:{event}", run["ended_at"], facts)


def of_notify_step(run: Document, execution_id: str, facts: Mapping[str, Any]) -> list[Create]:
    """The deliveries of a `notify` step: the same in every attempt of it."""
    return _deliveries(run, EVENT_NOTIFY, execution_id, now(), {"execution_id": execution_id, **facts})


def _deliveries(run: Document, event: str, source: str, at: str, facts: Mapping[str, Any]) -> list[Create]:
    """One delivery of `source` for each webhook of the run's definition that wants `event`."""
    where = {"scope": run["scope"], "workflow_id": run["workflow_id"], "run_id": run["id"]}
    data = {**where, "workflow_name": run["definition"]["name"], **facts}
    # Receivers drop what they have seen by this id. Run ids are unique in their workflow only, so it is made of all three.
    digest = hashlib.sha256("\n".join([run["scope"], run["workflow_id"], source]).encode()).hexdigest()
    return [
        Create(
            {
                "id": f"delivery:{source}:{webhook['name']}",
                "type": DocumentType.DELIVERY,
                **where,
                "execution_id": facts.get("execution_id"),
                "webhook": webhook["name"],
                "event": event,
                "message_id": f"msg_{digest[:32]}",
                "payload": {"type": event, "timestamp": at, "data": data},
                "status": DeliveryStatus.PENDING,
                "turn": 0,
                "attempts": 0,
                "created_at": at,
                "due_at": at,
                "ended_at": None,
                "error": None,
            }
        )
        for webhook in run["definition"].get("notifications", ())
        if event in webhook["events"]
    ]


async def record(services: Services, ref: RunRef, deliveries: list[Create]) -> None:
    """Create deliveries outside a run's end, and wake them. Idempotent."""
    if not deliveries:
        return
    try:
        await services.store.transact(ref.partition, deliveries)
    except Conflict:
        pass  # an earlier attempt of the same operation did: they come and go together
    await wake(services, (delivery.document for delivery in deliveries))


async def wake(services: Services, deliveries: Iterable[Document], delay_seconds: int = 0) -> None:
    """Send wake-ups; losing one is logged and no more."""
    try:
        async with asyncio.timeout(WAKE_SECONDS):
            for one in deliveries:
                message = {"scope": one["scope"], "workflow_id": one["workflow_id"]}
                message |= {"delivery": one["id"], "turn": one["turn"]}
                await services.queue.send(QUEUE_NOTIFICATIONS, message, delay_seconds)
    except (StoreError, TimeoutError) as error:
        log.warning("a notification will wait for the next sweep: %s", error or "the queue did not answer in time")


async def sweep(services: Services, moment: datetime | None = None) -> int:
    """Wake the deliveries whose wake-up must have been lost. Answers how many."""
    moment = moment or datetime.now(UTC)
    before = to_text(moment - timedelta(seconds=OVERDUE_SECONDS))
    found = 0
    for _ in range(SWEEP_BATCHES):
        page = await services.store.query(
            Query(
                DocumentType.DELIVERY,
                None,
                (FieldIn("status", (DeliveryStatus.PENDING,)), Compare("due_at", "<", before)),
                order_by="due_at",
                limit=SWEEP_BATCH,
            )
        )
        for one in page.items:
            # Put off first: two sweeps at once wake it once, and one that nobody reads isn't woken at every sweep.
            if await _put_off(services, one, to_text(moment)):
                await wake(services, [one])
                found += 1
        if page.next is None:
            break
    return found


async def _put_off(services: Services, delivery: Document, due_at: str) -> bool:
    """Say when a pending delivery is due. Answers False when it moved on meanwhile."""
    unchanged = tuple(FieldIn(name, (delivery[name],)) for name in ("status", "turn", "due_at"))
    try:
        await services.store.transact(
            partition_of(delivery), [Patch(delivery["id"], set={"due_at": due_at}, when=unchanged)]
        )
    except (ConditionFailed, NotFound):
        return False
    return True


def partition_of(delivery: Document) -> Partition:
    """Where a delivery is."""
    return Partition(delivery["scope"], delivery["workflow_id"])
