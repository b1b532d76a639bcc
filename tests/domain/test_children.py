"""Child runs: linked both ways, ended with their parent, and cancelled before a parent's cancel is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from activities import child_runs
from shared import children
from shared.cancellation import run_blocking
from shared.errors import NotFound
from shared.executions import RunRef
from shared.names import CancelSource
from shared.narrow import cancel_execution
from shared.outputs import load
from shared.receipts import cancel_receipt
from shared.removal import remove_run
from shared.runs import CancelRequest
from shared.store.port import Document, Op, Patch
from tests.support.waiting import eventually
from tests.support.world import ALICE, RecordingStore, World, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.word}}"}}
MODEL = {"kind": "model", "prompt": "Go"}


def child_of(workflow: Document, **more: Any) -> dict[str, Any]:
    return {"kind": "child_run", "workflow_id": workflow["workflow_id"], "input": {"word": "hello"}, **more}


async def child_ref(world: World, ref: RunRef, path: str = "s01.r") -> RunRef | None:
    """The child run that the execution names, once that is there."""
    one = await world.executions_at(ref, path)
    return None if one is None else RunRef(**one["child"], epoch=1)


async def child_model_open(world: World, count: int = 1) -> None:
    await eventually(lambda: world.model.open == count)


async def assert_ended(world: World, ref: RunRef, status: str) -> Document:
    """The run ended so: nothing is open, counts add up, its workflow is free. Answers the run."""
    run, tree = await world.run(ref), await world.executions(ref)
    assert (run["status"], run["in_flight"]) == (status, 0)
    assert not [path for path, one in tree.items() if one["status"] in ("pending", "running")]
    assert run["counts"]["total"] == len(tree) == sum(v for k, v in run["counts"].items() if k != "total")
    types = [one["event_type"] for one in await world.events(ref)]
    assert types[-1] == f"run.{status}"
    assert await world.idle(ref)
    return run


async def test_a_childs_output_is_its_steps_and_both_name_each_other(world: World) -> None:
    """Guards the happy path: input goes down, output comes up, both workflows are free."""
    child = await world.workflow(ECHO)
    after = {"kind": "tool", "tool": "echo", "arguments": {"value": "<{{steps.step0.output}}>"}}
    ref = await world.start(await world.workflow(child_of(child), after))
    assert await world.drive(ref) == "completed"
    below = await child_ref(world, ref)
    assert below is not None
    run = await assert_ended(world, below, "completed")
    above = {name: getattr(ref, name) for name in ("scope", "workflow_id", "run_id")}
    assert run["parent"] == {**above, "execution_id": f"{ref.run_id}:s01.r"}
    assert (run["trigger"]["kind"], run["requested_by"], run["depth"]) == ("child_run", ALICE, 1)
    await assert_ended(world, ref, "completed")
    tree = await world.executions(ref)
    assert [tree[path]["kind"] for path in ("s01", "s01.r")] == ["step", "child_run"]
    assert (tree["s01"]["output_preview"], tree["s02"]["output_preview"]) == ("hello", "<hello>")


async def test_a_childs_large_output_outlives_its_run(world: World) -> None:
    """Guards the parent, and runs that are resumed from it, against the retention or deletion of the child."""
    child = await world.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": "x" * 20_000}})
    none = {"kind": "tool", "tool": "read_document", "arguments": {"name": "{{steps.step0.output}}"}}
    ref = await world.start(await world.workflow(child_of(child), none))
    assert await world.drive(ref) == "failed"
    below = await child_ref(world, ref)
    assert below is not None
    assert await remove_run(world.services, await world.run(below))
    for one in ("s01", "s01.r"):
        assert await load(world.services.blobs, (await world.executions(ref))[one]) == "x" * 20_000


async def test_a_child_that_is_removed_before_it_was_heard_of_fails_its_step(world: World) -> None:
    """Guards the parent's end when the output that it should take over is gone: it must not wait for ever."""
    child = await world.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": "x" * 20_000}})
    ref = await world.start(await world.workflow(child_of(child)))
    await world.begin(ref)
    await child_runs.start(world.services, ref, "s01")
    below = await child_ref(world, ref)
    assert below is not None
    get = world.services.blobs.get

    async def gone(name: str) -> Any:
        raise NotFound(name)

    world.services.blobs.get = gone  # type: ignore[method-assign]
    assert await world.drive(below) == "completed"
    world.services.blobs.get = get  # type: ignore[method-assign]
    outcome = await children.end_child(world.services, ref, "s01")
    assert outcome["error"]["code"] == "child_missing"


