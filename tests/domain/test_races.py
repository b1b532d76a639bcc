"""Seeded races: cancels at random moments of random runs, several processes' worth of services on one store."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Problem
from shared.executions import ExecutionSpec
from shared.model_answers import ModelAnswer
from shared.model_client import ModelRequest
from shared.names import Kind
from shared.operations import Begun, Ending, begin, finish
from shared.starting import begin_run
from shared.states import ExecutionStatus as Ex
from shared.store.port import Op, Patch
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.agents import agent, calls, sub_agent
from tests.support.world import RecordingStore, World, open_world, streaming

SEEDS = int(os.environ.get("TRUESTOP_TEST_RACES", "300"))
BATCH = 25


def random_steps(random_: random.Random) -> list[dict[str, Any]]:
    """One to four steps of kinds that race differently."""
    kinds: list[dict[str, Any]] = [
        {"kind": "tool", "tool": "echo", "arguments": {"value": 1}},
        {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 0.01}},
        {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 0.01, "blocking": True}},
        {"kind": "model", "prompt": "Go"},
        {"kind": "write_artifact", "path": "a.md", "content": "x"},
        {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "parallel": 3},
        agent(tools=["echo", "sleep"], agents=[sub_agent("helper", tools=["echo", "sleep"])]),
    ]
    return [random_.choice(kinds) for _ in range(random_.randint(1, 4))]


async def racing_model(request: ModelRequest, on_text: Callable[[str], None]) -> str | ModelAnswer:
    """Streams a little; an agent's first two turns call what it has, its helper too."""
    turn = sum(message["role"] == "assistant" for message in request.messages)
    if not request.tools or turn == 2:
        return await streaming(5, 0.003)(request, on_text)
    wanted: list[tuple[str, Any]] = [("echo", {"value": turn}), ("sleep", {"seconds": 0.01, "blocking": turn == 1})]
    if len(request.tools) == 3:
        wanted.append(("helper", {"input": "x"}))
    return calls(*wanted)


def begins(ops: Sequence[Op]) -> bool:
    """Whether a transaction begins an operation."""
    return any(isinstance(op, Patch) and op.increment.get("in_flight", 0) > 0 for op in ops)


async def race(world: World, seed: int) -> str:
    """One run, cancelled at a random moment. Checks the promise; answers how the run ended."""
    random_ = random.Random(seed)
    store = RecordingStore(world.store)
    answered = False

    async def before(ops: Sequence[Op]) -> None:
        if random_.random() < 0.3:
            await asyncio.sleep(random_.random() * 0.004)

    store.before = before
    late: list[Sequence[Op]] = []
    original = store.inner.transact

    class Noting:
        """Notes begins that land although the cancel was answered."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def transact(self, partition: Any, ops: Sequence[Op]) -> Any:
            was = answered
            result = await original(partition, ops)
            if was and begins(ops):
                late.append(ops)
            return result

    store.inner = Noting()
    racing = World(replace(world.services, store=store), world.model)
    ref = await racing.start(await racing.workflow(*random_steps(random_)))
    driving = asyncio.create_task(racing.drive(ref))
    await asyncio.sleep(random_.random() ** 2 * 0.08)
    try:
        force = random_.random() < 0.1
        await racing.cancel(ref, force=force)
        answered = True
    except Problem as problem:
        assert problem.code == "run_already_finished"
        assert await driving == "completed"
        return "completed"
    assert await driving in ("cancelled", "cancelling")  # the latter: the cancel was still settling it
    assert late == []
    run = await racing.run(ref)
    await assert_cancelled_whole(world, ref, acknowledged=run["cancel"]["acknowledged"])
    assert run["cancel"]["acknowledged"] or force  # everything here stops within the grace
    return "cancelled"


async def test_force_that_comes_after_the_last_operation_has_ended_is_no_force(world: World) -> None:
    """Guards the receipt: `acknowledged` is false only if something had really not stopped."""
    ref = await world.start(await world.workflow({"kind": "model", "prompt": "Go"}))
    await begin_run(world.services, ref, await world.run(ref))
    begun = await begin(world.store, ref, [ExecutionSpec("s01", Kind.STEP, "step0")])
    assert isinstance(begun, Begun)
    store = RecordingStore(world.store)

    async def let_it_end_first(ops: Sequence[Op]) -> None:
        if any(isinstance(op, Patch) and "epoch" in op.set for op in ops):
            store.before = None
            await finish(world.store, begun, Ending(Ex.COMPLETED))

    store.before = let_it_end_first
    run = await World(replace(world.services, store=store), world.model).cancel(ref, force=True)
    assert (run["status"], run["cancel"]["forced"]) == ("cancelled", False)
    await assert_cancelled_whole(world, ref)


@pytest.mark.parametrize("batch", range(0, SEEDS, BATCH))
async def test_nothing_begins_after_the_answer(batch: int, tmp_path: Path) -> None:
    """Guards the promise itself. The seed is printed; TRUESTOP_TEST_RACES asks for more of them."""
    async with open_world(tmp_path, racing_model) as world:
        for i in range(7):
            await world.services.blobs.put(f"documents/user:alice/{i}.txt", b"text", "text/plain")
        seeds = range(batch, min(batch + BATCH, SEEDS))
        ends = await asyncio.gather(*(race(world, seed) for seed in seeds), return_exceptions=True)
        for seed, end in zip(seeds, ends, strict=True):
            if isinstance(end, BaseException):
                print(f"seed {seed} failed")
                raise end
        assert "cancelled" in ends
