"""Resuming a run: what had finished is reused, the rest is repeated, and no side effect is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.documents import Documents
from shared.errors import Problem
from shared.executions import RunRef, run_ref
from shared.ids import new_ulid
from shared.narrow import cancel_execution
from shared.resume import Items, Resume, resume_run
from shared.runs import CancelRequest
from shared.starting import Start
from shared.states import ExecutionStatus as Ex
from shared.store.port import Document, Op, Patch
from tests.support.waiting import eventually
from tests.support.world import ALICE, RecordingStore, World, at_once, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}
READ = {"kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 1, "prompt": "{{document.text}}"}


async def resume(world: World, old: RunRef, **how: Any) -> RunRef:
    """Resume `old`, as Alice, and drive the new run to its end."""
    ref = await start_resumed(world, old, **how)
    await world.drive(ref)
    return ref


async def start_resumed(world: World, old: RunRef, **how: Any) -> RunRef:
    workflow = await world.store.get(old.partition, "workflow")
    made = new_ulid()
    start = Start(made, made, None, ALICE)
    run, created = await resume_run(world.services, old.partition, workflow, await world.run(old), start, Resume(**how))
    assert created
    return run_ref(run)


async def assert_whole(world: World, ref: RunRef, status: str) -> dict[str, Document]:
    """The run ended so and its counts are true. Answers its tree."""
    run, tree = await world.run(ref), await world.executions(ref)
    assert (run["status"], run["in_flight"]) == (status, 0)
    by_status = {one.value: sum(node["status"] == one for node in tree.values()) for one in Ex}
    assert run["counts"] == {**by_status, "total": len(tree)}
    assert await world.idle(ref)
    return tree


async def cancelled_after(world: World, ref: RunRef, requests: int) -> None:
    """Drive the run, and cancel it while its model's request number `requests` streams."""
    driving = asyncio.create_task(world.drive(ref))
    await eventually(lambda: len(world.model.began) == requests and world.model.open)
    await world.cancel(ref)
    assert await driving == "cancelled"


def slow_from(number: int) -> Any:
    """A script that answers at once, but streams from its request `number` on until `world.model.script` is changed."""
    seen = 0

    async def script(request: Any, on_text: Any) -> str:
        nonlocal seen
        seen += 1
        return await (streaming(10_000) if seen >= number else at_once)(request, on_text)

    return script


async def test_a_run_with_many_large_outputs_is_resumed(tmp_path: Path) -> None:
    """Guards the limit of a transaction: what is copied at once has to fit into 2 MB, whatever was said."""

    async def long(request: Any, on_text: Any) -> str:
        return "\n" * 16_000

    async with open_world(tmp_path, long) as world:
        documents = Documents(world.services.blobs, "user:alice")
        for number in range(45):
            await documents.put(f"{number}.txt", b"\n" * 16_000 + b"text", "text/plain")
        sleep = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 3600}}
        old = await world.start(await world.workflow({**READ, "parallel": 8}, sleep))
        driving = asyncio.create_task(world.drive(old))
        await eventually(lambda: world.executions_at(old, "s02.c0"), 30)
        await world.cancel(old)
        await driving
        ref = await start_resumed(world, old)
        assert (await world.begin(ref))["status"] == "running"
        assert len(await world.executions(ref)) == 1 + 2 * 45 + 1


