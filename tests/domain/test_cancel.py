"""The promise: after a cancel is accepted nothing begins, what is in flight is stopped or waited for, and all agree."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from activities import items
from shared.cancellation import run_blocking, shield
from shared.errors import Problem
from shared.executions import ExecutionSpec, RunRef
from shared.names import CancelOutcome, Kind
from shared.operations import Ending, Refused, Superseded, begin, finish
from shared.outputs import Output
from shared.receipts import cancel_receipt
from shared.settling import settle
from shared.states import ExecutionStatus as Ex
from tests.support.waiting import eventually
from tests.support.world import ALICE, World, at_once, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}


async def assert_cancelled_whole(world: World, ref: RunRef, acknowledged: bool = True) -> dict[str, Any]:
    """Run, items, lock and workflow agree; one terminal event. Answers the receipt."""
    run, tree = await world.run(ref), await world.executions(ref)
    assert (run["status"], run["in_flight"]) == ("cancelled", 0)
    assert run["cancel"]["acknowledged"] is acknowledged
    assert all(one["status"] not in ("pending", "running") for one in tree.values())
    by_status = {status.value: sum(one["status"] == status for one in tree.values()) for status in Ex}
    assert run["counts"] == {**by_status, "total": len(tree)}
    assert await world.idle(ref)
    events = [event["event_type"] for event in await world.events(ref)]
    assert events.count("run.cancelling") == 1
    assert events[-1] == "run.cancelled"
    assert events.count("run.cancelled") == 1
    return await cancel_receipt(world.services, run)


async def test_a_queued_run_is_cancelled_at_once_and_never_begins(world: World) -> None:
    """Guards cancel before start: nothing is in flight, so the cancel itself settles."""
    ref = await world.start(await world.workflow(ECHO))
    assert (await world.cancel(ref))["status"] == "cancelled"
    assert await world.drive(ref) == "cancelled"
    assert await world.executions(ref) == {}
    receipt = await assert_cancelled_whole(world, ref)
    assert receipt["in_flight"] == []


async def test_a_stream_is_stopped_and_what_arrived_is_kept(tmp_path: Path) -> None:
    """Guards the main job: the stream closes, its text so far stays, and the supervisor settles by itself."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await eventually(lambda: _preview(world, ref))
        answered = await world.cancel(ref, reason="enough")
        assert answered["status"] == "cancelling"
        await eventually(lambda: _is(world, ref, "cancelled"))
        assert world.model.open == 0
        assert await driving == "cancelled"
        receipt = await assert_cancelled_whole(world, ref)
        assert [(one["kind"], one["outcome"]) for one in receipt["in_flight"]] == [("model_call", "stopped")]
        assert receipt["reason"] == "enough"
        assert receipt["requested_by"] == ALICE
        assert receipt["requested_at"] <= receipt["observed_at"] <= receipt["stopped_at"]
        tree = await world.executions(ref)
        assert tree["s01.m"]["output_preview"].startswith("w0 w1 ")
        assert tree["s02"]["started_at"] is None


async def _preview(world: World, ref: RunRef) -> Any:
    return (await world.executions(ref))["s01.m"]["output_preview"]


async def _is(world: World, ref: RunRef, status: str) -> bool:
    return bool((await world.run(ref))["status"] == status)


async def test_a_fan_out_stops_its_items_and_begins_no_more(tmp_path: Path) -> None:
    """Guards a cancel inside a fan-out of 20."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        for i in range(20):
            await world.services.blobs.put(f"documents/user:alice/{i:02d}.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "parallel": 4}
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open == 4)
        await world.cancel(ref)
        await eventually(lambda: _is(world, ref, "cancelled"))
        assert await driving == "cancelled"
        assert (len(world.model.began), world.model.open) == (4, 0)
        receipt = await assert_cancelled_whole(world, ref)
        assert sorted(one["kind"] for one in receipt["in_flight"]) == ["item"] * 4 + ["model_call"] * 4
        tree = await world.executions(ref)
        assert sum(one["started_at"] is not None for one in tree.values() if one["kind"] == "item") == 4


async def test_a_run_whose_last_step_had_completed_still_ends_cancelled(world: World) -> None:
    """Guards the tie: the accept landed before the run's own end, so the run ends cancelled, with nothing in flight."""
    from activities import lifecycle, steps

    ref = await world.start(await world.workflow(ECHO))
    await lifecycle.begin(world.services, ref)
    assert (await steps.run(world.services, ref, "s01"))["status"] == "completed"
    assert (await world.cancel(ref))["status"] == "cancelled"
    assert await lifecycle.end(world.services, ref, {"status": "completed"}) == {"status": "cancelled"}
    receipt = await assert_cancelled_whole(world, ref)
    assert receipt["in_flight"] == []
    assert (await world.executions(ref))["s01"]["status"] == "completed"


