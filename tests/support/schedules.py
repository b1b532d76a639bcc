"""Workflows with schedules, on a clock that the test holds."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from shared.executions import RunRef, run_ref
from shared.ids import from_text, to_text
from shared.names import WORKFLOW_ID, DocumentType
from shared.schedule import next_slot
from shared.store.port import Document, Partition, Patch, Query
from shared.triggers import parse_trigger
from tests.support.world import World

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}


def every(value: int, unit: str) -> dict[str, Any]:
    """An interval's trigger."""
    return {"kind": "schedule", "every": {"value": value, "unit": unit}}


def partition_of(workflow: Document) -> Partition:
    """Where a workflow's documents are."""
    return Partition(workflow["scope"], workflow["workflow_id"])


async def scheduled(world: World, trigger: dict[str, Any], set_at: datetime, **options: Any) -> Document:
    """A workflow whose trigger was set at `set_at`."""
    workflow = await world.workflow(ECHO, trigger=trigger, **options)
    slot = next_slot(parse_trigger(workflow["definition"]["trigger"]), set_at, set_at)
    assert slot is not None
    plan = {"trigger_set_at": to_text(set_at), "runtime.next_run_at": to_text(slot)}
    changed = (await world.store.transact(partition_of(workflow), [Patch(WORKFLOW_ID, set=plan)]))[0]
    assert changed is not None
    return changed


async def workflow_of(world: World, workflow: Document) -> Document:
    """The workflow as it is now."""
    return await world.store.get(partition_of(workflow), WORKFLOW_ID)


async def next_run_at(world: World, workflow: Document) -> datetime | None:
    """Its next slot."""
    text = (await workflow_of(world, workflow))["runtime"]["next_run_at"]
    return from_text(text) if text is not None else None


async def runs_of(world: World, workflow: Document) -> list[Document]:
    """Its runs, in the order of their slots."""
    page = await world.store.query(Query(DocumentType.RUN, partition_of(workflow), limit=1000))
    return sorted(page.items, key=lambda run: run["trigger"]["key"] or "")


async def statuses(world: World, workflow: Document, since: datetime) -> dict[int, str]:
    """The status of each slot's run, by its seconds since `since`."""
    runs = [run for run in await runs_of(world, workflow) if run["trigger"]["kind"] == "schedule"]
    return {round((from_text(run["trigger"]["key"]) - since) / timedelta(seconds=1)): run["status"] for run in runs}


async def active_or_none(world: World, workflow: Document) -> RunRef | None:
    """Its active run, if one is."""
    run_id = (await workflow_of(world, workflow))["runtime"]["active_run_id"]
    return run_ref(await world.store.get(partition_of(workflow), run_id)) if run_id is not None else None


async def active(world: World, workflow: Document) -> RunRef:
    """Its active run, which there must be."""
    ref = await active_or_none(world, workflow)
    assert ref is not None
    return ref
