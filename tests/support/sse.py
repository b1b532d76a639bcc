"""Server-sent events, read as the standard says browsers do (HTML, "Interpreting an event stream")."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One event: its type, its id, its data as JSON."""

    type: str
    id: str
    data: Any


@dataclass
class Parsed:
    """A window: its events, the last id that it set (also without an event), and its hint when to come back."""

    events: list[Event] = field(default_factory=list)
    last_id: str | None = None
    retry: int | None = None


def parse(body: bytes) -> Parsed:
    """Parse a window, whole or cut off: what comes after the last blank line is dropped, as browsers do."""
    parsed = Parsed()
    buffer_id, kind, data = "", "", list[str]()
    for raw in body.split(b"\n")[:-1]:
        line = raw.decode("utf-8")
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            parsed.last_id = buffer_id or parsed.last_id
            if data:
                parsed.events.append(Event(kind or "message", buffer_id, json.loads("\n".join(data))))
            kind, data = "", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            buffer_id = value
        elif name == "retry":
            parsed.retry = int(value)
    return parsed
