"""Crashes, doubled deliveries and lost contact: what worked is fenced, taken over or reaped, never doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from activities import items, lifecycle, steps
from shared.cancellation import run_blocking
from shared.errors import Unavailable
from shared.executions import ExecutionSpec, RunRef
from shared.names import Kind
from shared.operations import Begun, Ending, Superseded, begin, finish, record
from shared.outputs import Output
from shared.states import ExecutionStatus as Ex
from shared.store.port import Op, Patch
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.waiting import eventually
from tests.support.world import RecordingStore, World, at_once, open_world, streaming

MODEL = {"kind": "model", "prompt": "Go"}


@pytest_asyncio.fixture
async def slow(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose model streams for long: the process that will crash."""
    async with open_world(tmp_path, streaming(10_000)) as one:
        store = RecordingStore(one.store)
        yield World(replace(one.services, store=store), one.model)


async def begun(world: World, *more: dict[str, Any]) -> RunRef:
    """A run that has begun, with a model step first."""
    ref = await world.start(await world.workflow(MODEL, *more))
    await lifecycle.begin(world.services, ref)
    return ref


async def crash(world: World, task: asyncio.Task[Any]) -> None:
    """End a delivery as a killed process does: without a word to the store."""

    async def unheard(ops: Sequence[Op]) -> None:
        await asyncio.Event().wait()

    world.store.before = unheard  # type: ignore[attr-defined]
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


async def test_a_redelivered_operation_takes_over_once_the_heartbeat_has_expired(slow: World, tmp_path: Path) -> None:
    """Guards takeover: attempt 2 runs after the fence, whole: the wait before it doesn't count against its heartbeat."""
    ref = await begun(slow)
    first = asyncio.create_task(steps.run(slow.services, ref, "s01"))
    await eventually(lambda: slow.model.open)
    await crash(slow, first)

    async def before(ops: Sequence[Op]) -> None:
        await asyncio.sleep(0.03)  # a store at some distance

    async with open_world(tmp_path, streaming(150)) as second:
        store = RecordingStore(second.store)
        store.before = before
        started = asyncio.get_running_loop().time()
        outcome = await steps.run(replace(second.services, store=store), ref, "s01")
        assert outcome["status"] == "completed"
        assert asyncio.get_running_loop().time() - started >= second.services.settings.fence_seconds
        tree = await second.executions(ref)
        assert tree["s01.m"]["attempt"] == 2
        assert (await second.run(ref))["in_flight"] == 0


async def test_a_redelivery_waits_for_an_attempt_that_is_at_work_and_adopts_its_outcome(tmp_path: Path) -> None:
    """Guards at-least-once delivery: the second delivery calls no model and answers the first one's outcome."""
    async with open_world(tmp_path, streaming(300)) as first, open_world(tmp_path, at_once) as second:
        ref = await begun(first)
        working = asyncio.create_task(steps.run(first.services, ref, "s01"))
        await eventually(lambda: first.model.open)
        doubled = await steps.run(second.services, ref, "s01")
        assert doubled == await working
        assert second.model.began == []
        assert (await second.executions(ref))["s01.m"]["attempt"] == 1


async def test_a_lost_operation_of_a_cancelling_run_is_reaped_and_the_run_settles(slow: World, tmp_path: Path) -> None:
    """Guards a crash during the cancel: the receipt says `lost`, nothing hangs."""
    ref = await begun(slow)
    first = asyncio.create_task(steps.run(slow.services, ref, "s01"))
    await eventually(lambda: slow.model.open)
    await crash(slow, first)
    async with open_world(tmp_path, at_once) as second:
        assert (await second.cancel(ref))["status"] == "cancelling"
        assert (await steps.run(second.services, ref, "s01"))["status"] == "cancelled"
        receipt = await assert_cancelled_whole(second, ref)
        assert [one["outcome"] for one in receipt["in_flight"]] == ["lost"]
        assert second.model.began == []


