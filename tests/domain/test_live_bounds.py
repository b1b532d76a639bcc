"""What the live view costs: readings of the store, memory, and who waits for whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared import live, live_log
from shared.live import LiveFeeds
from shared.store.port import Create
from tests.support.live import LONG, CountingStore, Reader, note, reader, unknown_token, watched
from tests.support.sse import parse
from tests.support.waiting import eventually

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}


async def test_two_hundred_watchers_read_the_store_once(tmp_path: Path) -> None:
    """Counted, and in memory: they hold one answer between them."""
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        token = await world.store.position(ref.partition)
        store = world.store
        assert isinstance(store, CountingStore)
        readers = [Reader(world, ref.partition, token, ref.run_id) for _ in range(200)]
        store.reads.clear()
        rounds = 5
        for round_ in range(rounds):
            windows = [asyncio.create_task(one.window()) for one in readers]
            await eventually(lambda: world.services.live.watchers == 200)
            await note(world, ref, f"{round_}", data={"text": "x" * 10_000})
            await asyncio.wait_for(asyncio.gather(*windows), LONG)
        assert all(one.ids == [f"{ref.run_id}:e:{i}" for i in range(rounds)] for one in readers)
        assert store.reads["get"] == 2, "the workflow and the run"
        assert store.reads["changes"] <= 4 * rounds + 6
        assert world.services.live.budget.used < 2 * rounds * 11_000
        bodies = world.services.live._feeds[ref.partition]._bodies
        assert len(bodies) <= live.BODIES_KEPT


async def test_tokens_that_the_log_does_not_know_are_read_once_for_all_who_bring_them(tmp_path: Path) -> None:
    """After a deployment everybody comes back to a process that knows nothing."""
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        token = await world.store.position(ref.partition)
        await note(world, ref, "missed")
        store = world.store
        assert isinstance(store, CountingStore)
        store.reads.clear()
        readers = [Reader(world, ref.partition, token, ref.run_id) for _ in range(200)]
        await asyncio.wait_for(asyncio.gather(*(one.window() for one in readers)), LONG)
        assert all(one.ids == [f"{ref.run_id}:e:missed"] for one in readers)
        assert store.reads["changes"] <= 4


async def test_a_log_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text of model calls is 16 KB a change; a reader that sleeps meanwhile comes back through the store."""
    monkeypatch.setattr(live_log, "LOG_BYTES", 100_000)
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        sleeper, awake = await reader(world, ref.partition), await reader(world, ref.partition)
        for i in range(30):
            await note(world, ref, f"{i:02}", data={"text": "x" * 16_000})
            assert await awake.window()
            assert world.services.live.budget.used <= 100_000
        while len(sleeper.ids) < 30:
            assert await sleeper.window()
        assert sleeper.ids == awake.ids
        await world.services.live.close()
        assert world.services.live.budget.used == 0


async def test_all_logs_together_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_log, "ALL_LOGS_BYTES", 60_000)
    async with watched(tmp_path) as world:
        refs = [await world.start(await world.workflow(ECHO)) for _ in range(4)]
        for ref in refs:
            follower = await reader(world, ref.partition)
            for i in range(4):
                await note(world, ref, str(i), data={"text": "x" * 10_000})
                assert await follower.window()
        assert world.services.live.budget.used <= 60_000 and len(world.services.live._feeds) == 4


async def test_a_store_that_is_away_ends_no_window(tmp_path: Path) -> None:
    async with watched(tmp_path, poll_seconds="0.01") as world:
        ref = await world.start(await world.workflow(ECHO))
        follower, store = await reader(world, ref.partition), world.store
        assert isinstance(store, CountingStore)
        assert await follower.window(0.05) == []
        waiting = asyncio.create_task(follower.window())
        store.away = True
        read = store.reads["changes"]
        await eventually(lambda: store.reads["changes"] > read + 2)
        await note(world, ref, "meanwhile")
        store.away = False
        assert [event.data["id"] for event in await waiting or []] == [f"{ref.run_id}:e:meanwhile"]


