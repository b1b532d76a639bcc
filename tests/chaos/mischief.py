"""What is done to the processes and to the store while the load runs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.cosmos_double import faults
from tests.cosmos_double.server import Double
from tests.support.host import Host, HostEnded

STALLS = 0.02
"""The part of faults that are no answer at all; each takes the client's whole timeout."""
STARTS = 5
"""How often the host is started before it is given up."""


async def pause(random_: random.Random, stop: asyncio.Event, least: float, most: float) -> None:
    """Some time between, or until `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), random_.uniform(least, most))
    except TimeoutError:
        pass


class Killer:
    """Kills processes of a host with -9. Workers are replaced by the host; the host, by this."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.killed: Counter[str] = Counter()

    async def __call__(self, random_: random.Random, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await pause(random_, stop, 0.1, 1.5)
            if not stop.is_set():
                await asyncio.to_thread(self._kill, random_)

    def _kill(self, random_: random.Random) -> None:
        dice = random_.random()
        workers = children(self.host.pid)
        if dice < 0.7 and workers:
            for pid in random_.sample(workers, 1 if dice < 0.55 else len(workers)):
                self.killed["worker"] += _kill9(pid)
        else:
            alone = dice < 0.9
            self.host.kill9(alone=alone)
            self.killed["host" if alone else "everything"] += 1
            self._start_again()

    def _start_again(self) -> None:
        """As a service manager does: a host that finds its file locked says so and ends."""
        for last in [False] * (STARTS - 1) + [True]:
            try:
                self.host.restart()
                break
            except HostEnded:
                if last:
                    raise


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that are still there."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in (line.split() for line in listed.splitlines()) if int(parent) == pid]


def _kill9(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class LockedFile:
    """Another program (a backup, a shell) holds the SQLite file's write lock, for longer than anybody waits."""

    def __init__(self, file: Path, longest: float) -> None:
        self.file, self.longest = file, longest
        self.outages = 0

    async def __call__(self, random_: random.Random, stop: asyncio.Event) -> None:
        with closing(sqlite3.connect(self.file, timeout=0.05, isolation_level=None)) as connection:
            while not stop.is_set():
                await pause(random_, stop, 0.5, 4)
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    continue  # somebody writes: next time
                self.outages += 1
                await pause(random_, stop, 0.05, self.longest)
                connection.execute("ROLLBACK")


class BadRequests:
    """The Cosmos account throttles, fails, breaks connections before and after the request took effect, and goes away."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.outages = 0

    async def __call__(self, random_: random.Random, stop: asyncio.Event) -> None:
        trouble = self.double.trouble
        try:
            while not stop.is_set():
                await pause(random_, stop, 0.0, 0.1)
                if random_.random() < 0.02:
                    self.outages += 1
                    await self._go_away(random_, stop)
                elif trouble.pending() < 20:
                    kind = random_.choice(["batch", "batch", "read", "query"])
                    trouble.plan(kind, misfortune(random_, kind))
        finally:
            trouble.clear()

    async def _go_away(self, random_: random.Random, stop: asyncio.Event) -> None:
        """For a while every request fails."""
        for kind in ("batch", "read", "query"):
            self.double.trouble.plan(kind, *(misfortune(random_, kind) for _ in range(100)))
        await pause(random_, stop, 0.5, 6)
        self.double.trouble.clear()


def misfortune(random_: random.Random, kind: str) -> faults.Fault:
    """What may happen to a request of this kind."""
    applied = random_.random() < 0.5
    if random_.random() < STALLS:
        return faults.stalled(applied)
    of_its_operations = [faults.operation_status(449), faults.operation_status(429)] if kind == "batch" else []
    return random_.choice(
        [
            *of_its_operations,
            faults.throttled(random_.random() * 0.2),
            faults.status(449),
            faults.status(503, applied),
            faults.status(500, applied),
            faults.status(410),
            faults.cut(applied),
            faults.half_an_answer(),
            faults.garbled(),
        ]
    )
