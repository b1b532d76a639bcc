"""Reconcile dies at any write, or two work at once: what they leave is mended by the next pass, and never doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.names import LOCK_ID
from shared.reconcile import reconcile
from shared.states import TERMINAL_RUN
from shared.store.port import Create, Delete, Document, Op, Partition, Patch
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.scenes import ECHO, MODEL, Scene, accept_only, at_work, begun, scene
from tests.support.world import RecordingStore, World

MAX_WRITES = 20
SETTINGS = {"fence_seconds": "0.03"}


class Crash(BaseException):
    """The process died."""


class CrashingStore:
    """A store whose process dies at its `at`-th write: before that is done, or after, when nobody hears the answer."""

    def __init__(self, inner: Any, at: int, after: bool) -> None:
        self.inner, self.at, self.after = inner, at, after
        self.writes = 0

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        self.writes += 1
        if self.writes > self.at or (self.writes == self.at and not self.after):
            raise Crash
        result: list[Document | None] = await self.inner.transact(partition, ops)
        if self.writes == self.at:
            raise Crash
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


async def never_started(one: Scene) -> None:
    one.durable.forget(one.ref)


async def terminated_queued(one: Scene) -> None:
    one.durable.put(one.ref, "Terminated", "enough")


async def terminated(one: Scene) -> None:
    await begun(one)
    one.durable.put(one.ref, "Terminated", "enough")


async def vanished(one: Scene) -> None:
    await begun(one)
    one.durable.forget(one.ref)


async def lost_at_work(one: Scene) -> None:
    await at_work(one)
    one.durable.put(one.ref, "Failed", "boom")


async def unsettled(one: Scene) -> None:
    await begun(one)
    await accept_only(one)


async def overdue(one: Scene) -> None:
    await at_work(one)
    await accept_only(one, grace_seconds=0)
    long_ago = Patch("r1", set={"cancel.requested_at": "2026-01-01T00:00:00.000Z"})
    await one.world.store.transact(one.ref.partition, [long_ago])


async def orphaned(one: Scene) -> None:
    """The run's document is gone; its lock, its workflow's field and its receipt are there."""
    expired = Patch(LOCK_ID, set={"expires_at": "2026-01-01T00:00:00.000Z"})
    await one.world.store.transact(one.ref.partition, [Delete("r1"), expired])


async def lock_again(one: Scene) -> None:
    lock = await one.world.store.get(one.ref.partition, LOCK_ID)
    await one.world.drive(one.ref)
    restored = {key: value for key, value in lock.items() if not key.startswith("_")}
    restored["expires_at"] = "2026-01-01T00:00:00.000Z"
    await one.world.store.transact(one.ref.partition, [Create(restored)])


SETUPS: list[Callable[[Scene], Awaitable[None]]] = [
    never_started, terminated_queued, terminated, vanished, lost_at_work, unsettled, overdue, orphaned, lock_again,
]  # fmt: skip


async def mended(one: Scene, passes: int = 2) -> None:
    """After passes that nothing disturbs the run has ended whole, or was started once and completes."""
    for _ in range(passes):
        await one.reconcile()
    assert await one.reconcile() == {}
    if one.durable.started:
        assert one.durable.started == ["r1"]
        assert await one.world.drive(one.ref) == "completed"
    assert await one.world.idle(one.ref)
    receipt = await one.world.store.get(one.ref.partition, "receipt:manual:r1")
    assert receipt["outcome"] is not None
    events = [event["event_type"] for event in await one.world.events(one.ref)]
    repairs = [name for name in events if name.startswith("repair.")]
    assert len(repairs) == len(set(repairs)), repairs
    if receipt["outcome"] != "lost":
        run = await one.run()
        assert run["status"] in TERMINAL_RUN
        assert run["status"] == receipt["outcome"]
        if run["status"] == "cancelled":
            await assert_cancelled_whole(one.world, one.ref, acknowledged=not run["cancel"]["forced"])


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
@pytest.mark.parametrize("setup", SETUPS)
async def test_a_reconcile_that_dies_is_made_good_by_the_next(
    setup: Callable[[Scene], Awaitable[None]], after: bool, tmp_path: Path
) -> None:
    """Guards every place between two writes of every repair."""
    for at in range(1, MAX_WRITES):
        async with scene(tmp_path / str(at), MODEL, ECHO, **SETTINGS) as one:
            await setup(one)
            store = CrashingStore(one.world.store, at, after)
            died = False
            try:
                await reconcile(replace(one.world.services, store=store), one.durable)
            except Crash:
                died = True
            await mended(one)
            if not died:
                return
    raise AssertionError(f"over {MAX_WRITES} writes")


@pytest.mark.parametrize("setup", SETUPS)
async def test_two_reconciles_at_once_mend_a_thing_once(
    setup: Callable[[Scene], Awaitable[None]], tmp_path: Path
) -> None:
    """Guards timers that overlap: each repair is made and told once, by either."""
    random_ = random.Random(20261121)
    for round_ in range(3):
        async with scene(tmp_path / str(round_), MODEL, ECHO, **SETTINGS) as one:
            await setup(one)
            stores = [RecordingStore(one.world.store) for _ in range(2)]

            async def before(ops: Sequence[Op]) -> None:
                await asyncio.sleep(random_.random() * 0.003)

            worlds = [World(replace(one.world.services, store=store), one.world.model) for store in stores]
            for store in stores:
                store.before = before
            done = await asyncio.gather(*(reconcile(world.services, one.durable) for world in worlds))
            repairs = [kind for counts in done for kind, count in counts.items() for _ in range(count)]
            assert repairs
            await mended(one)