async def test_a_cancelled_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Guards the main job: finished steps keep their output without running, the cancelled one and later ones run."""
    async with open_world(tmp_path, slow_from(2)) as world:
        last = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{steps.step0.output}}+{{steps.step1.output}}"}}
        old = await world.start(await world.workflow(MODEL, MODEL, last), given={"word": "w"})
        await cancelled_after(world, old, 2)
        world.model.script = at_once
        ref = await resume(world, old, items=Items.CANCELLED)
        tree = await assert_whole(world, ref, "completed")
        assert len(world.model.began) == 3
        assert [tree[path]["reused_from"] for path in ("s01", "s01.m", "s02")] == [
            f"{old.run_id}:s01",
            f"{old.run_id}:s01.m",
            None,
        ]
        assert tree["s03"]["output_preview"] == "answer+answer"
        run = await world.run(ref)
        assert (run["resumed_from"], run["input"], run["trigger"]["kind"]) == (old.run_id, {"word": "w"}, "manual")
        began = [one["execution_id"] for one in await world.events(ref) if one["event_type"] == "execution.started"]
        assert f"{ref.run_id}:s01" not in began


async def test_a_fan_out_keeps_its_finished_items(tmp_path: Path) -> None:
    """Guards partial work of a step: items that completed are reused, the others run, all in their places."""
    async with open_world(tmp_path, slow_from(3)) as world:
        for name in "abcde":
            await world.services.blobs.put(f"documents/user:alice/{name}.txt", name.encode(), "text/plain")
        old = await world.start(await world.workflow(READ, ECHO))
        await cancelled_after(world, old, 3)
        await world.services.blobs.put("documents/user:alice/0.txt", b"new", "text/plain")
        world.model.script = at_once
        ref = await resume(world, old)
        tree = await assert_whole(world, ref, "completed")
        names = [tree[f"s01.i00{i}"]["name"] for i in range(1, 6)]
        assert names == ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"]
        assert [tree[f"s01.i00{i}"]["reused_from"] is not None for i in range(1, 6)] == [
            True,
            True,
            False,
            False,
            False,
        ]
        assert len(world.model.began) == 3 + 3
        assert "s01.i006" not in tree


async def test_only_what_was_asked_for_is_repeated(tmp_path: Path) -> None:
    """Guards `items`: of a completed run with a failed and a cancelled item each can be repeated alone, or both."""

    async def script(request: Any, on_text: Any) -> str:
        text = request.messages[-1]["content"]
        if "bad" in text:
            raise RuntimeError("bad")
        return await (streaming(10_000) if "slow" in text else at_once)(request, on_text)

    async with open_world(tmp_path, script) as world:
        for name in ("bad", "good", "slow"):
            await world.services.blobs.put(f"documents/user:alice/{name}.txt", name.encode(), "text/plain")
        workflow = await world.workflow({**READ, "on_error": "continue", "retries": {"max": 0}})
        old = await world.start(workflow)
        driving = asyncio.create_task(world.drive(old))
        await eventually(lambda: world.executions_at(old, "s01.i003.m"))
        await cancel_execution(world.services, old.partition, old.run_id, "s01.i003", CancelRequest(ALICE))
        assert await driving == "completed"
        world.model.script = at_once
        expected = {
            "failed": ["completed", "completed", "cancelled"],
            "cancelled": ["failed", "completed", "completed"],
        }
        for items, statuses in {**expected, "both": ["completed"] * 3}.items():
            ref = await resume(world, old, items=Items(items))
            tree = await assert_whole(world, ref, "completed")
            assert [tree[f"s01.i00{i}"]["status"] for i in (1, 2, 3)] == statuses, items


async def test_what_depends_on_a_repeated_step_is_repeated(tmp_path: Path) -> None:
    """Guards stale inputs: a finished step that used the output of a failed one runs again, an independent one doesn't."""

    async def fail_first(request: Any, on_text: Any) -> str:
        raise RuntimeError("down")

    async with open_world(tmp_path, fail_first) as world:
        failing = {**MODEL, "on_error": "continue", "retries": {"max": 0}}
        using = {"kind": "tool", "tool": "echo", "arguments": {"value": "<{{steps.step0.output}}>"}}
        old = await world.start(await world.workflow(failing, using, ECHO))
        assert await world.drive(old) == "completed"
        world.model.script = at_once
        tree = await assert_whole(world, await resume(world, old, items=Items.FAILED), "completed")
        assert tree["s02"]["output_preview"] == "<answer>"
        assert [tree[path]["reused_from"] is not None for path in ("s01", "s02", "s03")] == [False, False, True]


async def test_from_a_step_on_everything_is_repeated(tmp_path: Path) -> None:
    """Guards `from_step`, also on what had finished; an unknown name is refused."""
    async with open_world(tmp_path) as world:
        old = await world.start(await world.workflow(ECHO, MODEL, ECHO))
        assert await world.drive(old) == "completed"
        tree = await assert_whole(world, await resume(world, old, from_step="step1"), "completed")
        assert [tree[path]["reused_from"] is not None for path in ("s01", "s02", "s03")] == [True, False, False]
        with pytest.raises(Problem) as refused:
            await resume(world, old, from_step="none")
        assert (refused.value.status, refused.value.code) == (422, "invalid")


async def test_a_side_effect_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    """Guards side effects: a notification that was sent before its step was stopped counts as done, and the run goes on."""
    async with open_world(tmp_path) as world:
        note = {"kind": "notify", "subject": "Hi", "message": "once"}
        old = await world.start(await world.workflow(note, ECHO))
        assert await world.drive(old) == "completed"
        done = {
            "kind": "notification",
            "what": "Hi",
            "at": "2026-01-01T00:00:00.000Z",
            "execution_id": "x",
            "done": True,
        }
        stopped = {"status": "cancelled", "output_preview": None}
        never = {**stopped, "started_at": None}
        await rewrite(world, old, {"s01": {**stopped, "side_effects": [done]}, "s02": never, "s02.c0": never})
        ref = await resume(world, old)
        tree = await assert_whole(world, ref, "completed")
        assert tree["s01"]["reused_from"] == f"{old.run_id}:s01"
        assert "already_done" in tree["s01"]["output_preview"]
        assert "execution.output" not in [one["event_type"] for one in await world.events(ref)]
        assert tree["s02"]["output_preview"] == "x"


