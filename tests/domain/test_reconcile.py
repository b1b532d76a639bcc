"""Reconcile: what no orchestrator can mend is mended, once, and what is well is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities import items, lifecycle, steps
from shared.errors import AlreadyProduced, Problem
from shared.executions import ExecutionSpec, RunRef
from shared.locks import new_lock
from shared.names import LOCK_ID, WORKFLOW_ID, CancelSource, Kind
from shared.operations import Begun, Ending, Superseded, begin, finish, record
from shared.reconcile import Progress, reconcile
from shared.runs import CancelRequest, _accept
from shared.states import ExecutionStatus as Ex
from shared.store.port import Create, Delete, Patch
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.orchestrations import FakeOrchestrations
from tests.support.waiting import eventually
from tests.support.world import World, at_once, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}
READ = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "parallel": 3}
SOON = {"start_after_seconds": "0.000001", "fence_seconds": "0.1"}


@dataclass
class Scene:
    """A run in some phase, whose orchestration the fake knows as running."""

    world: World
    durable: FakeOrchestrations
    ref: RunRef
    driving: asyncio.Task[str] | None = None

    async def reconcile(self) -> dict[str, int]:
        """One pass."""
        return await reconcile(self.world.services, self.durable)

    async def run(self) -> dict[str, Any]:
        """The run."""
        return await self.world.run(self.ref)

    async def repairs(self) -> list[str]:
        """The repairs that the run's events tell."""
        types = [event["event_type"] for event in await self.world.events(self.ref)]
        return [one for one in types if one.startswith("repair.")]


async def fails(request: Any, on_text: Any) -> str:
    """A script of a model that is down."""
    raise RuntimeError("down")


@asynccontextmanager
async def scene(
    directory: Path, *steps_: dict[str, Any], script: Any = at_once, **settings: str
) -> AsyncIterator[Scene]:
    """A queued run of these steps."""
    async with open_world(directory, script, **{**SOON, **settings}) as world:
        for i in range(6 if READ in steps_ else 0):
            await world.services.blobs.put(f"documents/user:alice/{i}.txt", b"text", "text/plain")
        ref = await world.start(await world.workflow(*steps_, grace_seconds=20), run_id="r1")
        found = Scene(world, FakeOrchestrations(), ref)
        found.durable.put(ref, "Running")
        try:
            yield found
        finally:
            if found.driving is not None:
                found.driving.cancel()
                with suppress(asyncio.CancelledError):
                    await found.driving


async def begun(scene: Scene) -> None:
    await lifecycle.begin(scene.world.services, scene.ref)


async def driven(scene: Scene, at_work: int) -> None:
    scene.driving = asyncio.create_task(scene.world.drive(scene.ref))
    await eventually(lambda: scene.world.model.open == at_work)


async def waiting_to_retry(scene: Scene) -> None:
    """The step failed and its pipeline waits: the run has nothing in flight."""
    await begun(scene)
    outcome = await steps.run(scene.world.services, scene.ref, "s01")
    assert outcome["status"] == "retry"


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
    async with scene(tmp_path, ECHO, start_give_up_seconds="0.001") as one:
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


async def test_a_run_that_was_accepted_cancelled_and_never_settled_is_settled(tmp_path: Path) -> None:
    """Guards a crash between a cancel's accept and its settling."""
    async with scene(tmp_path, ECHO) as one:
        await begun(one)
        await accept_only(one)
        assert await one.reconcile() == {"repair.settled": 1}
        await assert_cancelled_whole(one.world, one.ref)
        assert await one.repairs() == ["repair.settled"]


async def accept_only(scene: Scene, grace_seconds: float = 20) -> None:
    """A cancel whose process died right after the accept."""
    request = CancelRequest({"id": "alice", "name": "Alice"}, CancelSource.API, None, grace_seconds)
    assert await _accept(scene.world.services, scene.ref.partition, await scene.run(), request, ()) is not None


async def at_work(scene: Scene) -> Begun:
    """An operation with one inside it, whose process is gone."""
    await begun(scene)
    store, call = scene.world.store, ExecutionSpec("s01.m", Kind.MODEL_CALL, "model")
    opened = await begin(store, scene.ref, [ExecutionSpec("s01", Kind.STEP, "step0"), call])
    assert isinstance(opened, Begun)
    inner = await begin(store, scene.ref, [ExecutionSpec("s01.m.c0", Kind.TOOL_CALL, "t")], inside=opened)
    assert isinstance(inner, Begun)
    return opened


async def test_lost_operations_of_a_cancelling_run_are_reaped(tmp_path: Path) -> None:
    """Guards a run whose workers died: it doesn't wait for its grace, and its receipt says `lost`."""
    async with scene(tmp_path, MODEL, ECHO) as one:
        opened = await at_work(one)
        await accept_only(one, grace_seconds=300)
        assert await one.reconcile() == {"repair.reaped": 1, "repair.settled": 1}
        receipt = await assert_cancelled_whole(one.world, one.ref)
        assert {entry["outcome"] for entry in receipt["in_flight"]} == {"lost"}
        with pytest.raises(Superseded):
            await finish(one.world.store, opened, Ending(Ex.COMPLETED))


async def test_an_operation_that_renews_its_heartbeat_is_not_reaped_nor_what_lies_inside_it(tmp_path: Path) -> None:
    """Guards living work: what lies inside an operation has no heartbeat of its own, and doesn't look dead for that."""
    async with scene(tmp_path, MODEL) as one:
        opened = await at_work(one)
        await accept_only(one, grace_seconds=300)

        async def renew() -> None:
            while True:
                await record(one.world.store, opened, {})
                await asyncio.sleep(0.01)

        renewing = asyncio.create_task(renew())
        assert await one.reconcile() == {}
        renewing.cancel()
        run = await one.run()
        assert (run["status"], run["in_flight"]) == ("cancelling", 2)


