"""Agents under cancels, crashes and doubled deliveries: the model is told the same, and what stops stays stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activities import agents, lifecycle
from shared.agents import CANCELLED
from shared.executions import RunRef
from shared.store.port import Op, Patch
from tests.domain.test_cancel import assert_cancelled_whole
from tests.domain.test_narrow import assert_whole, cancel_at
from tests.domain.test_resume import resume
from tests.domain.test_takeover import crash
from tests.support.agents import Play, agent, calls, results, sub_agent
from tests.support.waiting import eventually
from tests.support.world import RecordingStore, World, open_world

SLEEP = ("sleep", {"seconds": 60})
ECHO = ("echo", {"value": "kept"})
TOOLS = ["sleep", "echo"]


async def running(world: World, ref: RunRef, *paths: str) -> None:
    """Wait until the nodes at `paths` are at work."""

    async def probe() -> bool:
        tree = await world.executions(ref)
        return all(path in tree and tree[path]["status"] == "running" for path in paths)

    await eventually(probe, what=f"{paths} are running")


async def endless(_request: Any) -> str:
    """A model's turn that only a cancel ends."""
    await asyncio.Event().wait()
    return "never"


async def test_a_cancelled_call_is_told_to_the_model_and_its_siblings_are_unharmed(tmp_path: Path) -> None:
    """Guards narrow cancels of a tool call: no error, no retry, the agent goes on with what it has."""
    play = Play(main=[calls(SLEEP, ECHO), "Done without."])
    async with open_world(tmp_path, play.script) as world:
        ref = await world.start(await world.workflow(agent(tools=TOOLS)))
        driving = asyncio.create_task(world.drive(ref))
        await running(world, ref, "s01.t01.c0")
        assert (await cancel_at(world, ref, "s01.t01.c0")).execution["path"] == "s01.t01.c0"
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
    assert results(play.requests["main"][1]) == [CANCELLED, "kept"]
    assert "error" not in json.loads(CANCELLED)
    assert tree["s01.t01.c0"]["status"] == "cancelled"
    assert tree["s01"]["output_preview"] == "Done without."


async def test_the_model_is_not_told_what_a_cancelled_call_came_to_after_all(tmp_path: Path) -> None:
    """Guards that nothing uses the output of what was cancelled, also when it could not be stopped and finished."""
    play = Play(main=[calls(("sleep", {"seconds": 0.2, "blocking": True})), "Done without."])
    async with open_world(tmp_path, play.script) as world:
        ref = await world.start(await world.workflow(agent(tools=TOOLS)))
        driving = asyncio.create_task(world.drive(ref))
        await running(world, ref, "s01.t01.c0")
        await cancel_at(world, ref, "s01.t01.c0")
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
    assert tree["s01.t01.c0"]["status"] == "completed"
    assert results(play.requests["main"][1]) == [CANCELLED]


async def test_a_resumed_agent_is_told_the_same_of_a_cancelled_call(tmp_path: Path) -> None:
    """Guards the transcript: a call that finished although it was cancelled stays cancelled for the model."""
    play = Play(main=[calls(("sleep", {"seconds": 0.2, "blocking": True})), calls(ECHO), endless, "Done."])
    async with open_world(tmp_path, play.script) as world:
        ref = await world.start(await world.workflow(agent(tools=TOOLS)))
        driving = asyncio.create_task(world.drive(ref))
        await running(world, ref, "s01.t01.c0")
        await cancel_at(world, ref, "s01.t01.c0")
        await running(world, ref, "s01.t03.m")
        await world.cancel(ref)
        await driving
        play.turns["main"][2] = "Done."
        again = await resume(world, ref)
        tree = await assert_whole(world, again, "completed")
    assert tree["s01.t01.c0"]["reused_from"] == ref.execution_id("s01.t01.c0")
    assert results(play.requests["main"][-1]) == [CANCELLED, "kept"]


