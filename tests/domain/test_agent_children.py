"""Agents that run other workflows, and agents that are resumed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shared.definitions import parse_definition
from shared.errors import Problem
from shared.executions import RunRef
from shared.model_client import ModelRequest
from shared.narrow import cancel_execution
from shared.runs import CancelRequest
from shared.settings import load
from tests.domain.test_children import assert_ended, child_ref
from tests.domain.test_resume import resume
from tests.support.agents import Play, agent, calls, results
from tests.support.waiting import eventually
from tests.support.world import ALICE, World, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.word}}"}}
MODEL = {"kind": "model", "prompt": "child"}


async def forever(request: ModelRequest) -> str:
    """A turn that streams until it is stopped."""
    return str(await streaming(10_000)(request, lambda _text: None))


async def world_with_child(world: World, play: Play, *child_steps: dict[str, Any]) -> RunRef:
    """A run of an agent that is to run another workflow in its first turn."""
    child = await world.workflow(*child_steps)
    call = ("run_workflow", {"workflow_id": child["workflow_id"], "input": {"word": "hello"}})
    play.turns["main"].insert(0, calls(call, ("echo", {"value": 1})))
    return await world.start(await world.workflow(agent(tools=["run_workflow", "echo"])))


async def test_an_agents_call_of_a_workflow_is_a_child_run(tmp_path: Path) -> None:
    """Guards the tool: the child's output is the call's result, linked both ways."""
    play = Play(main=["Done"])
    async with open_world(tmp_path, play.script) as world:
        ref = await world_with_child(world, play, ECHO)
        assert await world.drive(ref) == "completed"
        assert results(play.requests["main"][-1]) == ["hello", "1"]
        below = await child_ref(world, ref, "s01.t01.c0.r")
        assert below is not None
        assert (await assert_ended(world, below, "completed"))["parent"]["execution_id"] == f"{ref.run_id}:s01.t01.c0.r"
        tree = await world.executions(ref)
        assert [tree[path]["kind"] for path in ("s01.t01.c0", "s01.t01.c0.r")] == ["tool_call", "child_run"]


async def test_cancelling_the_run_reaches_an_agents_child(tmp_path: Path) -> None:
    """Guards the tree through an agent: the child has accepted when the cancel is answered, and nothing is left."""
    play = Play(main=["Done"], child=[forever])
    async with open_world(tmp_path, play.script) as world:
        ref = await world_with_child(world, play, MODEL)
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: "child" in play.requests)
        below = await child_ref(world, ref, "s01.t01.c0.r")
        assert below is not None
        await world.cancel(ref)
        assert (await world.run(below))["status"] in ("cancelling", "cancelled")
        assert await driving == "cancelled"
        for one in (ref, below):
            await assert_ended(world, one, "cancelled")
        assert len(play.requests["main"]) == 1


async def test_a_cancelled_call_of_a_workflow_is_told_to_the_model_as_cancelled(tmp_path: Path) -> None:
    """Guards the narrow cancel of the call: its child is cancelled, the agent goes on and knows."""
    play = Play(main=["Done"], child=[forever])
    async with open_world(tmp_path, play.script) as world:
        ref = await world_with_child(world, play, MODEL)
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: "child" in play.requests)
        request = CancelRequest(ALICE)
        await cancel_execution(world.services, ref.partition, ref.run_id, "s01.t01.c0.r", request)
        assert await driving == "completed"
        below = await child_ref(world, ref, "s01.t01.c0.r")
        assert below is not None
        await assert_ended(world, below, "cancelled")
        assert json.loads(results(play.requests["main"][-1])[0])["cancelled"] is True


async def test_a_resumed_agent_does_not_take_its_finished_turns_again(tmp_path: Path) -> None:
    """Guards resume within an agent: finished model and tool calls are adopted, the cancelled call is made."""
    play = Play(
        main=[calls(("echo", {"value": "a"})), calls(("echo", {"value": "b"}), ("sleep", {"seconds": 60})), "Done"]
    )
    async with open_world(tmp_path, play.script) as world:
        old = await world.start(await world.workflow(agent(tools=["echo", "sleep"])))
        driving = asyncio.create_task(world.drive(old))
        await eventually(lambda: is_running(world, old, "s01.t02.c1"))
        await eventually(lambda: has_completed(world, old, "s01.t02.c0"))
        await world.cancel(old)
        assert await driving == "cancelled"
        asked = len(play.requests["main"])
        ref = await start_and_stop_sleep(world, old)
        tree = await world.executions(ref)
        reused = sorted(path for path, one in tree.items() if one["reused_from"])
        assert reused == ["s01.t01.c0", "s01.t01.m", "s01.t02.c0", "s01.t02.m"]
        assert len(play.requests["main"]) == asked + 1
        assert results(play.requests["main"][-1])[:2] == ["a", "b"]
        await assert_ended(world, ref, "completed")


async def start_and_stop_sleep(world: World, old: RunRef) -> RunRef:
    """Resume `old`; its long sleep is cancelled alone, which the model reads."""
    resuming = asyncio.create_task(resume(world, old))
    while True:
        active = (await world.store.get(old.partition, "workflow"))["runtime"]["active_run_id"]
        if active is not None and await is_running(world, old._replace(run_id=active), "s01.t02.c1"):
            break
        await asyncio.sleep(0.01)
    await cancel_execution(world.services, old.partition, active, "s01.t02.c1", CancelRequest(ALICE))
    return await resuming


async def is_running(world: World, ref: RunRef, path: str) -> bool:
    one = await world.executions_at(ref, path)
    return one is not None and one["status"] == "running"


async def has_completed(world: World, ref: RunRef, path: str) -> bool:
    one = await world.executions_at(ref, path)
    return one is not None and one["status"] == "completed"


def test_a_tool_step_can_not_run_a_workflow() -> None:
    """Guards the definition: a plain step has the kind child_run for that, and is told so."""
    step = {"kind": "tool", "name": "s", "tool": "run_workflow", "arguments": {"workflow_id": "0" * 26}}
    with pytest.raises(Problem) as refused:
        parse_definition({"name": "x", "steps": [step]}, load({}))
    assert "child_run" in str(refused.value.errors)