async def test_a_cancelling_run_long_past_its_grace_is_ended_by_force(tmp_path: Path) -> None:
    """Guards a wedged tool whose supervisor doesn't keep the grace: the run ends, unacknowledged, and late writes fail."""
    async with scene(tmp_path, MODEL) as one:
        opened = await at_work(one)
        await accept_only(one, grace_seconds=1)
        long_ago = Patch("r1", set={"cancel.requested_at": "2026-01-01T00:00:00.000Z"})
        await one.world.store.transact(one.ref.partition, [long_ago])
        assert await one.reconcile() == {"repair.settled": 1}
        receipt = await assert_cancelled_whole(one.world, one.ref, acknowledged=False)
        assert {entry["outcome"] for entry in receipt["in_flight"]} == {"abandoned"}
        with pytest.raises(Superseded):
            await finish(one.world.store, opened, Ending(Ex.COMPLETED))


@pytest.mark.parametrize("gone", [True, False])
async def test_a_lock_and_a_busy_workflow_of_no_active_run_are_freed(tmp_path: Path, gone: bool) -> None:
    """Guards documents that someone removed or restored by hand: the workflow can be started again."""
    async with scene(tmp_path, ECHO, lease_seconds="0.01") as one:
        partition, workflow = one.ref.partition, await one.world.store.get(one.ref.partition, WORKFLOW_ID)
        lock = await one.world.store.get(partition, LOCK_ID)
        await one.world.drive(one.ref)
        busy = Patch(WORKFLOW_ID, set={"runtime.status": "running", "runtime.active_run_id": "r1"})
        ops = [Create({key: value for key, value in lock.items() if key[0] != "_"}), busy]
        await one.world.store.transact(partition, [*ops, Delete("r1")] if gone else ops)
        assert (await one.reconcile())["repair.freed"] == 1
        assert await one.world.idle(one.ref)
        assert await one.reconcile() == {}
        again = await one.world.start(workflow)
        assert await one.world.drive(again) == "completed"


async def test_a_lock_that_names_no_run_of_an_idle_workflow_is_freed(tmp_path: Path) -> None:
    """Guards an orphaned lock alone, which refuses every start."""

    async with scene(tmp_path, ECHO, lease_seconds="0.01") as one:
        await one.world.drive(one.ref)
        await one.world.store.transact(one.ref.partition, [Create(new_lock("nobody", -1))])
        with pytest.raises(Problem, match="workflow_busy"):
            await one.world.start(await one.world.store.get(one.ref.partition, WORKFLOW_ID))
        assert await one.reconcile() == {"repair.freed": 1}
        assert await one.world.idle(one.ref)


async def test_the_lease_of_a_run_that_waits_is_renewed(tmp_path: Path) -> None:
    """Guards runs that wait in a timer or are suspended: nothing of them renews, and they keep their lock."""
    async with scene(tmp_path, ECHO, lease_seconds="600") as one:
        await begun(one)
        expired = Patch(LOCK_ID, set={"expires_at": "2026-01-01T00:00:00.000Z"})
        await one.world.store.transact(one.ref.partition, [expired])
        one.durable.put(one.ref, "Suspended")
        assert await one.reconcile() == {"lock.renewed": 1}
        assert (await one.world.store.get(one.ref.partition, LOCK_ID))["expires_at"] > "2026-02"
        assert await one.reconcile() == {}


@pytest.mark.parametrize("gone", [True, False])
async def test_a_receipt_without_an_active_run_gets_its_outcome(tmp_path: Path, gone: bool) -> None:
    """Guards receipts whose run ended without telling them: they are closed and kept, and start nothing."""
    async with scene(tmp_path, ECHO) as one:
        partition, workflow = one.ref.partition, await one.world.store.get(one.ref.partition, WORKFLOW_ID)
        await one.world.drive(one.ref)
        unsaid = Patch("receipt:manual:r1", set={"outcome": None})
        await one.world.store.transact(partition, [unsaid, Delete("r1")] if gone else [unsaid])
        assert await one.reconcile() == {"repair.receipt": 1}
        receipt = await one.world.store.get(partition, "receipt:manual:r1")
        assert receipt["outcome"] == ("lost" if gone else "completed")
        if gone:
            with pytest.raises(AlreadyProduced):
                await one.world.start(workflow, run_id="r1")
        assert await one.reconcile() == {}


async def test_a_pass_without_time_looks_at_one_page_and_the_next_one_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    """Guards bounded passes: none is starved by those before it."""
    monkeypatch.setattr("shared.reconcile.PAGE", 2)
    async with scene(tmp_path, ECHO) as one:
        refs = [one.ref, *[await one.world.start(await one.world.workflow(ECHO)) for _ in range(4)]]
        one.durable.states.clear()
        progress = Progress()
        for started in (2, 4, 5):
            await reconcile(one.world.services, one.durable, progress, seconds=0)
            assert len(one.durable.started) == started
        assert sorted(one.durable.started) == sorted(ref.run_id for ref in refs)


async def test_one_run_that_can_not_be_mended_does_not_stop_the_others(tmp_path: Path) -> None:
    """Guards the pass: an error of one run is that run's."""
    async with scene(tmp_path, ECHO) as one:
        other = await one.world.start(await one.world.workflow(ECHO))
        await one.world.store.transact(one.ref.partition, [Patch("r1", set={"created_at": "no time"})])
        assert await one.reconcile() == {"repair.started": 1}
        assert one.durable.started == [other.run_id]
