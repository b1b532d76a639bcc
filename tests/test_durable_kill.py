"""A host that is killed (SIGKILL, no goodbye) loses nothing: its successor finishes what it had begun, once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devhost.durable import hub
from devhost.durable.events import EventType
from shared.sqlite import Database
from tests.durable_host import IGNORED_WARNINGS

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0


class Host:
    """A host in its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return json.loads(await self.line())

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def host(file: Path) -> AsyncIterator[Host]:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.durable_host", str(file)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    running = Host(process)
    try:
        assert await running.line() == "ready"
        yield running
    finally:
        await running.kill()
        process._transport.close()  # type: ignore[attr-defined]


async def histories(file: Path, *instance_ids: str) -> dict[str, list[dict[str, Any]]]:
    database = Database.open(file)
    try:
        return {
            i: database.read_now(lambda connection, i=i: hub.load(connection, i)).history  # type: ignore[misc]
            for i in instance_ids
        }
    finally:
        await database.close()


def kinds(history: list[dict[str, Any]]) -> Counter[int]:
    return Counter(event["EventType"] for event in history)


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
