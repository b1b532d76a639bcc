"""Several engines on one hub: what one makes the others see, what one leaves the others take, and nothing is done twice.

Engines in this process are as strange to each other as processes are: what they share is the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devhost.durable import DurableEngine, hub, work
from devhost.durable.episode import run_episode
from devhost.durable.events import EventType, event_raised, execution_resumed, execution_suspended
from shared.sqlite import Database
from tests.durable_host import IGNORED_WARNINGS, histories, kinds, running_engine
from tests.support.waiting import eventually
from tests.test_durable_engine import APP, Loaded, counted, outcome, start

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]

SOON = 0.4
"""Seconds without a heartbeat after which these tests' engines count one another as dead."""


@pytest.fixture
def app(tmp_path: Path) -> Loaded:
    return Loaded(tmp_path / "app")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks ten times as often, so that what a tick finds needs no long test."""
    monkeypatch.setattr("devhost.durable.engine.TICK_SECONDS", 0.05)


@asynccontextmanager
async def engines(file: Path, app: Loaded, count: int, **settings: Any) -> AsyncIterator[list[DurableEngine]]:
    """So many engines that know of each other."""
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(running_engine(file, app.functions, **settings)) for _ in range(count)
        ]
        await eventually(lambda: all(e._processes.count == count for e in started), what="all know all")
        yield started


def owner_of(engines: Sequence[DurableEngine], instance_id: str) -> DurableEngine:
    owner = engines[0].instance(instance_id).owner
    return next(engine for engine in engines if engine._processes.id == owner)


def background(engine: DurableEngine, name: str) -> list[asyncio.Task[None]]:
    return [task for task in engine._background if task.get_name().startswith(name)]


def stand_still(engine: DurableEngine) -> None:
    """What a process that is stopped, or whose loop is blocked, looks like to others."""
    for task in background(engine, "durable tick"):
        task.cancel()


def go_on(engine: DurableEngine) -> None:
    engine._background.add(asyncio.create_task(engine._keep_ticking()))


async def ticks(engine: DurableEngine, count: int) -> None:
    """Wait until `engine` has looked so many times."""
    for _ in range(count):
        looked = engine._processes._looked_at
        await eventually(lambda looked=looked: engine._processes._looked_at > looked, what="a tick")  # type: ignore[misc]


async def test_an_engine_that_starts_takes_nothing_from_one_that_works(app: Loaded, file: Path, quick: None) -> None:
    """Guards against a second host on the same data that runs everything a second time."""
    async with running_engine(file, app.functions) as first:
        await start(first, "calls_one", ["gated", 1], "i")
        await eventually(lambda: app.running == 1, what="the first one runs the activity")
        async with running_engine(file, app.functions, wedged_seconds=SOON) as second:
            await ticks(second, 15)
            assert second._activities.known == {}
            app.gate.set()
            assert await outcome(second, "i") == ("Completed", 1)
    assert app.calls == [1]


async def test_one_that_was_declared_dead_and_comes_back_changes_nothing(app: Loaded, file: Path, quick: None) -> None:
    """Guards the fence: its results and its orchestrators' answers must not reach what has gone to another."""
    async with running_engine(file, app.functions) as old:
        await start(old, "calls_one", ["gated", 1], "i")
        await start(old, "waits", None, "w")
        await eventually(lambda: app.running == 1 and old.instance("w").status == "Running", what="both are under way")
        before, loaded = old._processes.id, old._cache["w"]
        stand_still(old)
        async with running_engine(file, app.functions, wedged_seconds=SOON) as new:
            await eventually(lambda: app.running == 2, what="the new one runs the activity, too")
            view = hub.Loaded(loaded.instance, list(loaded.history), loaded.text, loaded.episodes)
            stale, _ = run_episode(
                view,
                [hub.Message(0, view.instance.execution_id, event_raised(0.0, "go", "9"))],
                old._orchestrators,
                0.0,
            )
            with pytest.raises(hub.LostInstance):
                await old._database.write(lambda c: hub.commit_episode(c, before, stale, lambda _, count: [""] * count))
            running = list(old._activities.known.values())
            assert await old._database.write(
                lambda c: work.finish_task(c, before, running[0], event_raised(0.0, "x", "1"), claim_next=True)
            ) == ([], [])
            app.gate.set()
            assert await outcome(new, "i") == ("Completed", 1)
            assert (await counted(new, "i"))[EventType.TASK_COMPLETED] == 1
            go_on(old)
            await eventually(lambda: old._processes.id != before, what="the old one begins a new life")
            await new.send("w", lambda at: event_raised(at, "go", "2"))
            assert await outcome(old, "w") == ("Completed", 2)
            await eventually(lambda: new._processes.count == old._processes.count == 2, what="they know each other")


