"""Bursts of files against crashes at every step, and against deliveries that meet in every order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.errors import NotFound
from shared.file_bursts import LOST_SECONDS, wake_lost_bursts
from shared.file_sync import BURST_ID, Arrival
from shared.store.port import Delete, Op
from shared.workflows import change
from tests.support.inbox import Inbox, inbox_of
from tests.support.world import RecordingStore, World, open_world


@pytest.fixture
async def inbox(world: World, tmp_path: Path) -> Inbox:
    return await inbox_of(world, tmp_path)


class Crash(Exception):
    """The process dies here."""


class Crashing:
    """Makes the durable step (a write of the store, a message) number `at` die, before or after it was applied."""

    def __init__(self, inbox: Inbox, at: int, *, applied: bool) -> None:
        self.count, self._at, self._applied = 0, at, applied
        store = RecordingStore(inbox.services.store)
        store.transact = self._dying(store.transact)  # type: ignore[method-assign]
        inbox.services.store = store
        inbox.services.queue.send = self._dying(inbox.services.queue.send)  # type: ignore[method-assign]

    def disarm(self) -> bool:
        """No more crashes. Whether there was one."""
        happened, self._at = self.count >= self._at, 0
        return happened

    def _dying(self, step: Callable[..., Any]) -> Callable[..., Any]:
        async def dying(*arguments: Any) -> Any:
            self.count += 1
            mine = self.count == self._at
            if mine and not self._applied:
                raise Crash
            result = await step(*arguments)
            if mine:
                raise Crash
            return result

        return dying


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_step_loses_no_file_and_doubles_none(tmp_path: Path, applied: bool) -> None:
    """Guards each step of a burst, of a run that finds the workflow busy, and of what is too much for one run."""
    at, more = 0, True
    while more:
        at += 1
        async with open_world(tmp_path / f"{at}") as world:
            inbox = await inbox_of(world, tmp_path / f"{at}")
            busy = await world.start(inbox.workflow)
            crash = Crashing(inbox, at, applied=applied)
            for path in ("a.txt", "b.exe", "c.txt"):
                inbox.drop(path)
                await again_on_crash(inbox.deliver, path)
            await again_on_crash(inbox.later, 10)
            await again_on_crash(inbox.world.cancel, busy)
            for _ in range(2):
                await again_on_crash(inbox.later, LOST_SECONDS + 10)
                await again_on_crash(wake_lost_bursts, inbox.services, inbox.now)
            await again_on_crash(inbox.later, 10)
            more = crash.disarm()
            _, run = await inbox.runs()
            assert [file["path"] for file in run["input"]["files"]] == ["a.txt", "c.txt"]
            assert [file["path"] for file in run["input"]["skipped"]] == ["b.exe"]
            assert inbox.orchestrations.started == [run["id"]]
            await inbox.drive(run)
            await inbox.later(400)
            for path in ("a.txt", "b.exe", "c.txt"):
                assert await inbox.deliver(path) == Arrival.KNOWN
            assert await inbox.at_rest()
    assert at > 12


async def again_on_crash(deliver: Callable[..., Any], *arguments: Any) -> None:
    """At-least-once: what raised is delivered again."""
    for _ in range(3):
        try:
            await deliver(*arguments)
            return
        except Crash:
            continue
    raise AssertionError("it crashed more than once")


async def test_a_file_that_arrives_as_the_burst_is_closed_has_a_run(inbox: Inbox) -> None:
    """Guards the moment between the last look for files and the end of the burst."""
    inbox.drop("late.txt")

    async def at_the_end(ops: Sequence[Op]) -> None:
        if isinstance(ops[0], Delete):
            store.before = None
            assert await inbox.deliver("late.txt") == Arrival.PENDING

    store = RecordingStore(inbox.services.store)
    inbox.services.store, store.before = store, at_the_end
    await inbox.put("a.txt")
    await inbox.later(10)
    await inbox.drive_started()
    await inbox.later(10)
    assert await inbox.paths() == [["a.txt"], ["late.txt"]]
    assert await inbox.at_rest()


async def test_a_newer_version_is_not_replaced_by_a_slow_delivery_of_an_older_one(inbox: Inbox) -> None:
    """Guards the last version: nothing would bring it back, as its own delivery is done."""

    async def meanwhile(_ops: Sequence[Op]) -> None:
        store.before = None
        await inbox.put("a.txt", data=b"newer")

    store = RecordingStore(inbox.services.store)
    inbox.services.store = store
    await inbox.put("a.txt", data=b"first")
    for before in (None, meanwhile):
        store.before = before
        await inbox.put("a.txt", data=b"old")
    await inbox.later(10)
    (run,) = await inbox.runs()
    assert [(file["path"], file["size"]) for file in run["input"]["files"]] == [("a.txt", 5)]


async def test_a_workflow_that_is_disabled_this_very_moment_is_not_started(inbox: Inbox) -> None:
    """Guards that nothing starts once a person has been told that the workflow is disabled."""

    async def meanwhile(ops: Sequence[Op]) -> None:
        if len(ops) > 3:
            store.before = None
            await change(inbox.services, inbox.partition, {"enabled": False}, None, merge=True)

    store = RecordingStore(inbox.services.store)
    await inbox.put("a.txt")
    inbox.services.store, store.before = store, meanwhile
    await inbox.later(60)
    (run,) = await inbox.runs()
    assert (run["status"], inbox.orchestrations.started) == ("skipped", [])
    assert await inbox.at_rest()


async def test_a_read_that_lags_behind_does_not_lose_the_burst(inbox: Inbox) -> None:
    """Guards a store where only writes are sure to see the latest: the message of a burst comes once."""

    class Lagging(RecordingStore):
        async def get(self, partition: Any, document_id: str) -> Any:
            if document_id == BURST_ID:
                raise NotFound(document_id)
            return await self.inner.get(partition, document_id)

    await inbox.put("a.txt")
    inbox.services.store = Lagging(inbox.services.store)
    await inbox.later(10)
    assert await inbox.paths() == [["a.txt"]]
    assert await inbox.at_rest()


class Dawdling:
    """Lets others go first, before and after each call, by chance."""

    def __init__(self, inner: Any, chance: random.Random) -> None:
        self._inner, self._chance = inner, chance

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            await self._dawdle()
            result = await getattr(self._inner, name)(*arguments)
            await self._dawdle()
            return result

        return call

    async def _dawdle(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 5, 20))):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(8))
async def test_deliveries_at_once_bring_each_last_version_once(inbox: Inbox, seed: int) -> None:
    """Guards every order in which drops, deliveries and messages may meet, each delivery and message coming twice."""
    chance = random.Random(seed)
    inbox.services.store = Dawdling(inbox.services.store, chance)
    inbox.services.sources = Dawdling(inbox.services.sources, chance)
    paths = [f"{index}.txt" for index in range(4)]

    async def write(path: str, tasks: asyncio.TaskGroup) -> None:
        for _ in range(5):
            inbox.drop(path, chance.randbytes(8))
            for _ in range(2):
                tasks.create_task(inbox.deliver(path))
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)

    async def work(tasks: asyncio.TaskGroup) -> None:
        for _ in range(60):
            for one in list(inbox.sent):
                inbox.sent.remove(one)
                for _ in range(2):
                    tasks.create_task(inbox.close(one[1]))
            await inbox.drive_started()

    async with asyncio.TaskGroup() as tasks:
        for path in paths:
            tasks.create_task(write(path, tasks))
        tasks.create_task(work(tasks))
    for _ in range(4):
        await inbox.later(400)
        await inbox.drive_started()
    versions = [(file["path"], file["etag"]) for run in await inbox.runs() for file in run["input"]["files"]]
    assert len(versions) == len(set(versions))
    for path in paths:
        assert (path, (await inbox.services.sources.info(inbox.blob(path))).etag) in versions
    assert sorted(run["id"] for run in await inbox.runs()) == sorted(inbox.orchestrations.started)
    assert await inbox.at_rest()