async def test_a_lost_item_is_reaped_with_its_model_call(slow: World, tmp_path: Path) -> None:
    """Guards that what lies inside a lost operation is reaped with it, so that the run can settle."""
    await slow.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
    step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
    ref = await slow.start(await slow.workflow(step))
    first = asyncio.create_task(slow.drive(ref))
    await eventually(lambda: slow.model.open)
    await crash(slow, first)
    async with open_world(tmp_path, at_once) as second:
        await second.cancel(ref)
        assert await second.drive(ref) == "cancelling"  # the driver begins again only what the host would redeliver
        assert (await items.run_item(second.services, ref, "s01.i001"))["status"] == "cancelled"
        receipt = await assert_cancelled_whole(second, ref)
        assert sorted(one["kind"] for one in receipt["in_flight"]) == ["item", "model_call"]


async def test_an_item_taken_over_does_not_repeat_a_model_call_that_had_completed(tmp_path: Path) -> None:
    """Guards that finished work is adopted, not paid for twice."""
    async with open_world(tmp_path, at_once) as first:
        await first.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
        ref = await first.start(await first.workflow(step))
        hold = asyncio.Event()

        async def before(ops: Sequence[Op]) -> None:
            if any(
                isinstance(op, Patch) and op.id.endswith(":s01.i001") and op.set.get("status") == "completed"
                for op in ops
            ):
                hold.set()
                await asyncio.Event().wait()

        store = RecordingStore(first.store)
        store.before = before
        crashing = World(replace(first.services, store=store), first.model)
        driving = asyncio.create_task(crashing.drive(ref))
        await hold.wait()
        await crash(crashing, driving)
        assert len(first.model.began) == 1
        assert await first.drive(ref) == "completed"
        assert len(first.model.began) == 1
        tree = await first.executions(ref)
        assert (tree["s01.i001"]["attempt"], tree["s01.i001.m"]["attempt"]) == (2, 1)
        assert (await first.run(ref))["counts"]["completed"] == 3


async def test_an_operation_that_loses_the_store_stops_itself(slow: World, tmp_path: Path) -> None:
    """Guards self-fencing: without a renewal for half a fence the work stops, before anybody may take it over."""
    ref = await begun(slow)
    away = True

    async def before(ops: Sequence[Op]) -> None:
        if away and slow.model.began:
            raise Unavailable("pulled the plug")

    store = RecordingStore(slow.store)
    store.before = before
    services = replace(slow.services, store=store)
    working = asyncio.create_task(steps.run(services, ref, "s01"))
    await eventually(lambda: slow.model.open)
    began = asyncio.get_running_loop().time()
    await eventually(lambda: slow.model.open == 0)
    assert asyncio.get_running_loop().time() - began < slow.services.settings.fence_seconds
    away = False
    assert (await working)["status"] == "retry"
    tree = await slow.executions(ref)
    assert tree["s01.m"]["status"] == "pending"
    assert tree["s01.m"]["error"]["code"] == "lost_contact"
    assert (await slow.run(ref))["in_flight"] == 0


async def test_an_item_that_loses_the_store_is_tried_again_with_its_model_call(tmp_path: Path) -> None:
    """Guards that stopping oneself isn't a cancel: the inner call is left to be tried again, as the item is."""
    away = False

    async def before(ops: Sequence[Op]) -> None:
        if away:
            raise Unavailable("pulled the plug")

    async with open_world(tmp_path, streaming(10_000)) as world:
        await world.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
        ref = await world.start(await world.workflow(step))
        store = RecordingStore(world.store)
        store.before = before
        driving = asyncio.create_task(World(replace(world.services, store=store), world.model).drive(ref))
        await eventually(lambda: world.model.open)
        away = True
        await eventually(lambda: world.model.open == 0)
        world.model.script = at_once
        away = False
        assert await driving == "completed"
        tree = await world.executions(ref)
        assert (tree["s01.i001"]["attempt"], tree["s01.i001.m"]["attempt"]) == (2, 2)