async def test_what_one_starts_while_others_think_it_dead_is_done(app: Loaded, file: Path, quick: None) -> None:
    """Guards against an instance whose owner is nobody any more, because its host had just been buried."""
    async with running_engine(file, app.functions) as old:
        stand_still(old)
        async with running_engine(file, app.functions, wedged_seconds=SOON) as new:
            await eventually(lambda: new._processes.alone, what="the old one is buried")
            await start(old, "calls_one", ["echo", 1], "i")
            assert await outcome(new, "i") == ("Completed", 1)
            assert new.instance("i").owner == new._processes.id
            assert app.calls == [1]


async def test_activities_go_to_whoever_has_least_to_do(app: Loaded, file: Path) -> None:
    """Guards against workers that idle beside a busy one."""
    async with engines(file, app, 3) as three:
        await start(three[0], "calls_many", ["gated", 9], "i")
        await eventually(lambda: app.running == 9, what="all run")
        assert [len(engine._activities.known) for engine in three] == [3, 3, 3]
        app.gate.set()
        assert await outcome(three[2], "i") == ("Completed", list(range(9)))
        assert sorted(app.calls) == list(range(9))


async def test_what_nobody_has_room_for_goes_to_whoever_has_first(app: Loaded, file: Path) -> None:
    """Guards against a queue that stays with its maker while a newcomer idles; and against two that claim one task."""
    async with engines(file, app, 2, max_activities=2) as two:
        await start(two[0], "calls_many", ["gated", 12], "i")
        await eventually(lambda: app.running == 4, what="four run, two each")
        async with running_engine(file, app.functions, max_activities=3) as third:
            await eventually(lambda: app.running == 7, what="the newcomer runs as many as it may")
            assert len(third._activities.known) == 3
            app.gate.set()
            assert await outcome(third, "i") == ("Completed", list(range(12)))
    assert sorted(app.calls) == list(range(12))


async def test_an_instance_whose_owner_neglects_it_goes_on_elsewhere(app: Loaded, file: Path, quick: None) -> None:
    """Guards against news that wait for a process which lives but doesn't get round to them."""
    async with engines(file, app, 2) as two:
        await start(two[0], "waits", None, "i")
        await eventually(lambda: two[0].instance("i").status == "Running", what="it waits")
        owner = owner_of(two, "i")
        other = next(engine for engine in two if engine is not owner)
        for task in background(owner, "durable worker"):
            task.cancel()
        await owner.send("i", lambda at: event_raised(at, "go", "1"))
        assert await outcome(other, "i") == ("Completed", 1)
        assert other.instance("i").owner == other._processes.id


WAITS_TWICE = """
@orchestrator
def waits_twice(context):
    first = yield context.wait_for_external_event("go")
    second = yield context.wait_for_external_event("go")
    return [first, second]
"""