async def test_a_clock_that_is_behind_gives_an_agent_no_more_time(tmp_path: Path) -> None:
    """Guards the deadline: the start may have been noted by a machine whose clock is ahead of this one's."""
    async with open_world(tmp_path, Play(main=[calls(ECHO), endless]).script) as world:
        ref = await world.start(await world.workflow(agent(tools=TOOLS, timeout_seconds=0.3)))
        await lifecycle.begin(world.services, ref)
        await agents.take_turn(world.services, ref, "s01", 1)
        ahead = Patch(ref.execution_id("s01"), set={"started_at": "2999-01-01T00:00:00.000Z"})
        await world.store.transact(ref.partition, [ahead])
        second = await agents.take_turn(world.services, ref, "s01", 2)
        assert (second["status"], second["error"]["code"]) == ("failed", "timeout")


async def test_a_cancelled_sub_agent_begins_nothing_more_and_its_caller_goes_on(tmp_path: Path) -> None:
    """Guards narrow cancels of a whole sub-agent: everything below it stops, also a tool of it in flight."""
    play = Play(main=[calls(("helper", {"input": "x"}), ECHO), "Done without."], helper=[calls(SLEEP, SLEEP), "never"])
    async with open_world(tmp_path, play.script) as world:
        step = agent(tools=TOOLS, agents=[sub_agent("helper", tools=TOOLS)])
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))
        await running(world, ref, "s01.t01.c0.t01.c0", "s01.t01.c0.t01.c1")
        await cancel_at(world, ref, "s01.t01.c0")
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
    assert results(play.requests["main"][1]) == [CANCELLED, "kept"]
    assert len(play.requests["helper"]) == 1
    below = {path: one["status"] for path, one in tree.items() if path.startswith("s01.t01.c0")}
    assert below.pop("s01.t01.c0.t01.m") == "completed"
    assert set(below.values()) == {"cancelled"}


@pytest.mark.parametrize(("on_cancelled", "status"), [("continue", "completed"), ("stop", "failed")])
@pytest.mark.parametrize("path", ["s01", "s01.t02.m"])
async def test_a_cancelled_agent_ends_alone_as_its_step_says(
    path: str, on_cancelled: str, status: str, tmp_path: Path
) -> None:
    """Guards narrow cancels of the agent, or of the model call that it can't do without."""
    play = Play(main=[calls(ECHO), endless])
    async with open_world(tmp_path, play.script) as world:
        after = {"kind": "tool", "tool": "echo", "arguments": {"value": "<{{steps.think.output}}>"}}
        step = agent(name="think", tools=TOOLS, on_cancelled=on_cancelled)
        ref = await world.start(await world.workflow(step, after))
        driving = asyncio.create_task(world.drive(ref))
        await running(world, ref, "s01.t02.m")
        await cancel_at(world, ref, path)
        assert await driving == status
        tree = await assert_whole(world, ref, status)
    assert (tree["s01"]["status"], tree["s01.t02.m"]["status"]) == ("cancelled", "cancelled")
    assert tree["s02"]["status"] == ("completed" if status == "completed" else "skipped")
    if status == "completed":
        assert tree["s02"]["output_preview"] == "<>"


async def test_a_cancel_of_the_run_stops_every_node_of_an_agents_tree(tmp_path: Path) -> None:
    """Guards the promise: three levels at work at once, nothing begins after, the receipt names what was in flight."""
    play = Play(
        main=[calls(SLEEP, ("helper", {"input": "x"}))],
        helper=[calls(SLEEP, ("digger", {"input": "x"}))],
        digger=[endless],
    )
    async with open_world(tmp_path, play.script) as world:
        digger = sub_agent("digger")
        step = agent(tools=TOOLS, agents=[sub_agent("helper", tools=TOOLS, agents=[digger])])
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))
        at_work = ["s01.t01.c0", "s01.t01.c1.t01.c0", "s01.t01.c1.t01.c1.t01.m"]
        await running(world, ref, *at_work)
        await eventually(lambda: "digger" in play.requests)
        before = sum(map(len, play.requests.values()))
        await world.cancel(ref)
        assert await driving == "cancelled"
        receipt = await assert_cancelled_whole(world, ref)
    in_flight = {one["execution_id"].partition(":")[2]: one["outcome"] for one in receipt["in_flight"]}
    assert in_flight == dict.fromkeys(at_work, "stopped")
    assert sum(map(len, play.requests.values())) == before