async def test_settling_without_force_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    """Guards the status against running ahead of the work: a settler that comes too early changes nothing."""
    release = threading.Event()

    async def blocking(request: Any, on_text: Any) -> str:
        await run_blocking(release.wait, 10)
        return "late"

    async with open_world(tmp_path, blocking) as world:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await world.cancel(ref)
        early = await settle(world.services, ref)
        assert (early["status"], early["epoch"], early["in_flight"]) == ("cancelling", 1, 1)
        release.set()
        assert await driving == "cancelled"
        await assert_cancelled_whole(world, ref)


async def test_an_operation_that_completes_after_the_accept_keeps_its_outcome(tmp_path: Path) -> None:
    """Guards finished > cancelled: its output is kept, told as `finished`, and nothing uses it."""
    release = asyncio.Event()

    async def stubborn(request: Any, on_text: Any) -> str:
        async with shield(5):
            await release.wait()
        return "whole answer"

    async with open_world(tmp_path, stubborn) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await world.cancel(ref)
        assert (await world.run(ref))["status"] == "cancelling"
        release.set()
        assert await driving == "cancelled"
        receipt = await assert_cancelled_whole(world, ref)
        assert [one["outcome"] for one in receipt["in_flight"]] == ["finished"]
        assert (await world.executions(ref))["s01.m"]["output_preview"] == "whole answer"


async def test_twenty_cancels_at_once_are_one_cancel(tmp_path: Path) -> None:
    """Guards idempotency: one accept, one receipt, the first reason stays."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        answers = await asyncio.gather(*(world.cancel(ref, reason=f"reason {i}") for i in range(20)))
        assert len({one["cancel"]["reason"] for one in answers}) == 1
        await driving
        await assert_cancelled_whole(world, ref)
        again = await world.cancel(ref, reason="late")
        assert again["cancel"]["reason"] == answers[0]["cancel"]["reason"]


async def test_a_cancel_after_the_end_is_refused_with_the_state(world: World) -> None:
    """Guards that a finished run stays finished."""
    ref = await world.start(await world.workflow(ECHO))
    await world.drive(ref)
    with pytest.raises(Problem) as caught:
        await world.cancel(ref)
    assert (caught.value.status, caught.value.code) == (409, "run_already_finished")
    assert caught.value.extra == {"state": "completed"}


async def test_a_blocking_tool_that_ignores_cancel_is_abandoned_when_the_grace_is_over(tmp_path: Path) -> None:
    """Guards honesty: `acknowledged` is false, what had not stopped is listed, and its late write is refused."""
    release = threading.Event()

    async def blocking(request: Any, on_text: Any) -> str:
        await run_blocking(release.wait, 10)
        return "late"

    async with open_world(tmp_path, blocking) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await world.cancel(ref, grace_seconds=0.1))["status"] == "cancelling"
        assert await driving == "cancelled"
        receipt = await assert_cancelled_whole(world, ref, acknowledged=False)
        assert [one["outcome"] for one in receipt["in_flight"]] == ["abandoned"]
        before = (await world.executions(ref), await world.events(ref))
        release.set()
        await eventually(lambda: world.model.open == 0)
        await asyncio.sleep(0)
        assert (await world.executions(ref), await world.events(ref)) == before


async def test_a_grace_of_nothing_still_tells_the_work_to_stop(tmp_path: Path) -> None:
    """Guards a truthful receipt: a stream that stops at the first word was stopped, not abandoned."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await world.cancel(ref, grace_seconds=0))["status"] == "cancelling"
        assert await driving == "cancelled"
        receipt = await assert_cancelled_whole(world, ref)
        assert [one["outcome"] for one in receipt["in_flight"]] == ["stopped"]


async def test_force_ends_the_run_at_once_and_refuses_late_writes(tmp_path: Path) -> None:
    """Guards force: the epoch rises, so the write of what had not stopped is refused by the store."""
    release = asyncio.Event()

    async def stubborn(request: Any, on_text: Any) -> str:
        async with shield(5):
            await release.wait()
        return "late"

    async with open_world(tmp_path, stubborn) as world:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await world.cancel(ref, force=True))["status"] == "cancelled"
        await assert_cancelled_whole(world, ref, acknowledged=False)
        release.set()
        assert await driving == "cancelled"
        tree = await world.executions(ref)
        assert (tree["s01.m"]["status"], tree["s01.m"]["output_preview"]) == ("cancelled", None)


async def test_force_on_a_run_that_is_already_cancelling_ends_it(tmp_path: Path) -> None:
    """Guards the second press: force after a plain cancel."""
    release = threading.Event()

    async def blocking(request: Any, on_text: Any) -> str:
        await run_blocking(release.wait, 10)
        return "late"

    async with open_world(tmp_path, blocking) as world:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await world.cancel(ref))["status"] == "cancelling"
        assert (await world.cancel(ref, force=True))["status"] == "cancelled"
        release.set()
        assert await driving == "cancelled"
        await assert_cancelled_whole(world, ref, acknowledged=False)


