"""Reconcile: what no orchestrator can mend is mended, once, and what is well is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from activities import items, steps
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.scenes import ECHO, MODEL, READ, Scene, begun, driven, scene
from tests.support.waiting import eventually
from tests.support.world import at_once, streaming

Reach = Callable[[Scene], Awaitable[None]]
RETRYING = {"kind": "fetch_urls", "urls": ["http://127.0.0.1:9/"], "retries": {"max": 2, "backoff_seconds": 600}}


async def between_items(scene: Scene) -> None:
    """A fan-out whose item waits for its next try."""
    await begun(scene)
    await items.open_items(scene.world.services, scene.ref, "s01")
    assert (await items.run_item(scene.world.services, scene.ref, "s01.i001"))["status"] == "retry"


async def nothing(scene: Scene) -> None:
    """It is queued."""


PHASES: dict[str, tuple[dict[str, Any], Any, Reach, dict[str, str]]] = {
    "queued": (ECHO, at_once, nothing, {}),
    "begun": (ECHO, at_once, begun, {}),
    "streaming": (MODEL, streaming(10_000), lambda one: driven(one, 1), {}),
    "fan-out": (READ, streaming(10_000), lambda one: driven(one, 3), {}),
    "retry timer": (RETRYING, at_once, between_items, {"fetch_allow_private": "true"}),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_a_run_that_was_terminated_in_the_portal_is_cancelled(phase: str, tmp_path: Path) -> None:
    """Guards portal safety in each phase: it reads `cancelled` by the portal, whole, with nothing begun after."""
    step, script, reach, settings = PHASES[phase]
    async with scene(tmp_path, step, ECHO, script=script, **settings) as one:
        await reach(one)
        one.durable.put(one.ref, "Terminated", "enough of this")
        assert (await one.reconcile())["repair.cancelled"] == 1
        begun_before = len(one.world.model.began)
        await eventually(lambda: _is(one, "cancelled"))
        receipt = await assert_cancelled_whole(one.world, one.ref)
        assert (receipt["source"], receipt["reason"]) == ("portal", "enough of this")
        assert receipt["requested_by"]["id"] == "portal"
        assert (one.world.model.open, len(one.world.model.began)) == (0, begun_before)
        assert await one.repairs() == ["repair.cancelled"]
        assert await one.reconcile() == {}
        assert one.durable.started == []


async def _is(scene: Scene, status: str) -> bool:
    return bool((await scene.run())["status"] == status)


async def test_a_cancelling_run_whose_instance_was_terminated_ends_as_its_cancel_asked(tmp_path: Path) -> None:
    """Guards the first cancel's facts: the portal's Terminate adds nothing to them."""
    release = asyncio.Event()

    async def stubborn(request: Any, on_text: Any) -> str:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()
        return "late"

    async with scene(tmp_path, MODEL, script=stubborn) as one:
        await driven(one, 1)
        await one.world.cancel(one.ref, reason="mine")
        one.durable.put(one.ref, "Terminated", "enough")
        assert await one.reconcile() == {}
        assert (await one.run())["status"] == "cancelling"
        release.set()
        await eventually(lambda: _is(one, "cancelled"))
        assert (await assert_cancelled_whole(one.world, one.ref))["reason"] == "mine"


@pytest.mark.parametrize("state", ["Terminated", "Failed", "Completed", None])
async def test_an_ended_run_is_left_alone_whatever_its_instance_says(tmp_path: Path, state: str | None) -> None:
    """Guards terminal runs: they are never started again."""
    async with scene(tmp_path, ECHO) as one:
        assert await one.world.drive(one.ref) == "completed"
        before = await one.run()
        if state is None:
            one.durable.forget(one.ref)
        else:
            one.durable.put(one.ref, state)
        for _ in range(3):
            assert await one.reconcile() == {}
        assert await one.run() == before
        assert one.durable.started == []


@pytest.mark.parametrize("reach", [nothing, begun])
async def test_a_run_that_ends_while_it_is_looked_at_is_left_alone(reach: Reach, tmp_path: Path) -> None:
    """Guards stale lists: by the time its instance is seen to have ended, the run has ended too, and well."""
    async with scene(tmp_path, ECHO) as one:
        await reach(one)

        async def end() -> None:
            assert await one.world.drive(one.ref) == "completed"
            one.durable.put(one.ref, "Completed")

        one.durable.before_answer = end
        assert await one.reconcile() == {}
        assert one.durable.started == []
        assert (await one.run())["status"] == "completed"
        assert await one.repairs() == []


@pytest.mark.parametrize("state", ["Running", "Pending", "Suspended", "ContinuedAsNew"])
async def test_an_instance_that_waits_is_not_dead(tmp_path: Path, state: str) -> None:
    """Guards suspended instances, and those that still replay."""
    async with scene(tmp_path, ECHO) as one:
        for reach in (nothing, begun):
            await reach(one)
            one.durable.put(one.ref, state)
            assert await one.reconcile() == {}
        assert (await one.run())["status"] == "running"


async def test_a_run_that_never_started_is_started_once(tmp_path: Path) -> None:
    """Guards an accept whose process died before `start_new`."""
    async with scene(tmp_path, ECHO) as one:
        one.durable.forget(one.ref)
        assert await one.reconcile() == {"repair.started": 1}
        assert await one.reconcile() == {}
        assert one.durable.started == ["r1"]
        assert await one.world.drive(one.ref) == "completed"
        assert await one.repairs() == ["repair.started"]


async def test_a_run_that_was_just_accepted_is_not_touched(tmp_path: Path) -> None:
    """Guards against racing every normal start."""
    async with scene(tmp_path, ECHO, start_after_seconds="60") as one:
        one.durable.forget(one.ref)
        assert await one.reconcile() == {}
        assert one.durable.started == []


@pytest.mark.parametrize("state", ["Failed", "Completed", None])
async def test_a_run_that_can_not_be_started_for_long_is_cancelled(tmp_path: Path, state: str | None) -> None:
    """Guards against a workflow that is busy for ever: an instance that always dies, a hub that takes none."""
    async with scene(tmp_path, ECHO, start_give_up_seconds="0.0000001") as one:
        one.durable.forget(one.ref)
        if state is not None:
            one.durable.put(one.ref, state)
        else:
            one.durable.start_new = _refuse  # type: ignore[method-assign]
        assert await one.reconcile() == {"repair.cancelled": 1}
        receipt = await assert_cancelled_whole(one.world, one.ref)
        assert receipt["source"] == "reconcile"
        assert one.durable.started == []


async def _refuse(*_: Any, **__: Any) -> str:
    raise Exception("no hub")


async def test_an_instance_that_failed_before_the_begin_is_started_anew(tmp_path: Path) -> None:
    """Guards runs that were accepted while an app with a broken orchestrator was deployed."""
    async with scene(tmp_path, ECHO) as one:
        one.durable.put(one.ref, "Failed", "no such orchestrator")
        assert await one.reconcile() == {"repair.started": 1}
        assert await one.world.drive(one.ref) == "completed"


@pytest.mark.parametrize(("state", "says"), [("Failed", "boom"), ("Completed", "ended before"), (None, "removed")])
async def test_a_run_without_an_orchestration_and_nothing_in_flight_fails(
    tmp_path: Path, state: str | None, says: str
) -> None:
    """Guards instances that failed, were purged or vanished: the run says so, and the workflow is free."""
    async with scene(tmp_path, ECHO, ECHO) as one:
        await begun(one)
        if state is None:
            one.durable.forget(one.ref)
        else:
            one.durable.put(one.ref, state, "boom" if state == "Failed" else None)
        assert await one.reconcile() == {"repair.ended": 1}
        run = await one.run()
        assert (run["status"], run["error"]["code"]) == ("failed", "orchestration_lost")
        assert says in run["error"]["message"]
        assert await one.world.idle(one.ref)
        assert {execution["status"] for execution in (await one.world.executions(one.ref)).values()} == {"skipped"}
        assert await one.repairs() == ["repair.ended"]


async def test_work_of_a_run_without_an_orchestration_is_stopped_and_waited_for(tmp_path: Path) -> None:
    """Guards in-flight work of a lost run: it is not left running, and the run doesn't end before it."""
    async with scene(tmp_path, MODEL, ECHO, script=streaming(10_000)) as one:
        await driven(one, 1)
        one.durable.put(one.ref, "Failed", "boom")
        assert await one.reconcile() == {"repair.cancelled": 1}
        await eventually(lambda: _is(one, "cancelled"))
        receipt = await assert_cancelled_whole(one.world, one.ref)
        assert (receipt["source"], receipt["in_flight"][0]["outcome"]) == ("reconcile", "stopped")