async def test_an_item_past_its_deadline_fails_with_its_model_call(tmp_path: Path) -> None:
    """Guards that what lies inside an overdue operation says the same as it does."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        await world.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "timeout_seconds": 0.1}
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "failed"
        tree = await world.executions(ref)
        assert [tree[path]["error"]["code"] for path in ("s01.i001", "s01.i001.m")] == ["timeout", "timeout"]


async def test_a_host_that_ends_leaves_its_operations_to_be_taken_over(tmp_path: Path) -> None:
    """Guards a graceful stop: it is no cancel, neither for the item nor for the call inside it."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        await world.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        await eventually(lambda: world.model.open == 0)
    async with open_world(tmp_path, at_once) as second:
        assert await second.drive(ref) == "completed"
        tree = await second.executions(ref)
        assert {one["status"] for one in tree.values()} == {"completed"}


async def test_a_blocking_tool_that_lost_the_store_is_taken_over_after_the_fence(tmp_path: Path) -> None:
    """Guards that a thread nobody can stop neither hangs the step nor counts twice."""
    import threading

    release = threading.Event()
    calls: list[int] = []

    async def script(request: Any, on_text: Any) -> str:
        calls.append(1)
        if len(calls) == 1:
            await run_blocking(release.wait, 10)
        return f"attempt {len(calls)}"

    async with open_world(tmp_path, script) as world:
        ref = await begun(world)

        async def before(ops: Sequence[Op]) -> None:
            if calls and not outcome.done():
                raise Unavailable("pulled the plug")

        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        store = RecordingStore(world.store)
        store.before = before
        outcome.set_result(await _first(steps.run(replace(world.services, store=store), ref, "s01")))
        assert outcome.result() == {"status": "retry", "after_seconds": 0.0}
        assert (await steps.run(world.services, ref, "s01"))["status"] == "completed"
        release.set()
        await eventually(lambda: world.model.open == 0)
        tree = await world.executions(ref)
        assert (tree["s01.m"]["attempt"], tree["s01.m"]["output_preview"]) == (2, "attempt 2")


async def _first(call: Any) -> Any:
    return await call


async def test_partial_text_of_a_call_that_has_just_ended_does_not_lose_the_operation_around_it(world: World) -> None:
    """Guards the pulse against its race with the end of an inner operation."""
    ref = await world.start(await world.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}))
    await lifecycle.begin(world.services, ref)
    outer = await begin(world.store, ref, [ExecutionSpec("s01", Kind.STEP, "x")])
    assert isinstance(outer, Begun)
    inner = await begin(world.store, ref, [ExecutionSpec("s01.m", Kind.MODEL_CALL, "m")], inside=outer)
    assert isinstance(inner, Begun)
    await finish(world.store, inner, Ending(Ex.COMPLETED, Output("all of it")))
    await record(world.store, outer, {"s01.m": "part"})
    assert (await world.executions(ref))["s01.m"]["output_preview"] == "all of it"


async def test_what_a_lost_attempt_left_at_work_inside_does_not_keep_the_run_from_ending(
    slow: World, tmp_path: Path
) -> None:
    """Guards against a run that hangs because its second attempt failed before it came to the first one's model call."""
    name = "documents/user:alice/a.txt"
    await slow.services.blobs.put(name, b"text", "text/plain")
    step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
    ref = await slow.start(await slow.workflow(step))
    first = asyncio.create_task(slow.drive(ref))
    await eventually(lambda: slow.model.open)
    await crash(slow, first)
    async with open_world(tmp_path, at_once) as second:
        await second.services.blobs.delete(name)
        assert (await items.run_item(second.services, ref, "s01.i001"))["status"] == "failed"
        outcome = await items.close_items(second.services, ref, "s01")
        assert await lifecycle.end(second.services, ref, outcome) == {"status": "failed"}
        run, tree = await second.run(ref), await second.executions(ref)
        assert (run["in_flight"], tree["s01.i001.m"]["status"]) == (0, "skipped")
        assert (run["counts"]["failed"], run["counts"]["skipped"], run["counts"]["total"]) == (2, 1, 3)
        assert await second.idle(ref)