async def test_a_doubled_delivery_calls_nothing_twice(tmp_path: Path) -> None:
    """Guards at-least-once delivery of turns and calls: both orchestrations see one record."""
    play = Play(main=[calls(ECHO, ("helper", {"input": "x"})), "Done."], helper=[calls(ECHO), "Helped."])
    async with open_world(tmp_path, play.script) as world:
        step = agent(tools=TOOLS, agents=[sub_agent("helper", tools=TOOLS)])
        ref = await world.start(await world.workflow(step))
        assert set(await asyncio.gather(*(world.drive(ref) for _ in range(3)))) == {"completed"}
        tree = await assert_whole(world, ref, "completed")
    assert {one["attempt"] for one in tree.values()} == {1}
    assert {key: len(asked) for key, asked in play.requests.items()} == {"main": 2, "helper": 2}


async def test_a_turn_that_is_delivered_again_after_the_deadline_keeps_its_outcome(tmp_path: Path) -> None:
    """Guards finished > deadline: what the model said in time counts, whoever asks for it later; the next is too late."""
    async with open_world(tmp_path, Play(main=[calls(ECHO), "late"]).script) as world:
        ref = await world.start(await world.workflow(agent(tools=TOOLS, timeout_seconds=60)))
        await lifecycle.begin(world.services, ref)
        first = await agents.take_turn(world.services, ref, "s01", 1)
        long_ago = Patch(ref.execution_id("s01"), set={"started_at": "2026-01-01T00:00:00.000Z"})
        await world.store.transact(ref.partition, [long_ago])
        assert await agents.take_turn(world.services, ref, "s01", 1) == first
        assert first["status"] == "turn"
        second = await agents.take_turn(world.services, ref, "s01", 2)
        assert (second["status"], second["error"]["code"]) == ("failed", "timeout")
        assert "s01.t02.m" not in await world.executions(ref)


STEP = agent(tools=TOOLS, agents=[sub_agent("helper", tools=TOOLS)])
TURNS = {"main": [calls(ECHO, ("helper", {"input": "x"})), "Done."], "helper": [calls(ECHO), "Helped."]}


async def crashed_at(write: int, directory: Path) -> bool:
    """Run an agent whose process is killed at its n-th write, and go on in another. Answers whether it got that far."""
    writes, reached = 0, asyncio.Event()
    first_play, second_play = Play(**TURNS), Play(**TURNS)
    async with open_world(directory, first_play.script) as first, open_world(directory, second_play.script) as second:
        ref = await first.start(await first.workflow(STEP))
        store = RecordingStore(first.store)

        async def before(ops: Sequence[Op]) -> None:
            nonlocal writes
            writes += 1
            if writes >= write:
                reached.set()
                await asyncio.Event().wait()

        store.before = before
        dying = World(replace(first.services, store=store), first.model)
        driving = asyncio.create_task(dying.drive(ref))
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait({driving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await crash(dying, driving)
        waiting.cancel()
        assert await second.drive(ref) == "completed"
        tree = await assert_whole(second, ref, "completed")
    assert sorted(tree) == [
        "s01", "s01.t01.c0", "s01.t01.c1", "s01.t01.c1.t01.c0", "s01.t01.c1.t01.m", "s01.t01.c1.t02.m",
        "s01.t01.m", "s01.t02.m",
    ]  # fmt: skip
    assert {one["status"] for one in tree.values()} == {"completed"}
    told = [results(asked[1]) for play in (first_play, second_play) if len(asked := play.requests.get("main", [])) > 1]
    assert all(one == ["kept", "Helped."] for one in told)
    return reached.is_set()


async def test_an_agent_whose_process_dies_at_any_write_goes_on_in_another(tmp_path: Path) -> None:
    """Guards the transcript: whoever goes on tells the model the same, makes no call anew that ended, and loses none."""
    directories = [tmp_path / str(write) for write in range(1, 26)]
    got_there = await asyncio.gather(*(crashed_at(int(one.name), one) for one in directories))
    assert got_there.count(True) >= 15
    assert got_there[-1] is False
