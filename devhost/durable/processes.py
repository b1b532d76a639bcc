"""Which processes share a task hub: how each shows that it lives, learns that another does not, and wakes another.

A process holds a lock on a file of its own for as long as it lives, whichever way it ends: who can take that lock has
proof of its death, at once. A process that lives but stands still (stopped, swapped out, blocked) keeps the lock but
not its heartbeat: the file's modification time, which costs no transaction to renew. Wake-ups are datagrams of one byte on
loopback, mere hints: what there is to do is in the hub, and everyone looks there twice a second anyway.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: heartbeats have to do
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_LOCKS = fcntl is not None
TICK_SECONDS = 0.5
WEDGED_SECONDS = 12.0
"""Longer than the app's own fence (`fence_seconds`): who stands still so long has given up its operations by then."""
ADDRESS = "127.0.0.1"
WAKE = b"!"  # asyncio sends no empty datagrams
_SUFFIX = ".lock"


@dataclass(frozen=True, slots=True)
class Process:
    """A row of `durable_processes`: `port` is where it hears wake-ups; `pid` is for people."""

    id: str
    pid: int
    port: int


@dataclass(slots=True)
class _Pulse:
    beat: int | None
    unchanged_for: float = 0.0


class Processes(asyncio.DatagramProtocol):
    """This process among those that share the hub. `directory` holds the lock files; `nudged` is called on a wake-up."""

    def __init__(self, directory: Path, nudged: Callable[[], None], wedged_seconds: float = WEDGED_SECONDS) -> None:
        self._directory, self._nudged, self._wedged_seconds = directory, nudged, wedged_seconds
        self._lock: IO[bytes] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._others: dict[str, Process] = {}
        self._pulses: dict[str, _Pulse] = {}
        self._looked_at = time.monotonic()
        self.id = ""
        """Unique to this life: a process that was declared dead comes back under another."""

    @property
    def alone(self) -> bool:
        """Whether no other process was there when we last looked."""
        return not self._others

    @property
    def count(self) -> int:
        """How many share the hub, this one included."""
        return len(self._others) + 1

    async def enter(self) -> Process:
        """Begin a life: a new id, its lock, and a port for wake-ups. Answers the row for the hub. Raises OSError."""
        if self._transport is None:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(ADDRESS, 0))
        self._let_go()
        self._directory.mkdir(parents=True, exist_ok=True)
        while self._lock is None:
            self.id = uuid4().hex
            self._lock = _locked(self._path(self.id))
        return Process(self.id, os.getpid(), self._transport.get_extra_info("sockname")[1])

    def leave(self) -> None:
        """End this life. Idempotent."""
        self._let_go()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def beat(self) -> None:
        """Show that this process is at work."""
        try:
            os.utime(self._path(self.id))
        except FileNotFoundError:
            logger.warning("%s was removed; others will soon take this process for dead", self._path(self.id))

    def update(self, rows: Iterable[Process]) -> None:
        """Learn from the hub's `rows` who is there."""
        self._others = {row.id: row for row in rows if row.id != self.id}

    def dead(self) -> list[str]:
        """The others that are dead, or have stood still for so long that they count as dead.

        Call it each tick. Only seconds in which we looked ourselves are counted: after a pause of the whole machine
        everybody's heartbeat looks old.
        """
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, 2 * TICK_SECONDS), now
        self._pulses = {one: pulse for one, pulse in self._pulses.items() if one in self._others}
        return [other for other in self._others if self._is_dead(other, passed)]

    def _is_dead(self, other: str, passed: float) -> bool:
        died, beat = _examine(self._path(other))
        pulse = self._pulses.setdefault(other, _Pulse(beat))
        pulse.unchanged_for = pulse.unchanged_for + passed if pulse.beat == beat else 0.0
        pulse.beat = beat
        wedged = pulse.unchanged_for > self._wedged_seconds
        if died or wedged:
            why = "has ended" if died else f"has stood still for {pulse.unchanged_for:.1f} s"
            logger.warning("process %d %s; its work goes to others", self._others[other].pid, why)
        return died or wedged

    def sweep(self) -> None:
        """Remove the files of processes that are dead and not in the hub (any more)."""
        if not _LOCKS:
            return
        for path in self._directory.glob(f"*{_SUFFIX}"):
            if path.name.removesuffix(_SUFFIX) not in self._others and path != self._path(self.id):
                lock = _locked(path)
                if lock is not None:
                    _remove(path, lock)

    def nudge(self, owners: Iterable[str]) -> None:
        """Wake those of `owners` that are other processes. May be lost."""
        for owner in set(owners):
            other = self._others.get(owner)
            if other is not None and self._transport is not None:
                self._transport.sendto(WAKE, (ADDRESS, other.port))

    def nudge_all(self) -> None:
        """Wake every other process."""
        self.nudge(self._others)

    def datagram_received(self, _data: bytes, _addr: object) -> None:
        """asyncio's: somebody woke us."""
        self._nudged()

    def error_received(self, _exc: Exception) -> None:
        """asyncio's: nobody listens on a port of ours any more; its death is noticed at the next tick."""

    def _path(self, one: str) -> Path:
        return self._directory / f"{one}{_SUFFIX}"

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            _remove(self._path(self.id), lock)


def _locked(path: Path) -> IO[bytes] | None:
    """`path`, made if missing, open and locked; None if another has the lock, or removed the file meanwhile."""
    file = path.open("ab")
    if not _LOCKS:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _examine(path: Path) -> tuple[bool, int | None]:
    """Whether the file's process is certainly dead, and its last heartbeat. A file that is gone proves nothing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False, None
    with file:
        if _LOCKS:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may examine it at this moment, too
                return True, None
            except OSError:
                pass
        return False, os.fstat(file.fileno()).st_mtime_ns


def _remove(path: Path, lock: IO[bytes]) -> None:
    # Unlinked while locked, so that nobody can lock it in between and hold a file that is no longer there.
    if _LOCKS:
        path.unlink(missing_ok=True)
    lock.close()
    if not _LOCKS:
        path.unlink(missing_ok=True)