async def test_a_lost_item_of_a_fan_out_that_has_halted_does_not_keep_the_run_from_ending(
    slow: World, tmp_path: Path
) -> None:
    """Guards against a run that hangs because an item died with its process, and another one's failure forbids its retry."""
    for name in ("a", "b"):
        await slow.services.blobs.put(f"documents/user:alice/{name}.txt", b"text", "text/plain")
    step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "parallel": 1}
    ref = await slow.start(await slow.workflow(step))
    first = asyncio.create_task(slow.drive(ref))
    await eventually(lambda: slow.model.open)
    await crash(slow, first)
    async with open_world(tmp_path, at_once) as second:
        await second.services.blobs.delete("documents/user:alice/b.txt")
        assert (await items.run_item(second.services, ref, "s01.i002"))["status"] == "failed"
        assert (await items.run_item(second.services, ref, "s01.i001"))["status"] == "skipped"
        assert second.model.began == []
        outcome = await items.close_items(second.services, ref, "s01")
        assert await lifecycle.end(second.services, ref, outcome) == {"status": "failed"}
        run, tree = await second.run(ref), await second.executions(ref)
        assert run["in_flight"] == 0
        assert [tree[path]["error"]["code"] for path in ("s01.i001", "s01.i001.m")] == ["lost_contact"] * 2
        assert await second.idle(ref)


async def test_a_stale_attempt_begins_nothing_inside(world: World) -> None:
    """Guards against a process that stood still, goes on, and calls the model before it learns that it was taken over."""
    ref = await begun(world)
    outer, inner = [ExecutionSpec("s01", Kind.STEP, "x")], [ExecutionSpec("s01.m", Kind.MODEL_CALL, "m")]
    stale = await begin(world.store, ref, outer)
    seen = (await world.executions(ref))["s01"]["heartbeat_at"]
    new = await begin(world.store, ref, outer, expired_heartbeat=seen)
    assert isinstance(stale, Begun)
    assert isinstance(new, Begun)
    with pytest.raises(Superseded):
        await begin(world.store, ref, inner, inside=stale)
    assert isinstance(await begin(world.store, ref, inner, inside=new), Begun)
    assert (await world.run(ref))["in_flight"] == 2


async def test_settling_survives_a_crash_between_its_transactions(slow: World, tmp_path: Path) -> None:
    """Guards that whoever settles next goes on: no run is left cancelling."""
    ref = await begun(slow, *[{"kind": "tool", "tool": "echo", "arguments": {"value": i}} for i in range(60)])
    calls = 0

    async def before(ops: Sequence[Op]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    store = RecordingStore(slow.store)
    store.before = before
    broken = World(replace(slow.services, store=store), slow.model)
    crashed = asyncio.create_task(_swallow(broken.cancel(ref)))
    await crashed
    assert (await slow.run(ref))["status"] == "cancelling"
    assert (await slow.cancel(ref))["status"] == "cancelled"
    await assert_cancelled_whole(slow, ref)


async def test_an_accepted_cancel_that_nobody_settled_is_settled_by_the_pipelines_own_end(world: World) -> None:
    """Guards the tie after a crash: the accept landed, its process died, and then the pipeline reports `completed`."""
    ref = await world.start(await world.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}))
    await lifecycle.begin(world.services, ref)
    assert (await steps.run(world.services, ref, "s01"))["status"] == "completed"
    accepted = False

    async def before(ops: Sequence[Op]) -> None:
        nonlocal accepted
        if accepted:
            raise KeyboardInterrupt
        accepted = True

    store = RecordingStore(world.store)
    store.before = before
    await asyncio.create_task(_swallow(World(replace(world.services, store=store), world.model).cancel(ref)))
    assert (await world.run(ref))["status"] == "cancelling"
    assert await lifecycle.end(world.services, ref, {"status": "completed"}) == {"status": "cancelled"}
    await assert_cancelled_whole(world, ref)


async def _swallow(call: Any) -> None:
    try:
        await call
    except KeyboardInterrupt:
        pass
