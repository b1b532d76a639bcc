"""The judge is judged: what the proof must find, planted one by one in the product and in the documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared.events import event, terminal_event
from shared.executions import ExecutionSpec, RunRef
from shared.names import EventType, Kind
from shared.operations import begin
from shared.store.port import Create, Delete, Op, Partition, Patch
from tests.chaos.proof import Told, findings
from tests.support.waiting import eventually
from tests.support.world import World, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}
DONE, STOPPED, NEVER = "done", "stopped", "never"


class Scene:
    """One workflow with a run that completed and one that was cancelled in its stream, and what a client was told."""

    def __init__(self, world: World, partition: Partition) -> None:
        self.world, self.partition = world, partition
        self.told = {DONE: Told(202), STOPPED: Told(202, [202], cancel_asked=True), NEVER: Told(409)}

    async def findings(self) -> list[str]:
        return await findings(self.world.store, self.partition, self.told)

    async def change(self, *ops: Op) -> None:
        await self.world.store.transact(self.partition, ops)


async def scene_in(world: World, plant: Callable[[RunRef], Any] | None = None) -> Scene:
    """The scene; `plant` is called right after the accept."""
    workflow = await world.workflow(ECHO, MODEL, ECHO)
    partition = Partition(workflow["scope"], workflow["workflow_id"])
    first = await world.start(workflow, DONE)
    assert await world.drive(first) == "completed"
    world.model.script = streaming(10_000)
    second = await world.start(workflow, STOPPED)
    driving = asyncio.create_task(world.drive(second))
    await eventually(lambda: world.model.open)
    await world.cancel(second)
    if plant is not None:
        await plant(second)
    await driving
    return Scene(world, partition)


async def test_a_world_that_kept_its_promises_has_no_findings(world: World) -> None:
    """Guards against a judge that is never content."""
    scene = await scene_in(world)
    assert await scene.findings() == []


async def test_a_begin_without_its_guard_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the first promise: a begin that the store let pass after the accept."""

    async def late(ref: RunRef) -> None:
        with monkeypatch.context() as planted:
            planted.setattr("shared.operations.run_guard", lambda *_: ())
            await begin(world.store, ref, [ExecutionSpec("s03", Kind.STEP, "step2")])

    found = await (await scene_in(world, late)).findings()
    assert any(f"{STOPPED}:s03 began after the cancel was accepted" in one for one in found), found


async def test_a_settling_that_stamps_nothing_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the end: executions that stay pending in a cancelled run."""

    async def nothing(*_: Any) -> bool:
        return True

    monkeypatch.setattr("shared.settling._stamp", nothing)
    found = await (await scene_in(world)).findings()
    assert any("execution s03 is pending" in one for one in found), found
    assert any("its counts are" in one for one in found), found


async def test_a_lock_that_nobody_frees_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the second goal: nothing is left behind."""

    async def not_mine(*_: Any) -> None:
        return None

    scene = await scene_in(world)
    monkeypatch.setattr("shared.locks.owned", not_mine)
    workflow = await world.store.get(scene.partition, "workflow")
    third = await world.start(workflow, "third")
    scene.told["third"] = Told(202, [200], cancel_asked=True)
    await world.cancel(third)
    assert await scene.findings() == [f"{scene.partition.workflow_id}: the lock of run third is left"]


def execution(run: str, path: str, **changes: Any) -> Patch:
    return Patch(f"{run}:{path}", set=changes)