async def test_a_child_that_fails_fails_its_step_and_says_why(world: World) -> None:
    """Guards failure: the parent's step names the child's run and its error."""
    child = await world.workflow({"kind": "tool", "tool": "read_document", "arguments": {"name": "none.txt"}})
    ref = await world.start(await world.workflow(child_of(child)))
    assert await world.drive(ref) == "failed"
    run = await assert_ended(world, ref, "failed")
    assert run["error"]["code"] == "child_failed"
    assert "none.txt" in run["error"]["message"]


async def test_cancelling_the_parent_cancels_its_children_before_it_answers(tmp_path: Path) -> None:
    """Guards the tree: when the cancel of the top returns, three levels have accepted; all end, deepest work is stopped."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        leaf = await world.workflow(MODEL, MODEL)
        middle = await world.workflow(child_of(leaf), MODEL)
        ref = await world.start(await world.workflow(child_of(middle), MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        second = await child_ref(world, ref)
        assert second is not None
        third = await child_ref(world, second)
        assert third is not None
        await world.cancel(ref, reason="stop it all")
        assert {(await world.run(one))["status"] for one in (ref, second, third)} <= {"cancelling", "cancelled"}
        assert await driving == "cancelled"
        runs = [await assert_ended(world, one, "cancelled") for one in (ref, second, third)]
        assert [one["cancel"]["source"] for one in runs] == ["api", "parent", "parent"]
        assert {one["cancel"]["reason"] for one in runs} == {"stop it all"}
        assert all(one["cancel"]["acknowledged"] for one in runs)
        assert len(world.model.began) == 1
        receipt = await cancel_receipt(world.services, runs[0])
        assert [(one["kind"], one["outcome"]) for one in receipt["in_flight"]] == [("child_run", "stopped")]


async def test_a_parent_is_not_cancelled_before_its_child_is(tmp_path: Path) -> None:
    """Guards true answers: while the child's work is being stopped the parent reads `cancelling`."""
    hold = asyncio.Event()

    async def slow_to_stop(_request: Any, on_text: Any) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await hold.wait()
            raise
        return ""

    async with open_world(tmp_path, slow_to_stop) as world:
        ref = await world.start(await world.workflow(child_of(await world.workflow(MODEL))))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        assert (await world.cancel(ref))["status"] == "cancelling"
        below = await child_ref(world, ref)
        assert below is not None
        assert [(await world.run(one))["status"] for one in (ref, below)] == ["cancelling", "cancelling"]
        hold.set()
        assert await driving == "cancelled"
        await assert_ended(world, ref, "cancelled")


async def test_a_child_cancelled_alone_is_reported_and_the_parent_goes_on(tmp_path: Path) -> None:
    """Guards a cancel of the child: the parent's step is cancelled, not failed, and its next step runs."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        after = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
        ref = await world.start(await world.workflow(child_of(await world.workflow(MODEL)), after))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        below = await child_ref(world, ref)
        assert below is not None
        await world.cancel(below)
        assert await driving == "completed"
        await assert_ended(world, below, "cancelled")
        await assert_ended(world, ref, "completed")
        tree = await world.executions(ref)
        assert [tree[path]["status"] for path in ("s01", "s01.r", "s02")] == ["cancelled", "cancelled", "completed"]


async def test_cancelling_the_step_cancels_its_child_run(tmp_path: Path) -> None:
    """Guards the narrow cancel across runs: the child below the branch has accepted when it is answered."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(child_of(await world.workflow(MODEL))))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        below = await child_ref(world, ref)
        assert below is not None
        await cancel_execution(world.services, ref.partition, ref.run_id, "s01", CancelRequest(ALICE))
        assert (await world.run(below))["status"] in ("cancelling", "cancelled")
        assert await driving == "completed"
        assert (await assert_ended(world, below, "cancelled"))["cancel"]["source"] == "parent"
        await assert_ended(world, ref, "completed")