async def test_a_history_that_grew_elsewhere_is_read_again(tmp_path: Path, file: Path, quick: None) -> None:
    """Guards the cached histories: an instance that went away and came back has episodes that we never saw."""
    app = Loaded(tmp_path / "twice", APP + WAITS_TWICE)
    async with running_engine(file, app.functions) as first:
        await first.start_instance("waits_twice", "i", None)
        # Its first episode has landed: before that the history is only just read.
        await eventually(lambda: "i" in first._cache and first._cache["i"].episodes == 1, what="it waits")
        stale = first._cache["i"]
        async with running_engine(file, app.functions) as second:
            database = Database.open(file)
            await database.write(lambda connection: hub.post(connection, "i", event_raised(0.0, "go", "1")))
            await database.close()
            second._taking.add("i")
            second._wake(["i"])
            await eventually(lambda: second.instance("i").owner == second._processes.id, what="it went away")
        assert first.instance("i").owner == first._processes.id
        assert stale.episodes == 1
        first._cache["i"] = stale  # it may have dropped it: it too tried the news, and lost
        await first.send("i", lambda at: event_raised(at, "go", "2"))
        assert await outcome(first, "i") == ("Completed", [1, 2])


async def test_any_process_may_raise_suspend_resume_terminate_and_purge(app: Loaded, file: Path) -> None:
    """Guards the management API, which is with one process while instances are with another."""
    async with engines(file, app, 3) as three:
        ids = [f"i{n}" for n in range(6)]
        for instance_id in ids:
            await start(three[0], "waits", None, instance_id)
        await eventually(lambda: all(three[0].instance(i).status == "Running" for i in ids), what="all wait")
        assert {three[0].instance(i).owner for i in ids} == {engine._processes.id for engine in three}
        for instance_id in ids:
            await three[1].send(instance_id, lambda at: execution_suspended(at, None))
        await eventually(lambda: all(three[0].instance(i).status == "Suspended" for i in ids), what="all are suspended")
        for instance_id in ids:
            await three[2].send(instance_id, lambda at: execution_resumed(at, None))
        for instance_id in ids[:3]:
            await three[0].send(instance_id, lambda at: event_raised(at, "go", "1"))
            assert await outcome(three[1], instance_id) == ("Completed", 1)
        for instance_id in ids[3:]:
            await three[0].send(
                instance_id, lambda at: {"EventType": 3, "Input": "why", "EventId": -1, "Timestamp": "x"}
            )
            assert await outcome(three[1], instance_id) == ("Terminated", "why")
        await three[1].purge(ids)
        assert await three[2].instances() == []
        await start(three[2], "calls_one", ["echo", 1], "i0")
        assert await outcome(three[0], "i0") == ("Completed", 1)


SLEEPS = """
@orchestrator
def sleeps(context):
    import datetime
    yield context.create_timer(context.current_utc_datetime + datetime.timedelta(milliseconds=context.get_input()))
    return "slept"
"""


async def test_a_timer_fires_once_whoever_has_it(tmp_path: Path, file: Path) -> None:
    """Guards against an instance that is told twice, or not at all because the process that set its timer is gone."""
    app = Loaded(tmp_path / "timers", APP + SLEEPS)
    async with engines(file, app, 3) as three:
        ids = [f"t{n}" for n in range(12)]
        for n, instance_id in enumerate(ids):
            await start(three[0], "sleeps", 100 + 100 * n, instance_id)
        await eventually(lambda: all(three[0].instance(i).status == "Running" for i in ids), what="all sleep")
        lost = three[1]
        for task in background(lost, "durable"):
            task.cancel()
        lost._processes.leave()  # its lock and port are gone, as after a kill
        for instance_id in ids:
            assert await outcome(three[0], instance_id) == ("Completed", "slept")
        for history in (await histories(file, *ids)).values():
            assert kinds(history)[EventType.TIMER_FIRED] == 1
            fired = next(event for event in history if event["EventType"] == EventType.TIMER_FIRED)
            assert fired["Timestamp"] >= fired["FireAt"]
        lost._processes.id = ""
