"""The Durable activities. Each reads its payload, takes the process's services, and calls a pure body."""

from __future__ import annotations

from typing import Any

import azure.durable_functions as df

from activities import items, lifecycle, steps
from shared import names
from shared.executions import RunRef
from shared.services import get_services

blueprint = df.Blueprint()

Payload = dict[str, Any]
"""`scope`, `workflow_id`, `run_id`, `epoch`, and for a node its `path`."""


def reference(payload: Payload) -> RunRef:
    """The run that a payload names."""
    return RunRef(payload["scope"], payload["workflow_id"], payload["run_id"], payload["epoch"])


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_BEGIN_RUN)
async def begin_run(payload: Payload) -> Payload:
    """Begin the run; answers its plan."""
    return await lifecycle.begin(get_services(), reference(payload))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_RUN_STEP)
async def run_step(payload: Payload) -> Payload:
    """Run a step that is one operation."""
    return await steps.run(get_services(), reference(payload), payload["path"])


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_OPEN_ITEMS)
async def open_items(payload: Payload) -> Payload:
    """Open a fan-out: answers how many items and lanes."""
    return await items.open_items(get_services(), reference(payload), payload["path"])


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_RUN_ITEM)
async def run_item(payload: Payload) -> Payload:
    """Run one item of a fan-out."""
    return await items.run_item(get_services(), reference(payload), payload["path"])


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_CLOSE_ITEMS)
async def close_items(payload: Payload) -> Payload:
    """Close a fan-out: gathers its outputs."""
    return await items.close_items(get_services(), reference(payload), payload["path"])


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_SETTLE)
async def settle(payload: Payload) -> Payload:
    """End the run: as its pipeline ended, or cancelled."""
    return await lifecycle.end(get_services(), reference(payload), payload["outcome"])
