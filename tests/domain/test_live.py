"""The live view: windows that lose nothing and tell nothing twice, one reading for all who watch."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from shared import live, live_log
from shared.activity import activity
from shared.errors import NotFound
from shared.store.port import Create, Delete, Partition
from tests.support.live import LONG, CountingStore, Reader, note, race, reader, unknown_token, watched
from tests.support.sse import parse
from tests.support.waiting import eventually
from tests.support.world import open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}


def partition_of(workflow: dict[str, Any]) -> Partition:
    return Partition(workflow["scope"], workflow["workflow_id"])


@pytest.mark.parametrize("page", [1, 50])
async def test_a_run_is_told_to_its_end_and_then_no_more(
    tmp_path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event once, every execution and the run in their last states, in order; then the stream says that it is over.

    Also when the transaction that ends it comes in several pages.
    """
    monkeypatch.setattr(live, "PAGE", page)
    async with watched(tmp_path, streaming()) as world:
        ref = await world.start(await world.workflow(ECHO, MODEL))
        follower = await reader(world, ref.partition, ref.run_id)
        _, status = await asyncio.gather(follower.to_the_end(), world.drive(ref))
        assert status == "completed"
        events = [event.data["id"] for event in follower.events if event.type == "event"]
        assert events == [one["id"] for one in (await world.events(ref))[1:]]  # the first came before the token
        last = {event.data["id"]: event.data for event in follower.events}
        executions = await world.executions(ref)
        assert {one["id"]: (one["status"], one["output_preview"]) for one in executions.values()} == {
            key: (one["status"], one["output_preview"]) for key, one in last.items() if "path" in one
        }
        assert last[ref.run_id]["status"] == "completed"
        assert await follower.window() is None


async def test_a_run_that_ended_before_is_told_from_the_token_on(tmp_path: Path) -> None:
    """A page that slept through the end."""
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        late, just_in_time = await reader(world, ref.partition, ref.run_id), None
        await world.drive(ref)
        just_in_time = await reader(world, ref.partition, ref.run_id)
        await late.to_the_end()
        assert late.ids[-1] in (ref.run_id, f"{ref.run_id}:e:terminal")
        assert {ref.run_id, f"{ref.run_id}:e:terminal", f"{ref.run_id}:s01"} <= set(late.ids)
        await just_in_time.to_the_end()
        assert just_in_time.events == []


async def test_only_what_is_of_the_run_is_told(tmp_path: Path) -> None:
    async with watched(tmp_path) as world:
        workflow = await world.workflow(ECHO)
        first = await world.start(workflow)
        await world.drive(first)
        everything = await reader(world, first.partition)
        second = await world.start(workflow)
        one = await reader(world, first.partition, second.run_id)
        await asyncio.gather(one.to_the_end(), world.drive(second))
        assert {event.type for event in one.events} == {"run", "execution", "event"}
        assert all(second.run_id in event.data["id"] for event in one.events)
        while f"{second.run_id}:e:terminal" not in everything.ids:
            await everything.window()
        assert {event.type for event in everything.events} == {"run", "execution", "event", "workflow"}


async def test_what_nobody_may_see_is_never_told(tmp_path: Path) -> None:
    """The feed has all documents of a partition: the secrets of webhooks and senders too."""
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        follower = await reader(world, ref.partition)
        hidden = ("lock", "receipt", "delivery", "secrets", "file", "burst", "rejected", "group", "anything")
        for kind in hidden:
            document = {"id": f"x-{kind}", "type": kind, "run_id": ref.run_id, "value": f"hidden {kind}"}
            await world.store.transact(ref.partition, [Create(document)])
        await note(world, ref, "shown")
        found = await world.services.live.window(world.services, ref.partition, follower.token, None, LONG)
        assert found is not None and b"hidden" not in found
        assert [event.data["id"] for event in parse(found).events] == [f"{ref.run_id}:e:shown"]
        await note(world, ref, "data", secret="hidden", epoch=7)
        assert b"hidden" not in (
            await world.services.live.window(world.services, ref.partition, parse(found).last_id, None, LONG)
            or b"hidden"
        )


