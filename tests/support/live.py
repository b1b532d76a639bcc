"""Following a feed in one process, without a host: readers of windows, and a store that counts what they make it read."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.errors import Unavailable
from shared.executions import RunRef
from shared.store.port import Changes, Check, Create, Document, Partition, Patch
from tests.support.sse import Event, parse
from tests.support.world import RecordingStore, World, at_once, open_world

LONG = 20.0
"""Longer than any test waits: a window that lasts so long is one that missed its news."""


class CountingStore(RecordingStore):
    """Counts the readings of the feed and of documents, and holds up the feed's, as a test asks."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.reads: Counter[str] = Counter()
        self.away = False
        self.before_reading: Callable[[str | None], Awaitable[None]] | None = None
        self.after_reading: Callable[[str | None], Awaitable[None]] | None = None

    async def changes(self, partition: Partition, token: str | None = None, limit: int = 100) -> Changes:
        self.reads["changes"] += 1
        if self.away:
            raise Unavailable("away")
        if self.before_reading is not None:
            await self.before_reading(token)
        page: Changes = await self.inner.changes(partition, token, limit)
        if self.after_reading is not None:
            await self.after_reading(token)
        return page

    async def get(self, partition: Partition, document_id: str) -> Document:
        self.reads["get"] += 1
        document: Document = await self.inner.get(partition, document_id)
        return document


class Reader:
    """Follows a feed, window by window."""

    def __init__(self, world: World, partition: Partition, token: str, run_id: str | None = None) -> None:
        self.world, self.partition, self.token, self.run_id = world, partition, token, run_id
        self.events: list[Event] = []
        self.services = world.services

    async def window(self, seconds: float = LONG) -> list[Event] | None:
        """The next window; None: the run was told."""
        found = await self.services.live.window(self.services, self.partition, self.token, self.run_id, seconds)
        if found is None:
            return None
        parsed = parse(found)
        self.token = parsed.last_id or self.token
        self.events += parsed.events
        return parsed.events

    async def to_the_end(self) -> None:
        """Until the run was told."""
        async with asyncio.timeout(LONG):
            while await self.window() is not None:
                pass

    @property
    def ids(self) -> list[str]:
        return [event.data["id"] for event in self.events]


async def reader(world: World, partition: Partition, run_id: str | None = None) -> Reader:
    """One that goes on from now."""
    return Reader(world, partition, await world.store.position(partition), run_id)


async def note(world: World, ref: RunRef, name: str, **fields: Any) -> None:
    """A document of the run, as an event."""
    event: Document = {
        "type": "event",
        "run_id": ref.run_id,
        "event_type": "t",
        "execution_id": None,
        "at": "",
        "data": {},
    }
    await world.store.transact(ref.partition, [Create({**event, "id": f"{ref.run_id}:e:{name}", **fields})])


async def race(here: World, there: World, dice: random.Random, writes: int) -> None:
    """Three writers and eight readers of one run, who ask either process, window by window; then all saw the same."""
    ref = await here.start(await here.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}))
    start, total = await here.store.position(ref.partition), 3 * writes
    readers = [Reader(here, ref.partition, start, dice.choice([None, ref.run_id])) for _ in range(8)]

    async def write(world: World, lane: int) -> None:
        for i in range(writes):
            await note(world, ref, f"{lane}-{i:03}")
            hidden = Create({"id": f"{lane}-{i}", "type": "receipt"})
            await world.store.transact(ref.partition, [hidden, Patch(ref.run_id, increment={"counts.total": 1})])
            await asyncio.sleep(dice.random() * 0.004)

    async def follow(one: Reader) -> None:
        while sum(event.type == "event" for event in one.events) < total:
            one.services = dice.choice([here, there]).services
            await one.window(dice.choice([0.0, 0.002, 0.02, LONG]))
            await asyncio.sleep(dice.random() * 0.01)

    async with asyncio.timeout(LONG):
        await asyncio.gather(write(here, 0), write(there, 1), write(here, 2), *map(follow, readers))
        for one in readers:
            while await one.window(0.05):
                pass
    changed = (await here.store.changes(ref.partition, start, 1000)).items
    order = [document["id"] for document in changed if document["type"] == "event"]
    assert len(order) == total
    for one in readers:
        assert [event.data["id"] for event in one.events if event.type == "event"] == order
        states = [event.data["counts"]["total"] for event in one.events if event.type == "run"]
        assert states == sorted(set(states)), "no state twice, none after a later one"
        assert states[-1] == (await here.run(ref))["counts"]["total"]
    await here.cancel(ref)  # what other tests share the store with has ended


@asynccontextmanager
async def watched(directory: Path, script: Any = at_once, poll_seconds: str = "60") -> AsyncIterator[World]:
    """A world whose feeds are polled only when this process writes."""
    async with open_world(directory, script) as world:
        counting = CountingStore(world.services.store)
        services = replace(world.services, store=counting)
        services.live.poll_seconds = float(poll_seconds)
        yield World(services, world.model)


async def unknown_token(world: World, ref: RunRef) -> str:
    """A token for the feed's end that no log knows: a check moves the file's sequence, and changes nothing."""
    await world.store.transact(ref.partition, [Check("workflow")])
    return await world.store.position(ref.partition)
