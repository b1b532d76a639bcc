"""Operations inside another one: whatever interrupts their writes, none is left on record as working."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activities import steps
from shared import operation_context
from shared.documents import Documents
from shared.errors import Unavailable
from shared.names import Kind
from shared.receipts import cancel_receipt
from shared.states import RunStatus
from shared.store.port import Create, Document, Op, Partition, Patch
from tests.support.waiting import eventually
from tests.support.world import RecordingStore, World, at_once, open_world, streaming

COMPARE = {"kind": "compare_documents", "documents": {"names": ["a.txt", "b.txt"]}, "prompt": "What changed?"}


class LateAnswers(RecordingStore):
    """A store whose answer to the begin of an inner operation is on its way until `arrive` is set."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.landed, self.arrive = asyncio.Event(), asyncio.Event()

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        result = await super().transact(partition, ops)
        if any(isinstance(op, Create) and op.document.get("kind") == Kind.ITEM for op in ops):
            self.landed.set()
            await self.arrive.wait()
        return result


async def comparing(world: World, **options: Any) -> tuple[World, LateAnswers, Any]:
    """A run at a comparison, in a world whose store answers late."""
    for name in ("a.txt", "b.txt"):
        await Documents(world.services.blobs, "user:alice").put(name, b"text", "text/plain")
    store = LateAnswers(world.store)
    slow = World(replace(world.services, store=store), world.model)
    ref = await slow.start(await slow.workflow({**COMPARE, **options}))
    await slow.begin(ref)
    return slow, store, ref


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_cancel_that_comes_while_an_inner_begin_is_answered_leaves_nothing_in_flight(
    tmp_path: Path, fresh: bool
) -> None:
    """Guards `in_flight`: the begin had landed, its answer had not arrived, and nobody else would ever end it."""
    async with open_world(tmp_path) as world:
        slow, store, ref = await comparing(world)
        work = asyncio.create_task(steps.run(slow.services, ref, "s01"))
        await store.landed.wait()
        await slow.cancel(ref)
        if fresh:
            await asyncio.sleep(0)  # the knock and the answer come in the same breath
        else:
            await eventually(lambda: observed(slow, ref))
        store.arrive.set()
        assert (await asyncio.wait_for(work, 10))["status"] == "cancelled"
        run, tree = await slow.run(ref), await slow.executions(ref)
        assert (run["status"], run["in_flight"]) == (RunStatus.CANCELLED, 0)
        assert {one["status"] for one in tree.values()} == {"cancelled"}
        assert {tree[path]["cancel_outcome"] for path in ("s01", "s01.i001")} == {"stopped"}
        assert run["cancel"]["acknowledged"] is True
        assert slow.model.began == []


async def observed(world: World, ref: Any) -> bool:
    """Whether the supervisor has noted that it tells the work to stop."""
    return (await world.run(ref))["cancel"]["observed_at"] is not None


async def test_a_deadline_that_comes_while_an_inner_begin_is_answered_leaves_nothing_in_flight(tmp_path: Path) -> None:
    """Guards a run that goes on after it: with an operation in flight for ever it could not end."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        slow, store, ref = await comparing(world, timeout_seconds=0.05, retries={"max": 0})
        work = asyncio.create_task(steps.run(slow.services, ref, "s01"))
        await store.landed.wait()
        await asyncio.sleep(0.1)  # longer than the deadline
        store.arrive.set()
        outcome = await asyncio.wait_for(work, 10)
        assert (outcome["status"], outcome["error"]["code"]) == ("failed", "timeout")
        assert (await slow.run(ref))["in_flight"] == 0


async def test_an_inner_end_that_can_not_be_written_in_time_is_made_up_for(tmp_path: Path) -> None:
    """Guards a store that hangs at the end of an inner operation while its run is cancelled."""
    async with open_world(tmp_path, poll_seconds="0.01") as world:
        slow, store, ref = await comparing(world)
        store.arrive.set()
        held = asyncio.Event()

        async def hold(ops: Sequence[Op]) -> None:
            ends = [op for op in ops if isinstance(op, Patch) and op.id.endswith(".i001") and "ended_at" in op.set]
            if ends and len(ops) == 3 and not held.is_set():
                held.set()
                raise TimeoutError("as when the time for it is over")

        store.before = hold
        work = asyncio.create_task(steps.run(slow.services, ref, "s01"))
        await held.wait()
        await slow.cancel(ref)
        await asyncio.wait_for(work, 10)
        run = await slow.run(ref)
        assert (run["status"], run["in_flight"]) == (RunStatus.CANCELLED, 0)


async def test_what_a_failed_attempt_left_inside_ends_with_a_cancel_that_comes_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a run that is cancelled while its operation waits to be tried again, which would have settled the doubt."""
    monkeypatch.setattr(operation_context, "FINISH_SECONDS", 0.05)
    async with open_world(tmp_path) as world:
        slow, store, ref = await comparing(world)
        store.arrive.set()

        async def away(ops: Sequence[Op]) -> None:
            if any(isinstance(op, Patch) and op.id.endswith(".i001") and "ended_at" in op.set for op in ops):
                raise Unavailable("away")

        store.before = away
        assert (await steps.run(slow.services, ref, "s01"))["status"] == "retry"
        store.before = None
        assert (await slow.executions(ref))["s01.i001"]["status"] == "running"
        assert (await slow.cancel(ref))["in_flight"] == 1
        assert (await steps.run(slow.services, ref, "s01"))["status"] == "cancelled"
        run = await slow.run(ref)
        assert (run["status"], run["in_flight"]) == (RunStatus.CANCELLED, 0)


async def test_an_orderly_end_of_the_host_is_no_cancel_of_what_is_inside(tmp_path: Path) -> None:
    """Guards the receipt: a call that the end of its process stopped was not in flight when a later cancel came."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        slow, store, ref = await comparing(world)
        store.arrive.set()
        work = asyncio.create_task(steps.run(slow.services, ref, "s01"))
        await eventually(lambda: slow.model.open)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await eventually(lambda: left_behind(slow, ref))
        await slow.cancel(ref)
        assert (await steps.run(slow.services, ref, "s01"))["status"] == "cancelled"
        run = await slow.run(ref)
        receipt = await cancel_receipt(slow.services, run)
    assert (run["status"], run["in_flight"]) == (RunStatus.CANCELLED, 0)
    told = {one["execution_id"].partition(":")[2]: one["outcome"] for one in receipt["in_flight"]}
    assert told == {"s01": "lost"}


async def left_behind(world: World, ref: Any) -> bool:
    """Whether the model call has ended, and the operation around it is still on record as working."""
    tree = await world.executions(ref)
    return (tree["s01"]["status"], tree["s01.m"]["status"]) == ("running", "pending")


async def test_an_item_whose_host_ends_is_done_by_the_next_one(tmp_path: Path) -> None:
    """Guards an orderly stop in the middle of an inner operation: it is neither a cancel nor a failure of the run."""
    async with open_world(tmp_path, streaming(10_000)) as world:
        await world.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        driving.cancel()
        with suppress(asyncio.CancelledError):
            await driving
        await eventually(lambda: not world.model.open)
        world.model.script = at_once
        assert await world.drive(ref) == "completed"
        assert (await world.executions(ref))["s01.i001.m"]["status"] == "completed"