async def test_without_a_token_the_stream_begins_now_and_says_where(tmp_path: Path) -> None:
    """Answered at once: else what happens between that window and the next would be lost."""
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        found = await world.services.live.window(world.services, ref.partition, None, None, LONG)
        assert found is not None and parse(found).events == []
        follower = Reader(world, ref.partition, parse(found).last_id or "")
        await note(world, ref, "next")
        assert [event.data["id"] for event in await follower.window() or []] == [f"{ref.run_id}:e:next"]


async def test_a_quiet_window_ends_with_where_to_go_on(tmp_path: Path) -> None:
    async with watched(tmp_path, poll_seconds="0.01") as world:
        ref = await world.start(await world.workflow(ECHO))
        follower = await reader(world, ref.partition)
        assert await follower.window(0.05) == []
        assert world.services.live._feeds[ref.partition].log.number_of(follower.token) is not None
        other = await reader(world, ref.partition, ref.run_id)
        await world.store.transact(ref.partition, [Create({"id": "x", "type": "receipt"})])
        before = other.token
        assert await other.window(0.2) == []
        assert other.token != before, "what is not shown is not read again by each window"


async def test_what_is_missing_is_not_found(tmp_path: Path) -> None:
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        services = world.services
        for partition, run_id in ((Partition("user:bob", "w"), None), (ref.partition, "nope"), (ref.partition, "lock")):
            with pytest.raises(NotFound):
                await services.live.window(services, partition, None, run_id, LONG)
        assert Partition("user:bob", "w") not in services.live._feeds
        with pytest.raises(ValueError, match="token"):
            await services.live.window(services, ref.partition, "nonsense", None, LONG)


async def test_a_deleted_workflow_ends_its_windows(tmp_path: Path) -> None:
    async with watched(tmp_path) as world:
        workflow = await world.workflow(ECHO)
        follower = await reader(world, partition_of(workflow))
        waiting = asyncio.create_task(follower.window())
        await eventually(lambda: world.services.live.watchers and follower.partition in world.services.live._feeds)
        ops = [Delete("workflow"), Create({"id": "deleted", "type": "tombstone", "at": ""})]
        await world.store.transact(follower.partition, ops)
        with pytest.raises(NotFound):
            await asyncio.wait_for(waiting, LONG)


@pytest.mark.parametrize("seed", range(6))
async def test_readers_of_every_kind_see_the_same_feed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens from anywhere, windows cut short, logs outrun, two processes: nothing lost, nothing told twice."""
    dice = random.Random(seed)
    monkeypatch.setattr(live_log, "LOG_ENTRIES", dice.choice([3, 20, 1000]))
    monkeypatch.setattr(live, "WINDOW_BYTES", dice.choice([1, 2000, 256 * 1024]))
    monkeypatch.setattr(live, "PAGE", dice.choice([2, 7, 50]))
    monkeypatch.setattr(live, "BREATH_SECONDS", 0.001)
    async with watched(tmp_path, poll_seconds="0.005") as here, watched(tmp_path, poll_seconds="0.005") as there:
        await race(here, there, dice, writes=20)


async def test_what_is_written_while_a_token_is_looked_up_is_not_lost(tmp_path: Path) -> None:
    """Between the reading that finds nothing and the place in the log; nor may a neighbour's older reading count."""
    async with watched(tmp_path) as world:
        ref, store = await world.start(await world.workflow(ECHO)), world.store
        assert isinstance(store, CountingStore)
        opener = await reader(world, ref.partition)
        await note(world, ref, "first")
        assert await opener.window()
        token = await unknown_token(world, ref)
        read, polled, neighbour = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def before(asked: str | None) -> None:
            if asked != token:
                await polled.wait()

        async def after(asked: str | None) -> None:
            if asked == token and read.is_set() and not neighbour.is_set():
                await neighbour.wait()  # the neighbour's reading, which found nothing, takes long to arrive
            read.set()

        await eventually(lambda: not world.services.live._feeds[ref.partition].woken.is_set())
        store.before_reading, store.after_reading = before, after
        one, two = (Reader(world, ref.partition, token) for _ in range(2))
        windows = [asyncio.create_task(one.window())]
        await asyncio.wait_for(read.wait(), LONG)
        count = store.reads["changes"]
        windows.append(asyncio.create_task(two.window()))
        await eventually(lambda: store.reads["changes"] > count)
        await note(world, ref, "second")
        polled.set()
        await eventually(lambda: world.services.live._feeds[ref.partition].log.end >= 1)
        neighbour.set()
        await asyncio.sleep(0)
        await note(world, ref, "third")
        await asyncio.wait_for(asyncio.gather(*windows), LONG)
        for each in (one, two):
            while f"{ref.run_id}:e:third" not in each.ids:
                await each.window()
            assert each.ids == [f"{ref.run_id}:e:second", f"{ref.run_id}:e:third"]


