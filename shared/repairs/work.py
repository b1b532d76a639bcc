"""What every repair is given: the services, Durable Functions, and how long the pass may still take."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared.errors import NotFound, Problem
from shared.events import event
from shared.executions import run_ref
from shared.ids import from_text
from shared.names import CancelSource, EventType
from shared.orchestration import Orchestrations
from shared.runs import CancelRequest, request_cancel
from shared.services import Services
from shared.states import ACTIVE_RUN
from shared.store.port import Create, Document, Partition

log = logging.getLogger(__name__)

ACTORS = {
    CancelSource.PORTAL: {"id": "portal", "name": "Azure portal"},
    CancelSource.RECONCILE: {"id": "reconcile", "name": "Reconcile"},
    CancelSource.PARENT: {"id": "reconcile", "name": "Reconcile"},
}
"""Who asked for the cancels that come from here. Durable Functions doesn't say who pressed a button in the portal."""

SecondLook = Callable[[], Awaitable[None]]
"""What to do a fence later, when something seemed dead: look again, and mend it if nothing has moved."""


@dataclass(slots=True)
class Work:
    """One pass."""

    services: Services
    orchestrations: Orchestrations
    until: float
    """When to stop, on `time.monotonic()`'s clock."""
    done: Counter[EventType] = field(default_factory=Counter)

    @property
    def out_of_time(self) -> bool:
        """Whether the pass should end."""
        return time.monotonic() >= self.until

    async def find(self, partition: Partition, document_id: str) -> Document | None:
        """The document, if there is one."""
        try:
            return await self.services.store.get(partition, document_id)
        except NotFound:
            return None

    async def again(self, run: Document) -> Document:
        """The run as it is now."""
        return await self.services.store.get(run_ref(run).partition, run["id"])

    async def note(self, run: Document, repair: Create) -> None:
        """Count and log a repair, if its event was written: someone else may have been quicker."""
        if await self.find(run_ref(run).partition, repair.document["id"]) is not None:
            self.count(run, EventType(repair.document["event_type"]), repair.document["data"])

    def count(self, run: Document, kind: EventType, data: dict[str, Any]) -> None:
        """Count and log a repair that was made."""
        self.done[kind] += 1
        log.warning("%s: run %s of %s/%s: %s", kind, run["id"], run["scope"], run["workflow_id"], data)

    async def cancel(self, run: Document, source: CancelSource, reason: str) -> None:
        """Cancel `run` as a person's cancel does, with its grace. One that has just ended is none the worse."""
        repair = repair_event(run, EventType.REPAIR_CANCELLED, source, reason=reason)
        request = CancelRequest(ACTORS[source], source, reason)
        try:
            await request_cancel(self.services, run_ref(run).partition, run["id"], request, also=(repair,))
        except Problem:
            return  # its own end landed first
        await self.note(run, repair)


def repair_event(run: Document, kind: EventType, source: CancelSource = CancelSource.RECONCILE, **data: Any) -> Create:
    """The event that tells of a repair."""
    return event(run["id"], kind, None, source=source, **data)


def active(run: Document | None) -> bool:
    """Whether there is a run, and it may hold a lock."""
    return run is not None and run["status"] in ACTIVE_RUN


def age(moment: str) -> float:
    """How many seconds ago `moment` was, by this machine's clock. For deadlines that may be late by clocks' difference."""
    return (datetime.now(UTC) - from_text(moment)).total_seconds()