async def test_beyond_so_many_watchers_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are held in memory and in the host: there is an end to both."""
    monkeypatch.setattr(live, "MAX_WATCHERS", 3)
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        first = await reader(world, ref.partition)
        held = [asyncio.create_task(Reader(world, ref.partition, first.token).window()) for _ in range(3)]
        await eventually(lambda: world.services.live.watchers == 3)
        body = await asyncio.wait_for(
            world.services.live.window(world.services, ref.partition, first.token, None, LONG), LONG / 2
        )
        assert body is not None and parse(body).retry == live.CROWDED_MILLISECONDS
        await note(world, ref, "news")
        assert all(await asyncio.gather(*held))


async def test_in_a_crowd_no_feed_outlives_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else requests for ever more workflows would leave a reader of the store behind, each."""
    monkeypatch.setattr(live, "MAX_WATCHERS", 0)
    async with watched(tmp_path, poll_seconds="0.01") as world:
        ref = await world.start(await world.workflow(ECHO))
        hub = world.services.live
        held = asyncio.create_task(Reader(world, ref.partition, await world.store.position(ref.partition)).window())
        hub.watchers += 1  # somebody elsewhere
        assert await asyncio.wait_for(held, LONG) == []
        await eventually(lambda: ref.partition not in hub._feeds, live.LINGER_SECONDS / 2)


async def test_a_slow_reader_holds_nobody_up(tmp_path: Path) -> None:
    """Its own reading of the store hangs; the others are told."""
    async with watched(tmp_path) as world:
        ref, store = await world.start(await world.workflow(ECHO)), world.store
        assert isinstance(store, CountingStore)
        opener = await reader(world, ref.partition)
        await note(world, ref, "a")
        assert await opener.window()
        old, released = opener.token, asyncio.Event()
        slow = Reader(world, ref.partition, await unknown_token(world, ref))

        async def before(asked: str | None) -> None:
            if asked == slow.token:
                await released.wait()

        store.before_reading = before
        held = asyncio.create_task(slow.window())
        for name in ("b", "c", "d"):
            await note(world, ref, name)
            assert await asyncio.wait_for(opener.window(), LONG)
        assert opener.token != old and not held.done()
        released.set()
        await asyncio.wait_for(held, LONG)
        assert slow.ids == [f"{ref.run_id}:e:{name}" for name in "bcd"]


async def test_a_long_way_without_news_is_gone_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that slept while others of its workflow ran: no window reads for ever, and each gets further."""
    monkeypatch.setattr(live, "PAGE", 5)
    monkeypatch.setattr(live, "WINDOW_PAGES", 3)
    async with watched(tmp_path) as world:
        ref, store = await world.start(await world.workflow(ECHO)), world.store
        assert isinstance(store, CountingStore)
        follower = await reader(world, ref.partition, ref.run_id)
        for i in range(40):
            await world.store.transact(ref.partition, [Create({"id": f"r-{i}", "type": "receipt"})])
        await note(world, ref, "news")
        for _ in range(2):
            store.reads.clear()
            assert await asyncio.wait_for(follower.window(), LONG) == []
            assert store.reads["changes"] <= 3 + 1
        while not follower.events:
            await asyncio.wait_for(follower.window(), LONG)
        assert follower.ids == [f"{ref.run_id}:e:news"]


async def test_a_feed_is_dropped_once_nobody_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINGER_SECONDS", 0.02)
    async with watched(tmp_path, poll_seconds="0.01") as world:
        ref = await world.start(await world.workflow(ECHO))
        follower = await reader(world, ref.partition)
        assert await follower.window(0.05) == []
        await eventually(lambda: ref.partition not in world.services.live._feeds)
        await note(world, ref, "later")
        assert await follower.window() != []


async def test_more_clients_come_back_more_slowly() -> None:
    feeds = LiveFeeds(1.0)
    assert feeds.retry == b"retry: 200\n"
    feeds.watchers = 600
    assert feeds.retry == b"retry: 2000\n"
