"""What operators did: append-only events in a partition of their own, written before the thing is done.

A cancel is an event of its run as well. Who looks at a list leaves one event a minute, however often their page asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shared.errors import Conflict
from shared.ids import derived_ulid, new_ulid, now
from shared.names import DocumentType, EventType
from shared.services import Services
from shared.store.port import Create, Document, FieldIn, Partition, Query

LOG = Partition("system", "operators")
"""Where the events are. No scope of a user or group is called so."""
KEPT_SECONDS = 400 * 24 * 3600


def _entry(entry_id: str, event_type: EventType, by: Mapping[str, str], data: Mapping[str, Any]) -> Create:
    return Create(
        {
            "id": entry_id,
            "type": DocumentType.OPERATOR_EVENT,
            "event_type": event_type,
            "by": dict(by),
            "at": now(),
            "run_id": data.get("run_id"),
            "data": dict(data),
            "ttl": KEPT_SECONDS,
        }
    )


async def note(services: Services, event_type: EventType, by: Mapping[str, str], **data: Any) -> None:
    """Record what an operator is about to do. `data`: about what; a `run_id` makes it part of that run's trail."""
    await services.store.transact(LOG, [_entry(new_ulid(), event_type, by, data)])


async def note_look(services: Services, event_type: EventType, by: Mapping[str, str], **data: Any) -> None:
    """Record that an operator looks at something, once a minute."""
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    what = "\n".join([event_type, by["id"], *(f"{name}={value}" for name, value in sorted(data.items()))])
    try:
        await services.store.transact(LOG, [_entry(derived_ulid(minute, what), event_type, by, data)])
    except Conflict:
        pass  # noted in this minute


def entries(run_id: str | None, limit: int, after: str | None) -> Query:
    """The events, newest first; `run_id`: those about runs of that id."""
    where = () if run_id is None else (FieldIn("run_id", (run_id,)),)
    return Query(DocumentType.OPERATOR_EVENT, LOG, where, descending=True, limit=limit, after=after)


def entry_view(entry: Document) -> dict[str, Any]:
    """An event of an operator."""
    return {"id": entry["id"], "type": entry["event_type"], "by": entry["by"], "at": entry["at"], "data": entry["data"]}
