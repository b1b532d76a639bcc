"""Events of a run: append-only documents, written in the transaction whose fact they tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.ids import new_ulid, now
from shared.names import DocumentType, EventType
from shared.store.port import Create, Document

TERMINAL_SUFFIX = "terminal"


def event(run_id: str, event_type: EventType, execution_id: str | None = None, **data: Any) -> Create:
    """The operation that appends an event to a run."""
    return Create(_document(run_id, new_ulid(), event_type, execution_id, data))


def terminal_event(run_id: str, event_type: EventType, **data: Any) -> Create:
    """The operation that appends the run's last event. Its id is fixed, so that there can be only one."""
    return Create(_document(run_id, TERMINAL_SUFFIX, event_type, None, data))


def _document(
    run_id: str, suffix: str, event_type: EventType, execution_id: str | None, data: Mapping[str, Any]
) -> Document:
    return {
        "id": f"{run_id}:e:{suffix}",
        "type": DocumentType.EVENT,
        "run_id": run_id,
        "event_type": event_type,
        "execution_id": execution_id,
        "at": now(),
        "data": dict(data),
    }
