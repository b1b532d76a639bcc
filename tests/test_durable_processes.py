"""Engines in processes of their own on one hub, and how each learns that another lives, stands still or is dead."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devhost.durable.events import EventType, utc_seconds
from devhost.durable.processes import Processes
from tests.durable_host import IGNORED_WARNINGS, Host, histories, host, kinds
from tests.support.waiting import eventually

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]

FINISHED = ["Completed", {"status": "completed", "result": "finished"}]


async def test_only_time_in_which_we_looked_ourselves_counts_against_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a machine that wakes up from sleep with each process sure that all others are dead."""
    now = 1000.0
    monkeypatch.setattr("devhost.durable.processes.time.monotonic", lambda: now)
    we, they = (Processes(tmp_path, lambda: None, wedged_seconds=3.0) for _ in range(2))
    await we.enter()
    their_row = await they.enter()
    we.update([their_row])
    try:
        for pause in (0.0, 3600.0, 1.0, 0.5):
            now += pause
            assert we.dead() == []
        now += 1.0
        assert we.dead() == [their_row.id]
        os.utime(tmp_path / f"{their_row.id}.lock", ns=(1, 1))
        assert we.dead() == []
        they.leave()
        they = Processes(tmp_path, lambda: None)
        assert we.dead() == []  # the file is gone, which proves nothing
    finally:
        we.leave()
        they.leave()
    assert list(tmp_path.iterdir()) == []


async def test_files_of_the_dead_are_swept(tmp_path: Path) -> None:
    """Guards against a folder that fills up with the locks of killed processes, and against one that lives losing its."""
    we, they = Processes(tmp_path, lambda: None), Processes(tmp_path, lambda: None)
    await we.enter()
    await they.enter()
    (tmp_path / "killed.lock").touch()
    we.sweep()
    assert {path.stem for path in tmp_path.iterdir()} == {we.id, they.id}
    we.leave()
    they.leave()


@asynccontextmanager
async def hosts(file: Path, count: int, **settings: Any) -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        yield list(await asyncio.gather(*(stack.enter_async_context(host(file, **settings)) for _ in range(count))))