async def test_a_body_that_swallows_its_cancellation_is_told_again(tmp_path: Path) -> None:
    """Guards level-triggering: catching one CancelledError defeats nothing."""
    swallowed = []

    async def swallowing(request: Any, on_text: Any) -> str:
        while len(swallowed) < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append(1)
        await asyncio.sleep(60)
        return "never"

    async with open_world(tmp_path, swallowing) as world:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await world.cancel(ref)
        assert await driving == "cancelled"
        assert len(swallowed) == 3
        await assert_cancelled_whole(world, ref)


async def test_a_cancel_during_the_wait_for_a_retry_settles_at_once(tmp_path: Path) -> None:
    """Guards that waiting to try again isn't being in flight."""
    from shared.errors import StepFailed

    async def down(request: Any, on_text: Any) -> str:
        raise StepFailed("model_unavailable", "down", retryable=True)

    async with open_world(tmp_path, down) as world:
        step = {**MODEL, "retries": {"max": 1, "backoff_seconds": 0.3}}
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: _pending_retry(world, ref))
        assert (await world.cancel(ref))["status"] == "cancelled"
        await assert_cancelled_whole(world, ref)
        assert await driving == "cancelled"
        assert len(world.model.began) == 1


async def _pending_retry(world: World, ref: RunRef) -> bool:
    tree = await world.executions(ref)
    return "s01.m" in tree and tree["s01.m"]["status"] == "pending"


async def test_a_cancel_seen_only_by_the_poll_stops_the_work_too(tmp_path: Path) -> None:
    """Guards the lost wake-up: another process accepted, this one learns it from the store."""
    async with open_world(tmp_path, streaming(10_000)) as world, open_world(tmp_path, at_once) as other:
        ref = await world.start(await world.workflow(MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await other.cancel(ref))["status"] == "cancelling"
        assert await driving == "cancelled"
        await assert_cancelled_whole(world, ref)


async def test_no_begin_lands_after_the_accept(world: World) -> None:
    """Guards the guard itself."""
    from activities import lifecycle

    ref = await world.start(await world.workflow(ECHO))
    await lifecycle.begin(world.services, ref)
    await world.cancel(ref)
    refused = await begin(world.store, ref, [ExecutionSpec("s01.c0", Kind.TOOL_CALL, "x")])
    assert isinstance(refused, Refused)


async def test_a_write_under_an_old_epoch_or_attempt_is_refused(world: World) -> None:
    """Guards fencing: finish and begin are conditional on both."""
    from activities import lifecycle

    ref = await world.start(await world.workflow(ECHO))
    await lifecycle.begin(world.services, ref)
    spec = ExecutionSpec("s01", Kind.STEP, "x")
    first = await begin(world.store, ref, [spec])
    seen = (await world.executions(ref))["s01"]["heartbeat_at"]
    second = await begin(world.store, ref, [spec], expired_heartbeat=seen)
    with pytest.raises(Superseded):
        await finish(world.store, first, Ending(Ex.COMPLETED, Output("late")))  # type: ignore[arg-type]
    run = await finish(world.store, second, Ending(Ex.COMPLETED, Output("right")))  # type: ignore[arg-type]
    assert run["in_flight"] == 0
    stale = ref._replace(epoch=7)
    assert isinstance(await begin(world.store, stale, [ExecutionSpec("s02", Kind.STEP, "y")]), Refused)


async def test_an_outcome_of_stopped_is_kept_with_side_effects_done(world: World) -> None:
    """Guards the receipt: what had already been shown to others is listed."""
    notify = {"kind": "notify", "subject": "Hello", "message": "x"}
    save = {"kind": "write_artifact", "path": "a.md", "content": "x"}
    wait = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60}}
    ref = await world.start(await world.workflow(notify, save, wait))
    driving = asyncio.create_task(world.drive(ref))
    await eventually(lambda: _running(world, ref, "s03.c0"))
    await world.cancel(ref)
    assert await driving == "cancelled"
    receipt = await assert_cancelled_whole(world, ref)
    assert [(one["kind"], one["what"]) for one in receipt["side_effects"]] == [
        ("notification", "Hello"),
        ("artifact", "a.md"),
    ]
    assert [one["outcome"] for one in receipt["in_flight"]] == [CancelOutcome.STOPPED]


async def _running(world: World, ref: RunRef, path: str) -> bool:
    tree = await world.executions(ref)
    return path in tree and tree[path]["status"] == "running"


async def test_no_document_is_looked_for_after_a_cancel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the opening of a fan-out, which lists documents before there is an operation."""
    step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Go"}
    ref = await world.start(await world.workflow(step, ECHO))
    await world.begin(ref)
    await begin(world.store, ref, [ExecutionSpec("s02", Kind.STEP, "step1")])
    assert (await world.cancel(ref))["status"] == "cancelling"
    monkeypatch.setattr(world.services.blobs, "list", None)
    assert (await items.open_items(world.services, ref, "s01"))["status"] == "cancelled"