async def test_a_child_that_is_not_there_yet_gets_a_tombstone_and_never_starts(tmp_path: Path) -> None:
    """Guards the gap between begin and creation: the late worker finds its child cancelled; the run is already settled."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        target = await world.workflow(MODEL)
        ref = await world.start(await world.workflow(child_of(target)))
        recording = RecordingStore(world.store)
        world.services.store = recording
        arrived, go = asyncio.Event(), asyncio.Event()

        async def before_create(partition_ops: Sequence[Op]) -> None:
            if any(getattr(op, "document", {}).get("type") == "run" for op in partition_ops) and not go.is_set():
                arrived.set()
                await go.wait()

        recording.before = before_create
        driving = asyncio.create_task(world.drive(ref))
        await arrived.wait()
        recording.before = None
        assert (await world.cancel(ref))["status"] == "cancelled"
        go.set()
        assert await driving == "cancelled"
        below = await child_ref(world, ref)
        assert below is not None
        run = await assert_ended(world, below, "cancelled")
        assert (run["started_at"], run["cancel"]["source"], run["parent"]["run_id"]) == (None, "parent", ref.run_id)
        assert not world.model.began
        assert await world.executions(below) == {}


async def test_a_parent_whose_child_died_unreported_is_told_by_its_own_orchestration(tmp_path: Path) -> None:
    """Guards the report: the process that ended the child died before it told the parent."""
    async with open_world(tmp_path) as world:
        target = await world.workflow(ECHO)
        ref = await world.start(await world.workflow(child_of(target)))
        begun = await world.begin(ref)
        started = await child_runs.start(world.services, ref, begun["steps"][0]["path"])
        below = await child_ref(world, ref)
        assert below is not None
        assert started["child"]["run_id"] == below.run_id
        assert (await children.end_child(world.services, ref, "s01"))["status"] == "retry"
        again = await child_runs.start(world.services, ref, "s01")
        assert again == started
        unreported = dict(await world.run(below))
        await world.store.transact(below.partition, [patch_parent(below, None)])
        assert await world.drive(below) == "completed"
        await world.store.transact(below.partition, [patch_parent(below, unreported["parent"])])
        assert (await world.run(ref))["in_flight"] == 1
        assert (await children.end_child(world.services, ref, "s01"))["status"] == "completed"
        assert (await world.run(ref))["in_flight"] == 0


async def is_settled(world: World, ref: RunRef) -> bool:
    return bool((await world.run(ref))["status"] == "cancelled")


def patch_parent(ref: RunRef, parent: Any) -> Op:
    return Patch(ref.run_id, set={"parent": parent})


@pytest.mark.parametrize("wrong", ["missing", "cycle", "busy", "deep"])
async def test_what_can_not_be_a_child_fails_its_step_clearly(tmp_path: Path, wrong: str) -> None:
    """Guards bad targets: none is waited for without end, each has its own code."""
    async with open_world(tmp_path, streaming(10_000), child_depth_max="1") as world:
        target = await world.workflow(ECHO)
        now = {"retries": {"max": 1, "backoff_seconds": 0}}
        step = child_of(target, **now)
        if wrong == "missing":
            step["workflow_id"] = "0" * 26
        top = await world.workflow(step)
        if wrong == "busy":
            await world.start(target)
        if wrong in ("cycle", "deep"):
            deeper = top if wrong == "cycle" else await world.workflow(ECHO)
            await world.redefine(target, child_of(deeper, **now))
        ref = await world.start(top)
        assert await world.drive(ref) == "failed"
        error = (await assert_ended(world, ref, "failed"))["error"]
        code = {"missing": "child_workflow_missing", "deep": "child_too_deep"}.get(wrong, f"child_{wrong}")
        expected = code if wrong in ("missing", "busy") else "child_failed"
        assert error["code"] == expected
        if expected == "child_failed":
            below = await child_ref(world, ref)
            assert below is not None
            assert (await world.run(below))["error"]["code"] == code


async def test_a_childs_deadline_is_the_parents_failure(tmp_path: Path) -> None:
    """Guards `timeout_seconds` of a child run: the child is cancelled by its parent, whose step fails with `timeout`."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(child_of(await world.workflow(MODEL))))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        await children.cancel_child(world.services, ref, "s01")
        assert await driving == "failed"
        assert (await assert_ended(world, ref, "failed"))["error"]["code"] == "timeout"


