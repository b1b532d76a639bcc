"""What a test asks the double to do wrong, and what the double counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """One request's misfortune. With a `status`, that is the answer; `then` says what happens to the connection.

    `applied`: the request takes effect all the same. `stall`: no answer at all, until the client gives up.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    applied: bool = False
    operation: int | None = None
    """With a batch: the status of its first operation, and so the batch isn't applied."""
    then: Literal["answer", "cut", "half", "garble", "stall"] = "answer"


def throttled(seconds: float = 0.01, applied: bool = False) -> Fault:
    """Status 429."""
    return Fault(429, {"x-ms-retry-after-ms": str(int(seconds * 1000))}, applied)


def status(code: int, applied: bool = False, sub_status: int = 0) -> Fault:
    """Any other status."""
    return Fault(code, {"x-ms-substatus": str(sub_status)}, applied)


def operation_status(code: int) -> Fault:
    """A batch answered with 207, its first operation having failed so."""
    return Fault(operation=code)


def cut(applied: bool) -> Fault:
    """The connection breaks, before or after the request took effect."""
    return Fault(applied=applied, then="cut")


def half_an_answer() -> Fault:
    """The request takes effect, and the connection breaks in the middle of its answer."""
    return Fault(applied=True, then="half")


def garbled() -> Fault:
    """The request takes effect, and its answer is not JSON."""
    return Fault(applied=True, then="garble")


def stalled(applied: bool) -> Fault:
    """No answer."""
    return Fault(applied=applied, then="stall")


class Trouble:
    """Faults to come, by kind of request: `batch`, `read`, `query`, `feed`, `container`, `account`. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[str, list[Fault | None]] = {}
        self.seen: Counter[str] = Counter()
        self.charges: Counter[str] = Counter()
        """Request units by kind, in hundredths; see `server.charge`."""
        self.every: Fault | None = None
        """What every request meets that no planned fault does."""
        self.stale = False
        """Reads are as old as the session token allows."""
        self.page_size: int | None = None
        """Pages of queries are this short at most, and the first is empty."""
        self.clock_offset = 0.0
        """How far the service's clock is ahead, in seconds."""

    def plan(self, kind: str, *faults: Fault | None) -> None:
        """The next requests of this kind meet these faults (None: none), one each."""
        with self._lock:
            self._next.setdefault(kind, []).extend(faults)

    def pending(self) -> int:
        """How many faults have not happened yet."""
        with self._lock:
            return sum(len([one for one in faults if one]) for faults in self._next.values())

    def meet(self, kind: str) -> Fault | None:
        """Count a request, and take its fault."""
        with self._lock:
            self.seen[kind] += 1
            faults = self._next.get(kind)
            return faults.pop(0) if faults else self.every

    def clear(self) -> None:
        """Forget all of it."""
        with self._lock:
            self._next.clear()
            self.seen.clear()
            self.charges.clear()
            self.every = None
        self.stale, self.page_size, self.clock_offset = False, None, 0.0