BLEMISHES: list[tuple[Op, str]] = [
    (Patch("workflow", set={"runtime.status": "running"}), "it is running with run None"),
    (Patch("workflow", set={"runtime.active_run_id": DONE}), "with run done"),
    (Patch("workflow", increment={"runtime.run_count": 1}), "it counts 3 runs of 2"),
    (Patch("workflow", set={"runtime.last_run_id": DONE}), "its last run is done, not stopped"),
    (Patch("workflow", set={"runtime.last_run_status": "failed"}), "its last run is said to be failed"),
    (Patch(DONE, increment={"in_flight": 1}), "1 operations are in flight"),
    (Patch(DONE, set={"status": "running"}), "it is running"),
    (Patch(DONE, increment={"counts.completed": -1}), "its counts are"),
    (execution(DONE, "s01", status="running"), "execution s01 is running"),
    (execution(DONE, "s01", attempt=2), "execution s01 has attempt 2"),
    (Delete(f"{DONE}:s01"), f"{DONE}:s01 began, and has no record"),
    (Delete(f"{DONE}:e:terminal"), "its terminal events are []"),
    (Create(terminal_event(DONE, EventType.RUN_FAILED).document | {"id": f"{DONE}:e:x"}), "its terminal events are ["),
    (event(DONE, EventType.EXECUTION_OUTPUT), "execution.output came after its end"),
    (event(DONE, EventType.RUN_QUEUED), "it was not queued first, or not once"),
    (event(DONE, EventType.RUN_STARTED), "it started 2 times"),
    (event(DONE, EventType.RUN_CANCELLING), "it is completed, and a cancel was accepted"),
    (event(STOPPED, EventType.RUN_CANCELLING), "more than one cancel was accepted"),
    (event(STOPPED, EventType.EXECUTION_STARTED, f"{STOPPED}:s03"), "s03 began after the cancel was accepted"),
    (event(STOPPED, EventType.RUN_STARTED), "the run began after the cancel was accepted"),
    (Patch(STOPPED, set={"cancel": None}), "a cancel was accepted, and it has no receipt"),
    (execution(STOPPED, "s02.m", cancel_outcome=None), "its receipt tells of []"),
    (execution(STOPPED, "s01.c0", cancel_outcome="finished"), "its receipt tells of"),
    (execution(STOPPED, "s02.m", cancel_outcome="abandoned"), "its receipt says acknowledged: True"),
    (execution(STOPPED, "s02.m", cancel_outcome="abandoned"), "its receipt says forced: False"),
    (Patch(STOPPED, set={"cancel.observed_at": None}), "its receipt lacks observed_at"),
    (execution(DONE, "s01.c0", cancel_outcome="stopped"), "it tells of a cancel, and none was accepted"),
    (Patch(f"receipt:manual:{DONE}", set={"outcome": None}), "its trigger's receipt says None"),
    (Delete(f"receipt:manual:{DONE}"), "its trigger's receipt says None"),
    (Patch(DONE, set={"receipts": []}), "its trigger has a key, and it has no receipt"),
    (Delete(DONE), f"run {DONE} has documents but doesn't exist"),
]


@pytest.mark.parametrize(("blemish", "expected"), BLEMISHES, ids=[expected for _, expected in BLEMISHES])
async def test_a_blemish_is_found(world: World, blemish: Op, expected: str) -> None:
    """Guards each rule of the proof."""
    scene = await scene_in(world)
    await scene.change(blemish)
    found = await scene.findings()
    assert any(expected in one for one in found), found


PROMISES: list[tuple[str, Told, str]] = [
    (NEVER, Told(202), "its start was answered 202, and it doesn't exist"),
    (DONE, Told(409), "its start was refused, and it exists"),
    (DONE, Told(202, [202], cancel_asked=True), "its cancel was answered 202, and it is completed"),
    (NEVER, Told(None, [200], cancel_asked=True), "its cancel was answered 200, and it is None"),
    (STOPPED, Told(202, [202, 409], cancel_asked=True), "its cancel was refused because it had ended"),
    (STOPPED, Told(202), "it is cancelled, and nobody asked"),
]


@pytest.mark.parametrize(("run_id", "told", "expected"), PROMISES, ids=[expected for _, _, expected in PROMISES])
async def test_a_broken_promise_is_found(world: World, run_id: str, told: Told, expected: str) -> None:
    """Guards what an answer binds us to."""
    scene = await scene_in(world)
    scene.told[run_id] = told
    assert any(expected in one for one in await scene.findings()), await scene.findings()


async def test_a_run_that_nobody_asked_for_is_found(world: World) -> None:
    """Guards against work that the service makes up."""
    scene = await scene_in(world)
    del scene.told[DONE]
    assert any(f"run {DONE} exists, and nobody asked for it" in one for one in await scene.findings())


async def test_only_a_child_may_end_before_it_began(world: World) -> None:
    """Guards the one exception: a tombstone is a child run of which nothing but its end is on record."""
    scene = await scene_in(world)
    run = {**await world.store.get(scene.partition, STOPPED), "id": "tomb", "counts": {}, "receipts": []}
    parent = {"scope": "user:alice", "workflow_id": "w", "run_id": "r", "execution_id": "r:s01.r"}
    await scene.change(Create({**run, "parent": parent}), terminal_event("tomb", EventType.RUN_CANCELLED))
    assert await scene.findings() == []
    await scene.change(Patch("tomb", set={"parent": None}))
    assert any("run tomb: it was not queued first" in one for one in await scene.findings())
