"""Reconcile: cancels that nobody settles, leases and receipts of nothing, and the bounds of a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import AlreadyProduced, Problem
from shared.locks import new_lock
from shared.names import LOCK_ID, WORKFLOW_ID
from shared.operations import Ending, Superseded, finish, record
from shared.reconcile import Progress, reconcile
from shared.states import ExecutionStatus as Ex
from shared.store.port import Create, Delete, Op, Patch
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.scenes import ECHO, MODEL, accept_only, at_work, begun, scene
from tests.support.world import RecordingStore


async def test_a_run_that_was_accepted_cancelled_and_never_settled_is_settled(tmp_path: Path) -> None:
    """Guards a crash between a cancel's accept and its settling."""
    async with scene(tmp_path, ECHO) as one:
        await begun(one)
        await accept_only(one)
        assert await one.reconcile() == {"repair.settled": 1}
        await assert_cancelled_whole(one.world, one.ref)
        assert await one.repairs() == ["repair.settled"]


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


@pytest.mark.parametrize("left", ["lock", "workflow"])
async def test_freeing_spares_a_run_that_has_just_started(left: str, tmp_path: Path) -> None:
    """Guards a pass that lost the race: what it read is out of date, and the new run keeps its lock and its workflow."""
    idle = Patch(WORKFLOW_ID, set={"runtime.status": "idle", "runtime.active_run_id": None})
    expired = Patch(LOCK_ID, set={"expires_at": "2026-01-01T00:00:00.000Z"})
    async with scene(tmp_path, ECHO) as one:
        workflow = await one.world.store.get(one.ref.partition, WORKFLOW_ID)
        ops = [idle, expired] if left == "lock" else [Delete(LOCK_ID)]
        await one.world.store.transact(one.ref.partition, [Delete("r1"), *ops])
        store = RecordingStore(one.world.store)

        async def overtaken(ops: Sequence[Op]) -> None:
            store.before = None
            assert (await one.reconcile())["repair.freed"] == 1
            one.durable.put(await one.world.start(workflow, run_id="r2"), "Running")

        store.before = overtaken
        done = await reconcile(replace(one.world.services, store=store), one.durable)
        assert "repair.freed" not in done
        assert (await one.world.store.get(one.ref.partition, LOCK_ID))["run_id"] == "r2"
        runtime = (await one.world.store.get(one.ref.partition, WORKFLOW_ID))["runtime"]
        assert (runtime["status"], runtime["active_run_id"]) == ("running", "r2")


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