async def test_what_was_seen_elsewhere_is_not_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process told it already, and this one's log is several readings behind the token."""
    monkeypatch.setattr(live, "PAGE", 1)
    async with watched(tmp_path) as here, watched(tmp_path) as there:
        ref = await here.start(await here.workflow(ECHO))
        opener = await reader(here, ref.partition)
        await note(here, ref, "first")
        assert await opener.window()
        for i in range(5):
            await note(there, ref, f"seen-{i}")
        follower = Reader(here, ref.partition, await unknown_token(there, ref))
        window = asyncio.create_task(follower.window())
        await eventually(lambda: here.services.live._feeds[ref.partition].log.end >= 5)
        await note(here, ref, "third")
        await asyncio.wait_for(window, LONG)
        assert follower.ids == [f"{ref.run_id}:e:third"]


async def test_who_comes_later_from_the_same_place_is_told_more(tmp_path: Path) -> None:
    """Windows are made once for all who stand at the same place: until there is more."""
    async with watched(tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        opener = await reader(world, ref.partition)
        await note(world, ref, "a")
        assert await opener.window()
        early, late = (Reader(world, ref.partition, opener.token) for _ in range(2))
        for name in ("b", "c"):
            await note(world, ref, name)
            assert await early.window()
        assert await late.window()
        assert late.ids == early.ids == [f"{ref.run_id}:e:b", f"{ref.run_id}:e:c"]


async def test_snapshots_and_streams_fit_together(tmp_path: Path) -> None:
    """Taken at any moment of a run: the snapshot and what follows its token are the whole."""
    async with watched(tmp_path, streaming(), poll_seconds="0.005") as world:
        ref = await world.start(await world.workflow(ECHO, MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        taken = []
        while not driving.done():
            taken.append(await activity(world.services, ref.partition, None))
            await asyncio.sleep(0.003)
        await driving
        whole = {one["id"] for one in await world.events(ref)}
        assert len(taken) > 3
        for snapshot in taken[:: max(1, len(taken) // 12)]:
            follower = Reader(world, ref.partition, snapshot["feed"], ref.run_id)
            await follower.to_the_end()
            told = [event.data["id"] for event in follower.events if event.type == "event"]
            assert {one["id"] for one in snapshot["events"]} | set(told) == whole
            assert len(told) == len(set(told))


async def test_a_snapshot_has_the_active_run_or_the_last(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        workflow = await world.workflow(ECHO)
        empty = await activity(world.services, partition_of(workflow), None)
        assert (empty["run"], empty["executions"], empty["events"]) == (None, [], [])
        first = await world.start(workflow)
        assert (await activity(world.services, first.partition, None))["run"]["status"] == "queued"
        await world.drive(first)
        second = await world.start(workflow)
        active = await activity(world.services, first.partition, None)
        assert (active["run"]["id"], active["workflow"]["runtime"]["status"]) == (second.run_id, "running")
        named = await activity(world.services, first.partition, first.run_id)
        assert named["run"]["status"] == "completed"
        assert named["events"][0]["type"] == "run.completed", "newest first"
        assert [one["path"] for one in named["executions"]] == ["s01.c0", "s01"]
        assert "definition" not in json.dumps(named["run"])
        for wrong in ("nope", "workflow"):
            with pytest.raises(NotFound):
                await activity(world.services, first.partition, wrong)