async def rewrite(world: World, ref: RunRef, changes: dict[str, dict[str, Any]]) -> None:
    """Make the record of an ended run that of one that was cancelled in the middle."""
    ops: list[Op] = [Patch(ref.execution_id(path), set=fields) for path, fields in changes.items()]
    await world.store.transact(ref.partition, [Patch(ref.run_id, set={"status": "cancelled"}), *ops])


async def test_nothing_to_resume_and_active_runs_are_refused(world: World) -> None:
    """Guards the answers: a run that is active, one that is whole, and one whose failure wasn't asked to be repeated."""
    whole = await world.start(await world.workflow(ECHO))
    with pytest.raises(Problem) as active:
        await resume(world, whole)
    assert active.value.code == "run_active"
    await world.drive(whole)
    missing = {"kind": "tool", "tool": "read_document", "arguments": {"name": "none.txt"}}
    failed = await world.start(await world.workflow(missing, ECHO))
    assert await world.drive(failed) == "failed"
    for old, how in ((whole, Items.BOTH), (failed, Items.CANCELLED)):
        with pytest.raises(Problem) as nothing:
            await resume(world, old, items=how)
        assert (nothing.value.status, nothing.value.code) == (409, "nothing_to_resume")


async def test_the_current_definition_is_used_when_asked(tmp_path: Path) -> None:
    """Guards `use_current`: steps that are as they were are reused wherever they moved to, changed ones are repeated."""
    async with open_world(tmp_path, slow_from(2)) as world:
        workflow = await world.workflow(
            {**ECHO, "name": "first"}, {**MODEL, "name": "second"}, {**MODEL, "name": "third"}
        )
        old = await world.start(workflow)
        await cancelled_after(world, old, 2)
        world.model.script = at_once
        changed = {**ECHO, "name": "first", "arguments": {"value": "y"}}
        await world.redefine(workflow, {**MODEL, "name": "second"}, changed, {**MODEL, "name": "third"})
        tree = await assert_whole(world, await resume(world, old, use_current=True), "completed")
        assert [tree[path]["name"] for path in ("s01", "s02", "s03")] == ["second", "first", "third"]
        assert [tree[path]["reused_from"] for path in ("s01", "s02", "s03")] == [f"{old.run_id}:s02", None, None]
        assert tree["s02"]["output_preview"] == "y"


@pytest.mark.parametrize("write", range(6))
async def test_a_crash_or_cancel_while_copying_leaves_no_half_run(tmp_path: Path, write: int) -> None:
    """Guards the copy: delivered again after any write it comes to the same tree; a cancel in between ends the run whole."""
    async with open_world(tmp_path, slow_from(100)) as world:
        for number in range(99):
            await world.services.blobs.put(f"documents/user:alice/{number:03}.txt", b"text", "text/plain")
        old = await world.start(await world.workflow({**READ, "parallel": 16}, MODEL))
        await cancelled_after(world, old, 100)
        world.model.script = at_once
        ref = await start_resumed(world, old)
        recording = RecordingStore(world.store)
        world.services.store = recording
        count = 0

        async def dies(_ops: Sequence[Op]) -> None:
            nonlocal count
            count += 1
            if count == write % 3 + 1:
                raise ConnectionError("killed")

        recording.before = dies
        with pytest.raises(ConnectionError):
            await world.begin(ref)
        recording.before = None
        if write >= 3:
            await world.cancel(ref)
            assert await world.drive(ref) == "cancelled"
            await assert_whole(world, ref, "cancelled")
            return
        assert await world.drive(ref) == "completed"
        tree = await assert_whole(world, ref, "completed")
        assert sum(one["reused_from"] is not None for one in tree.values()) == 1 + 2 * 99
        assert len(world.model.began) == 101


async def test_a_resumed_run_can_be_cancelled_and_resumed_again(tmp_path: Path) -> None:
    """Guards chains: the second resume reuses what the first had reused, and names the run that did the work."""
    async with open_world(tmp_path, slow_from(2)) as world:
        old = await world.start(await world.workflow(MODEL, MODEL))
        await cancelled_after(world, old, 2)
        again = await start_resumed(world, old)
        await cancelled_after(world, again, 3)
        world.model.script = at_once
        tree = await assert_whole(world, await resume(world, again), "completed")
        assert tree["s01"]["reused_from"] == f"{old.run_id}:s01"
        assert len(world.model.began) == 4