@pytest.mark.parametrize("good", [True, False])
async def test_a_run_whose_steps_had_all_ended_ends_as_they_did(tmp_path: Path, good: bool) -> None:
    """Guards the last moment: the orchestration died between the last step and the settling."""
    bad = {"kind": "tool", "tool": "read_document", "arguments": {"name": "none.txt"}}
    async with scene(tmp_path, ECHO, ECHO if good else bad) as one:
        await begun(one)
        for path in ("s01", "s02"):
            await steps.run(one.world.services, one.ref, path)
        one.durable.put(one.ref, "Completed")
        assert await one.reconcile() == {"repair.ended": 1}
        run = await one.run()
        assert run["status"] == ("completed" if good else "failed")
        assert (run["error"] or {}).get("code") == (None if good else "document_missing")
        assert await one.world.idle(one.ref)


async def test_an_instance_that_comes_back_at_the_second_look_is_left_alone(tmp_path: Path) -> None:
    """Guards a glitch of the management API: one look that finds nothing ends no run."""
    async with scene(tmp_path, ECHO) as one:
        await begun(one)
        one.durable.forget(one.ref)
        passing = asyncio.create_task(one.reconcile())
        await asyncio.sleep(0.02)  # before the second look, which is a fence later
        one.durable.put(one.ref, "Running")
        assert await passing == {}
        assert (await one.run())["status"] == "running"


@pytest.mark.parametrize("answer", [{"Message": "Something went wrong", "ExceptionType": "IOException"}, None])
async def test_a_durable_extension_that_fails_ends_no_run(tmp_path: Path, answer: dict[str, str] | None) -> None:
    """Guards against reading an error of the extension as "there is no such instance": the client makes both falsy."""
    async with scene(tmp_path, ECHO) as one:
        await begun(one)
        one.durable.answers = answer
        one.durable.fails = None if answer else Exception("unexpected status code 503")
        assert await one.reconcile() == {}
        assert (await one.run())["status"] == "running"
