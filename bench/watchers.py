"""`python -m bench watchers`: 200 clients follow one run over HTTP, and what its readings of the store come to."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from bench.host import Client, Json
from shared.activity import activity
from tests.support.live import CountingStore
from tests.support.sse import parse
from tests.support.world import open_world, streaming

WATCHERS = 200
STEPS = 10
PAUSE: Json = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 1}}
Row = tuple[str, str, str, str]
Timed = Callable[[str, list[float], str], Row]


@dataclass
class Watcher:
    """One client, as an `EventSource`: it comes back when it is told to, with the last id."""

    token: str
    waited: list[float] = field(default_factory=list)
    """Seconds from each write that came while a window was open to that window's answer."""
    told: list[float] = field(default_factory=list)
    """Seconds from each event to the answer that had it."""
    seen: set[str] = field(default_factory=set)

    async def follow(self, client: Client, path: str) -> None:
        """To the run's end."""
        while True:
            asked = time.time()
            async with client.session.get(path, headers={"Last-Event-ID": self.token}) as answer:
                body = await answer.read()
                if answer.status == 204:
                    return
            window, now = parse(body), time.time()
            moments = [
                datetime.fromisoformat(one.data["at"]).timestamp() for one in window.events if one.type == "event"
            ]
            self.told += [max(0.0, now - moment) for moment in moments]
            if moments and min(moments) > asked:
                self.waited.append(max(0.0, now - min(moments)))
            self.seen |= {one.data["id"] for one in window.events if one.type == "event"}
            self.token = window.last_id or self.token
            await asyncio.sleep((window.retry or 0) / 1000)


async def over_http(client: Client, row: Timed) -> list[Row]:
    """From a write to each watcher's answer, and what the watchers add to the host's memory."""
    path = await client.workflow(*[PAUSE] * STEPS)
    _, run = await client.call("POST", f"{path}/run")
    _, before = await client.call("GET", f"{path}/activity?run_id={run['id']}")
    memory = _memory(client.pid)
    watchers = [Watcher(before["feed"]) for _ in range(WATCHERS)]
    own = f"{path}/stream?run_id={run['id']}"
    peak = memory

    async def measure() -> None:
        nonlocal peak
        while True:
            peak = max(peak, _memory(client.pid))
            await asyncio.sleep(0.1)

    measuring = asyncio.create_task(measure())
    await asyncio.gather(*(one.follow(client, own) for one in watchers))
    measuring.cancel()
    assert all(one.seen == watchers[0].seen for one in watchers), "each was told the same"
    return [
        row(f"{WATCHERS} watchers of a run: write to answer", [one for w in watchers for one in w.waited], ""),
        row("  with the pauses between windows", [one for w in watchers for one in w.told], "p95 <= 1000 ms"),
        ("  memory that they add to the host", f"{(peak - memory) / 1024:.0f} MB", "", ""),
    ]


async def readings() -> list[Row]:
    """Readings of the store a second while a model writes, by one watcher and by many."""
    one, many = [f"{await _rate(count):.1f}/s" for count in (1, WATCHERS)]
    return [(f"  store reads while a model writes: 1 watcher, {WATCHERS}", one, many, "")]


async def _rate(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), streaming(1000, 0.006), poll_seconds="0.25", fence_seconds="10") as world:
            ref = await world.start(await world.workflow({"kind": "model", "prompt": "Go"}))
            before = await activity(world.services, ref.partition, ref.run_id)
            store = CountingStore(world.services.store)
            services = replace(world.services, store=store)

            async def follow() -> None:
                token = before["feed"]
                while body := await services.live.window(services, ref.partition, token, ref.run_id, 20.0):
                    window = parse(body)
                    token = window.last_id or token
                    await asyncio.sleep((window.retry or 0) / 1000)

            began = time.perf_counter()
            await asyncio.gather(world.drive(ref), *(follow() for _ in range(count)))
            return store.reads.total() / (time.perf_counter() - began)


def _memory(pid: int) -> int:
    """Resident kilobytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise LookupError(pid)
