"""A host that is killed (SIGKILL, no goodbye) loses nothing: its successor finishes what it had begun, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from devhost.durable.events import EventType
from tests.durable_host import IGNORED_WARNINGS, PATIENCE, histories, host, kinds

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]


async def test_a_killed_host_goes_on_mid_activity_mid_timer_and_mid_child(tmp_path: Path) -> None:
    """Guards the reason for the hub: an activity is delivered again, a timer keeps its time, a child its parent."""
    file = tmp_path / "hub.db"
    async with host(file) as first:
        await first.ask("start", "pipeline", "activity", {"steps": 1, "ms": 400})
        await first.ask("start", "timer_or_event", "timer", None)
        await first.ask("start", "run", "parent", {"steps": 2, "ms": 300, "grace": 1})
        async with asyncio.timeout(PATIENCE):
            while (await histories(file, "timer"))["timer"] == []:  # the others began before it
                await asyncio.sleep(0.01)
        await first.kill()
    async with host(file) as second:
        ended = await second.ask("wait", "activity", "timer", "parent")
    completed = {"status": "completed", "result": "finished"}
    assert ended == [["Completed", "finished"], ["Completed", "timer"], ["Completed", completed]]
    found = await histories(file, "activity", "timer", "parent", "parent:pipeline")
    assert kinds(found["activity"])[EventType.TASK_COMPLETED] == 1
    assert kinds(found["timer"])[EventType.TIMER_FIRED] == 1
    assert kinds(found["parent"])[EventType.CHILD_COMPLETED] == 1
    assert kinds(found["parent:pipeline"])[EventType.TASK_COMPLETED] == 2
    fired = next(event for event in found["timer"] if event["EventType"] == EventType.TIMER_FIRED)
    assert fired["Timestamp"] >= fired["FireAt"]


async def test_a_host_that_is_killed_again_and_again_finishes_everything_once(tmp_path: Path) -> None:
    """Guards every place between two commits: kills at arbitrary moments of short steps leave no gap and no double."""
    file = tmp_path / "hub.db"
    ids = [f"run{n}" for n in range(6)]
    async with host(file) as first:
        for instance_id in ids:
            await first.ask("start", "run", instance_id, {"steps": 6, "ms": 40, "grace": 1})
        await first.kill()
    for delay in (0.03, 0.1):
        async with host(file) as next_one:
            await asyncio.sleep(delay)  # not waiting for anything: the kill is to hit an arbitrary moment
            await next_one.kill()
    async with host(file) as last:
        ended = await last.ask("wait", *ids)
    assert ended == [["Completed", {"status": "completed", "result": "finished"}]] * len(ids)
    for history in (await histories(file, *(f"{i}:pipeline" for i in ids))).values():
        counted = kinds(history)
        assert counted[EventType.TASK_SCHEDULED] == counted[EventType.TASK_COMPLETED] == 6
        assert counted[EventType.EXECUTION_STARTED] == counted[EventType.EXECUTION_COMPLETED] == 1
