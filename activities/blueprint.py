"""The Durable activities. Each reads its payload, takes the process's services, and calls a pure body."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import azure.durable_functions as df

from activities import agents, child_runs, items, lifecycle, steps
from shared import children, names
from shared.errors import Throttled, Unavailable
from shared.executions import RunRef
from shared.services import Services, get_services

log = logging.getLogger(__name__)
blueprint = df.Blueprint()

Payload = dict[str, Any]
"""`scope`, `workflow_id`, `run_id`, `epoch`, and for a node its `path`."""


def reference(payload: Payload) -> RunRef:
    """The run that a payload names."""
    return RunRef(payload["scope"], payload["workflow_id"], payload["run_id"], payload["epoch"])


async def _answer(body: Callable[[Services], Awaitable[Payload]]) -> Payload:
    """The body's outcome; while the store is away, that the orchestrator has to ask again."""
    try:
        return await body(get_services())
    except (Throttled, Unavailable) as error:
        log.warning("%s", error)
        return {"status": names.OUTCOME_STORE_AWAY}


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_BEGIN_RUN)
async def begin_run(payload: Payload) -> Payload:
    """Begin the run; answers its plan."""
    return await _answer(lambda services: lifecycle.begin(services, reference(payload)))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_RUN_STEP)
async def run_step(payload: Payload) -> Payload:
    """Run a step that is one operation."""
    return await _answer(lambda services: steps.run(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_OPEN_ITEMS)
async def open_items(payload: Payload) -> Payload:
    """Open a fan-out: answers how many items and lanes."""
    return await _answer(lambda services: items.open_items(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_RUN_ITEM)
async def run_item(payload: Payload) -> Payload:
    """Run one item of a fan-out."""
    return await _answer(lambda services: items.run_item(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_CLOSE_ITEMS)
async def close_items(payload: Payload) -> Payload:
    """Close a fan-out: gathers its outputs."""
    return await _answer(lambda services: items.close_items(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_TAKE_TURN)
async def take_turn(payload: Payload) -> Payload:
    """Take a turn of an agent."""
    return await _answer(
        lambda services: agents.take_turn(services, reference(payload), payload["path"], payload["turn"])
    )


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_CALL_TOOL)
async def call_tool(payload: Payload) -> Payload:
    """Make a tool call of an agent."""
    return await _answer(lambda services: agents.call_tool(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_SETTLE)
async def settle(payload: Payload) -> Payload:
    """End the run: as its pipeline ended, or cancelled."""
    return await _answer(lambda services: lifecycle.end(services, reference(payload), payload["outcome"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_START_CHILD)
async def start_child(payload: Payload) -> Payload:
    """Begin a step's child run: answers what its orchestration needs."""
    return await _answer(lambda services: child_runs.start(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_CANCEL_CHILD)
async def cancel_child(payload: Payload) -> Payload:
    """Cancel a child run whose step is past its deadline."""
    return await _answer(lambda services: children.cancel_child(services, reference(payload), payload["path"]))


@blueprint.activity_trigger(input_name="payload", activity=names.ACTIVITY_END_CHILD)
async def end_child(payload: Payload) -> Payload:
    """Tell how a child run ended."""
    return await _answer(lambda services: children.end_child(services, reference(payload), payload["path"]))