@pytest.mark.parametrize("write", range(12))
async def test_a_cancel_at_any_write_leaves_no_child_behind(tmp_path: Path, write: int) -> None:
    """Guards every order of parent, child and cancel: once answered, no run of the tree begins anything; all are settled."""
    async with open_world(tmp_path, streaming(50)) as world:
        ref = await world.start(await world.workflow(child_of(await world.workflow(MODEL, MODEL)), MODEL))
        recording = RecordingStore(world.store)
        world.services.store = recording
        count, reached = 0, asyncio.Event()

        async def at_write(_ops: Sequence[Op]) -> None:
            nonlocal count
            count += 1
            if count == write + 1:
                reached.set()
                await asyncio.sleep(0.01)  # the cancel overtakes this write, or follows it: both must hold

        recording.before = at_write
        driving = asyncio.create_task(world.drive(ref))
        there = asyncio.create_task(reached.wait())
        await asyncio.wait({driving, there}, timeout=20, return_when="FIRST_COMPLETED")
        await world.cancel(ref)
        began = len(world.model.began)
        below = await child_ref(world, ref)
        assert await driving in ("cancelled", "cancelling")  # the latter: its cancel is still settling it
        assert len(world.model.began) == began
        await eventually(lambda: is_settled(world, ref))
        await assert_ended(world, ref, "cancelled")
        if below is not None:
            await assert_ended(world, below, "cancelled")


async def test_a_forced_cancel_forces_the_children(tmp_path: Path) -> None:
    """Guards force: nothing of the tree is waited for, and its receipts say so."""
    hold = asyncio.Event()

    async def stubborn(_request: Any, on_text: Any) -> str:
        while not hold.is_set():
            try:
                await hold.wait()
            except asyncio.CancelledError:
                pass  # not polite
        return ""

    async with open_world(tmp_path, stubborn) as world:
        ref = await world.start(await world.workflow(child_of(await world.workflow(MODEL))))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        assert (await world.cancel(ref, force=True, source=CancelSource.PAGE))["status"] == "cancelled"
        below = await child_ref(world, ref)
        assert below is not None
        assert (await assert_ended(world, below, "cancelled"))["cancel"]["acknowledged"] is False
        await assert_ended(world, ref, "cancelled")
        hold.set()
        await driving


async def test_what_a_child_had_to_abandon_its_parent_does_not_call_stopped(tmp_path: Path) -> None:
    """Guards the parent's receipt: it is acknowledged only if everything below it had stopped."""
    release = threading.Event()

    async def blocking(request: Any, on_text: Any) -> str:
        await run_blocking(release.wait, 10)
        return "late"

    async with open_world(tmp_path, blocking) as world:
        child = await world.workflow(MODEL)
        ref = await world.start(await world.workflow(child_of(child)))
        driving = asyncio.create_task(world.drive(ref))
        await child_model_open(world)
        below = await child_ref(world, ref)
        assert below is not None
        assert (await world.cancel(ref, grace_seconds=0.1))["status"] == "cancelling"
        assert await driving == "cancelled"
        release.set()
        for one, forced in ((below, True), (ref, False)):
            run = await assert_ended(world, one, "cancelled")
            receipt = await cancel_receipt(world.services, run)
            assert (receipt["forced"], receipt["acknowledged"]) == (forced, False)
            assert [found["outcome"] for found in receipt["in_flight"]] == ["abandoned"]