async def test_random_kills_under_load_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """Guards every place between two commits of three processes: each instance ends once, whoever dies when."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    random_, file = random.Random(seed), tmp_path / "hub.db"
    ids: list[str] = []
    async with AsyncExitStack() as stack:
        alive = [await stack.enter_async_context(host(file)) for _ in range(3)]
        for _round in range(4):
            for one in alive:
                ids.append(f"run{len(ids)}")
                await one.ask("start", "run", ids[-1], {"steps": 8, "ms": 60, "grace": 1})
                ids.append(f"run{len(ids)}")
                await one.ask("start", "timer_or_event", ids[-1], None)
            await asyncio.sleep(random_.random() * 0.6)  # not waiting for anything: the kill is to hit any moment
            await alive.pop(random_.randrange(len(alive))).kill()
            alive.append(await stack.enter_async_context(host(file)))
        ended = await alive[0].ask("wait", *ids)
    assert ended == [FINISHED, ["Completed", "timer"]] * (len(ids) // 2)
    found = await histories(file, *ids, *(f"{i}:pipeline" for i in ids[::2]))
    for instance_id, history in found.items():
        counted = kinds(history)
        assert counted[EventType.EXECUTION_STARTED] == counted[EventType.EXECUTION_COMPLETED] == 1, instance_id
        assert counted[EventType.TASK_SCHEDULED] == counted[EventType.TASK_COMPLETED], instance_id
        assert counted[EventType.TIMER_CREATED] == counted[EventType.TIMER_FIRED], instance_id
        assert counted[EventType.CHILD_CREATED] == counted[EventType.CHILD_COMPLETED], instance_id
    assert left_over(file) == []


def left_over(file: Path) -> list[str]:
    """Tables of work that still have rows."""
    connection = sqlite3.connect(file)
    try:
        tables = ("durable_tasks", "durable_timers", "durable_inbox")
        return [one for one in tables if connection.execute(f"SELECT count(*) FROM {one}").fetchone()[0]]
    finally:
        connection.close()


def who_runs(file: Path) -> set[int]:
    """The process ids of those that have activities."""
    connection = sqlite3.connect(file)
    try:
        rows = connection.execute("SELECT p.pid FROM durable_tasks t JOIN durable_processes p ON p.id = t.owner")
        return {row[0] for row in rows}
    finally:
        connection.close()


async def test_a_kill_is_noticed_long_before_a_heartbeat_expires(tmp_path: Path) -> None:
    """Guards the locks: proof of death must not wait for a heartbeat."""
    file = tmp_path / "hub.db"
    async with hosts(file, 2, wedged_seconds=60) as two:
        await two[0].ask("start", "pipeline", "i", {"steps": 1, "ms": 300})
        running = await eventually(lambda: who_runs(file), what="it runs")
        victim, survivor = sorted(two, key=lambda one: one.process.pid not in running)
        await victim.kill()
        began = time.monotonic()
        assert await survivor.ask("wait", "i") == [["Completed", "finished"]]
        assert time.monotonic() - began < 5
    found = (await histories(file, "i"))["i"]
    assert kinds(found)[EventType.TASK_COMPLETED] == 1


async def test_one_that_stood_still_and_goes_on_completes_nothing_twice(tmp_path: Path) -> None:
    """Guards SIGSTOP and SIGCONT, a laptop's lid, a debugger: the work went to others, and stays theirs."""
    file = tmp_path / "hub.db"
    async with hosts(file, 3, wedged_seconds=0.8) as three:
        for n in range(3):
            await three[n].ask("start", "pipeline", f"i{n}", {"steps": 2, "ms": 700})
        await eventually(lambda: len(who_runs(file)) == 3, what="each runs one")
        stopped, *others = three
        stopped.stand_still()
        pid = stopped.process.pid
        await eventually(lambda: pid not in processes(file), 10, "it is declared dead")
        assert await others[0].ask("wait", "i0", "i1", "i2") == [["Completed", "finished"]] * 3
        stopped.go_on()
        await eventually(lambda: pid in processes(file), 10, "it is back")
        await stopped.ask("start", "pipeline", "after", {"steps": 3, "ms": 10})
        assert await others[1].ask("wait", "after") == [["Completed", "finished"]]
    for history in (await histories(file, "i0", "i1", "i2")).values():
        assert kinds(history)[EventType.TASK_COMPLETED] == 2
        assert kinds(history)[EventType.EXECUTION_COMPLETED] == 1


def processes(file: Path) -> set[int]:
    """The process ids in the hub."""
    connection = sqlite3.connect(file)
    try:
        return {row[0] for row in connection.execute("SELECT pid FROM durable_processes")}
    finally:
        connection.close()


async def test_news_reach_another_process_without_waiting_for_its_tick(tmp_path: Path) -> None:
    """Guards the wake-ups: without them everything works as well, only half a second later."""
    file = tmp_path / "hub.db"
    ids = [f"i{n}" for n in range(30)]
    async with hosts(file, 3) as three:
        for instance_id in ids:
            await three[0].ask("start", "timer_or_event", instance_id, None)
        for instance_id in ids:
            await three[0].ask("raise", instance_id, "go")
        await three[1].ask("wait", *ids)
        owners = who_owned(file)
    assert len(owners) == 3
    waited = []
    for history in (await histories(file, *ids)).values():
        raised = next(n for n, event in enumerate(history) if event["EventType"] == EventType.EVENT_RAISED)
        called = next(e for e in reversed(history[:raised]) if e["EventType"] == EventType.ORCHESTRATOR_STARTED)
        waited.append(utc_seconds(called["Timestamp"]) - utc_seconds(history[raised]["Timestamp"]))
    print(
        f"from a message to its episode, p50: {statistics.median(waited) * 1e3:.1f} ms; max {max(waited) * 1e3:.1f} ms"
    )
    assert statistics.median(waited) < 0.15


def who_owned(file: Path) -> set[str]:
    connection = sqlite3.connect(file)
    try:
        return {row[0] for row in connection.execute("SELECT owner FROM durable_instances")}
    finally:
        connection.close()
