"""Triggers that are delivered again: a receipt maps each to one run, for good."""

from __future__ import annotations

import pytest

from shared.errors import AlreadyProduced, Problem
from shared.executions import RunRef
from shared.names import DocumentType, TriggerKind
from shared.starting import Start, skip_run, start_run
from shared.store.port import Delete, Document, Partition, Query
from tests.support.world import ALICE, World

STEP = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}


def slot(run_id: str, *keys: str) -> Start:
    return Start(run_id, run_id, None, ALICE, TriggerKind.SCHEDULE, keys)


async def partition_of(world: World) -> tuple[Partition, Document]:
    workflow = await world.workflow(STEP)
    return Partition(workflow["scope"], workflow["workflow_id"]), workflow


async def test_each_key_of_a_run_keeps_a_later_trigger_from_starting_another(world: World) -> None:
    """Guards that one file of a burst, delivered again in another burst, starts nothing, and that the end is on record."""
    partition, workflow = await partition_of(world)
    run, created = await start_run(world.services, partition, workflow, slot("r1", "a", "b"))
    assert created
    await world.drive(RunRef(partition.scope, partition.workflow_id, "r1", run["epoch"]))
    with pytest.raises(AlreadyProduced) as produced:
        await start_run(world.services, partition, workflow, slot("r2", "c", "b"))
    assert (produced.value.key, produced.value.run_id) == ("b", "r1")
    receipts = (await world.store.query(Query(DocumentType.RECEIPT, partition))).items
    assert {one["key"]: one["outcome"] for one in receipts} == {"a": "completed", "b": "completed"}


async def test_a_skipped_run_never_starts_and_its_slot_stays_used(world: World) -> None:
    """Guards that a skipped slot is terminal: delivered again it neither starts nor is skipped twice."""
    partition, workflow = await partition_of(world)
    skipped = await skip_run(world.services, partition, workflow, slot("r1", "07:00"), "run x was active")
    assert (skipped["status"], skipped["error"]["message"]) == ("skipped", "run x was active")
    again, created = await start_run(world.services, partition, workflow, slot("r1", "07:00"))
    assert (again["status"], created) == ("skipped", False)
    assert (await skip_run(world.services, partition, workflow, slot("r1", "07:00"), "other"))["error"] == skipped[
        "error"
    ]
    ref = RunRef(partition.scope, partition.workflow_id, "r1", 1)
    assert await world.idle(ref)
    assert [one["event_type"] for one in await world.events(ref)] == ["run.skipped"]


async def test_a_receipt_that_aged_out_does_not_keep_a_run_from_ending(world: World) -> None:
    """Guards the end of a run that outlived its receipt's time to live."""
    partition, workflow = await partition_of(world)
    run, _ = await start_run(world.services, partition, workflow, slot("r1", "a", "b"))
    await world.store.transact(partition, [Delete("receipt:schedule:a")])
    ref = RunRef(partition.scope, partition.workflow_id, "r1", run["epoch"])
    assert await world.drive(ref) == "completed"
    assert await world.idle(ref)


async def test_the_id_of_another_triggers_run_is_refused(world: World) -> None:
    """Guards that a caller can't adopt, or be handed, a run that a slot started under the same id."""
    partition, workflow = await partition_of(world)
    await start_run(world.services, partition, workflow, slot("r1", "a"))
    with pytest.raises(Problem) as refused:
        await start_run(world.services, partition, workflow, Start("r1", "r1", None, ALICE, keys=("r1",)))
    assert refused.value.code == "run_id_taken"
