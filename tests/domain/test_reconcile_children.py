"""Reconcile and child runs: what a parent that died left behind follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from activities import lifecycle
from shared.children import Child, start_child
from shared.executions import ExecutionSpec, RunRef
from shared.names import Kind
from shared.reconcile import reconcile
from shared.runs import CancelRequest, _accept
from shared.settling import settle
from shared.steps import Retries
from shared.store.port import Op, Patch
from tests.domain.test_children import assert_ended, child_of, child_ref
from tests.support.orchestrations import FakeOrchestrations
from tests.support.waiting import eventually
from tests.support.world import ALICE, World, open_world, streaming

MODEL = {"kind": "model", "prompt": "Go"}


@asynccontextmanager
async def parent_and_child(directory: Path) -> AsyncIterator[tuple[World, FakeOrchestrations, RunRef, RunRef]]:
    """A run whose child is streaming; Durable Functions knows both as running."""
    settings = {"start_after_seconds": "0.000001", "fence_seconds": "0.1"}
    async with open_world(directory, streaming(10_000), **settings) as world:
        ref = await world.start(await world.workflow({**child_of(await world.workflow(MODEL))}))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        below = await child_ref(world, ref)
        assert below is not None
        durable = FakeOrchestrations()
        for one in (ref, below):
            durable.put(one, "Running")
        try:
            yield world, durable, ref, below
        finally:
            driving.cancel()
            with suppress(asyncio.CancelledError):
                await driving


async def test_a_tree_that_is_well_is_left_alone(tmp_path: Path) -> None:
    """Guards against repairs of what works: a parent whose operation has no heartbeat of its own isn't lost."""
    async with parent_and_child(tmp_path) as (world, durable, ref, below):
        assert await reconcile(world.services, durable) == {}
        assert [(await world.run(one))["status"] for one in (ref, below)] == ["running", "running"]


async def test_a_cancel_whose_acceptor_died_reaches_the_children(tmp_path: Path) -> None:
    """Guards the gap between the accept on the parent and those on its children."""
    async with parent_and_child(tmp_path) as (world, durable, ref, below):
        await _accept(world.services, ref.partition, await world.run(ref), CancelRequest(ALICE, reason="stop"), ())
        await reconcile(world.services, durable)
        await eventually(lambda: is_cancelled(world, below))
        await eventually(lambda: is_cancelled(world, ref))
        assert (await assert_ended(world, below, "cancelled"))["cancel"]["source"] == "parent"
        await assert_ended(world, ref, "cancelled")


async def test_a_child_whose_parent_was_ended_by_force_is_cancelled(tmp_path: Path) -> None:
    """Guards orphans: nobody waits for the child any more, so it doesn't go on either."""
    async with parent_and_child(tmp_path) as (world, durable, ref, below):
        await _accept(world.services, ref.partition, await world.run(ref), CancelRequest(ALICE), ())
        await settle(world.services, ref, force=True)
        assert (await world.run(below))["status"] == "running"
        await reconcile(world.services, durable)
        await eventually(lambda: is_cancelled(world, below))
        assert (await assert_ended(world, below, "cancelled"))["cancel"]["source"] == "parent"


async def test_a_child_whose_instance_was_terminated_before_its_begin_is_cancelled(tmp_path: Path) -> None:
    """Guards a queued child: its parent hears of its end, and doesn't wait for ever."""
    async with open_world(tmp_path, start_after_seconds="0.000001") as world:
        other = await world.workflow(MODEL)
        ref = await world.start(await world.workflow({**child_of(other)}))
        await lifecycle.begin(world.services, ref)
        node = ExecutionSpec("s01", Kind.STEP, "step0")
        await start_child(world.services, ref, node, Child(other["workflow_id"], None, Retries()))
        below = await child_ref(world, ref)
        assert below is not None
        durable = FakeOrchestrations()
        durable.put(ref, "Running")
        assert await reconcile(world.services, durable) == {}
        durable.put(below, "Terminated")
        assert await reconcile(world.services, durable) == {"repair.cancelled": 1}
        assert (await assert_ended(world, below, "cancelled"))["cancel"]["source"] == "portal"
        assert (await world.run(ref))["in_flight"] == 0


async def test_a_cancelling_parent_that_never_heard_of_its_childs_end_is_told(tmp_path: Path) -> None:
    """Guards a lost report: the child has ended, the parent is still waiting for it."""
    async with parent_and_child(tmp_path) as (world, durable, ref, below):
        link = (await world.run(below))["parent"]
        await world.store.transact(below.partition, [parent(below, None)])
        await world.cancel(ref)
        await eventually(lambda: is_cancelled(world, below))
        await world.store.transact(below.partition, [parent(below, link)])
        assert (await world.run(ref))["status"] == "cancelling"
        await reconcile(world.services, durable)
        await assert_ended(world, ref, "cancelled")


def parent(ref: RunRef, link: object) -> Op:
    return Patch(ref.run_id, set={"parent": link})


async def is_cancelled(world: World, ref: RunRef) -> bool:
    return bool((await world.run(ref))["status"] == "cancelled")
