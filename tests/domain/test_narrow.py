"""Cancelling one execution: it and what is below it stop for good; the run and everything beside it go on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from shared.cancellation import run_blocking
from shared.errors import NotFound, Problem
from shared.executions import RunRef
from shared.narrow import NarrowCancel, cancel_execution
from shared.receipts import cancel_receipt
from shared.runs import CancelRequest
from shared.states import ExecutionStatus as Ex
from tests.support.waiting import eventually
from tests.support.world import ALICE, World, at_once, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}


async def cancel_at(world: World, ref: RunRef, path: str) -> NarrowCancel:
    return await cancel_execution(
        world.services, ref.partition, ref.run_id, path, CancelRequest(ALICE, reason="not that")
    )


async def assert_whole(world: World, ref: RunRef, status: str) -> dict[str, Any]:
    """The run ended so, alone: counts add up, nothing is open, the workflow is free. Answers its tree."""
    run, tree = await world.run(ref), await world.executions(ref)
    assert (run["status"], run["in_flight"], run["cancel"]) == (status, 0, None)
    by_status = {one.value: sum(node["status"] == one for node in tree.values()) for one in Ex}
    assert by_status["pending"] == by_status["running"] == 0
    assert run["counts"] == {**by_status, "total": len(tree)}
    assert await world.idle(ref)
    return tree


async def test_a_stream_is_stopped_alone_and_the_run_goes_on(tmp_path: Path) -> None:
    """Guards the main job: only that step stops, its text so far stays, later steps see it as empty."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        after = {"kind": "tool", "name": "after", "tool": "echo", "arguments": {"value": "<{{steps.step0.output}}>"}}
        ref = await world.start(await world.workflow(MODEL, after))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        done = await cancel_at(world, ref, "s01")
        assert done.active == []
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
        assert (tree["s01"]["status"], tree["s01.m"]["status"], tree["s02"]["status"]) == (
            "cancelled",
            "cancelled",
            "completed",
        )
        assert tree["s01"]["cancel"]["reason"] == "not that"
        assert tree["s02"]["output_preview"] == "<>"
        assert len(world.model.began) == 1


async def test_the_call_of_a_step_can_only_be_stopped_with_its_step(tmp_path: Path) -> None:
    """Guards nodes that begin and end as one: cancelling the call leaves no step open."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await cancel_at(world, ref, "s01.m")).execution["path"] == "s01"
        assert await driving == "completed"
        await assert_whole(world, ref, "completed")


async def test_one_item_of_a_fan_out_stops_and_the_others_complete(tmp_path: Path) -> None:
    """Guards siblings: one document's model call is cancelled by its inner path, the rest is unharmed."""

    async def script(request: Any, on_text: Any) -> str:
        return await (streaming(10_000) if "slow" in request.messages[-1]["content"] else at_once)(request, on_text)

    async with open_world(tmp_path, script) as world:
        for name in ("a", "slow", "z"):
            await world.services.blobs.put(f"documents/user:alice/{name}.txt", name.encode(), "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 1, "prompt": "{{document.text}}"}
        ref = await world.start(await world.workflow(step, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.executions_at(ref, "s01.i002.m"))
        await cancel_at(world, ref, "s01.i002.m")
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
        assert [tree[f"s01.i00{i}"]["status"] for i in (1, 2, 3)] == ["completed", "cancelled", "completed"]
        assert "slow" not in tree["s01"]["output_preview"]


async def test_a_whole_fan_out_is_cancelled_with_items_that_never_began(tmp_path: Path) -> None:
    """Guards a container: its items at work stop, those that wait never begin, and the step ends as cancelled."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        for number in range(9):
            await world.services.blobs.put(f"documents/user:alice/{number}.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 2, "prompt": "{{document.text}}"}
        ref = await world.start(await world.workflow(step, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open == 2)
        await cancel_at(world, ref, "s01")
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
        assert {one["status"] for path, one in tree.items() if path.startswith("s01")} == {"cancelled"}
        assert tree["s02"]["status"] == "completed"
        assert len(world.model.began) == 2


async def test_a_step_that_has_not_begun_is_cancelled_and_passed_over(tmp_path: Path) -> None:
    """Guards a pending node: it is stamped at once and never begins; a later step does."""
    async with open_world(tmp_path, streaming(200)) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        done = await cancel_at(world, ref, "s02")
        assert done.execution["status"] == "cancelled"
        assert [one["path"] for one in done.active] == ["s01.m"]
        assert (await cancel_at(world, ref, "s02")).execution["status"] == "cancelled"
        assert await driving == "completed"
        tree = await assert_whole(world, ref, "completed")
        assert [tree[path]["status"] for path in ("s01", "s02", "s03")] == ["completed", "cancelled", "completed"]
        assert "s02.c0" not in tree


async def test_on_cancelled_stop_fails_the_run_and_says_why(tmp_path: Path) -> None:
    """Guards `on_cancelled: stop`: what comes after the cancelled step is skipped."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow({**MODEL, "on_cancelled": "stop"}, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await cancel_at(world, ref, "s01")
        assert await driving == "failed"
        tree = await assert_whole(world, ref, "failed")
        assert (await world.run(ref))["error"]["code"] == "step_cancelled"
        assert tree["s02"]["status"] == "skipped"


async def test_a_branch_that_does_not_stop_is_abandoned_after_the_grace(tmp_path: Path) -> None:
    """Guards a blocking body: the run goes on after the grace, and what the body does later counts for nothing."""
    release = threading.Event()

    async def stubborn(_request: Any, on_text: Any) -> str:
        await run_blocking(release.wait, 20)
        return "too late"

    async with open_world(tmp_path, stubborn) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO, grace_seconds=0))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await cancel_at(world, ref, "s01")
        assert await driving == "completed"
        release.set()
        await eventually(lambda: not world.model.open)
        tree = await assert_whole(world, ref, "completed")
        assert (tree["s01.m"]["status"], tree["s01.m"]["cancel_outcome"]) == ("cancelled", "abandoned")
        assert tree["s01.m"]["output_preview"] is None


async def test_what_has_ended_can_not_be_cancelled(world: World) -> None:
    """Guards the answers: an ended execution and an ended run say so, an unknown path is not found."""
    ref = await world.start(await world.workflow(ECHO, ECHO))
    with pytest.raises(NotFound):
        await cancel_at(world, ref, "s01")
    await world.drive(ref)
    with pytest.raises(Problem) as ended:
        await cancel_at(world, ref, "s01")
    assert (ended.value.code, ended.value.extra) == ("run_already_finished", {"state": "completed"})


async def test_a_cancel_of_the_run_after_one_of_a_branch_cancels_all(tmp_path: Path) -> None:
    """Guards both cancels at once: the run's wins, everything is stamped once."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await asyncio.gather(cancel_at(world, ref, "s01"), world.cancel(ref))
        assert await driving == "cancelled"
        run, tree = await world.run(ref), await world.executions(ref)
        assert run["in_flight"] == 0
        assert run["counts"]["cancelled"] == run["counts"]["total"] == len(tree)
        assert await world.idle(ref)


async def test_a_receipt_does_not_count_what_was_cancelled_alone_before(tmp_path: Path) -> None:
    """Guards the receipt: a branch that had stopped before the accept was not in flight at it."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL, MODEL))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await cancel_at(world, ref, "s01")
        await eventually(lambda: len(world.model.began) == 2 and world.model.open)
        await world.cancel(ref)
        assert await driving == "cancelled"
        receipt = await cancel_receipt(world.services, await world.run(ref))
        assert [one["execution_id"] for one in receipt["in_flight"]] == [f"{ref.run_id}:s02.m"]
