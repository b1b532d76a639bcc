"""A run: one race of its pipeline against its cancel.

1. `begin_run`: queued → running. If the run was cancelled while it was queued, there is nothing to do.
2. Race the pipeline, a sub-orchestration, against the cancel event: **one** race for the whole run. (A wait that is re-used
   in a second race isn't woken for.)
3. The pipeline ended: end the run as it ended.
4. The event came: wait for the pipeline, whose activities see the stored status and return `cancelled`, but no longer than
   the grace. Then settle; when the grace ran out, by force.

An event that someone raised by hand, without a cancel, changes nothing: the run goes on, and ends as its pipeline does.

The event is a wake-up only: a lost one costs nothing but the force at the end of the grace, which the supervisors apply as
well. The status of the run is its own record, never this instance's `runtimeStatus`.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from orchestrators.calls import call_until_done
from shared import names

MAX_GRACE_SECONDS = 300
GRACE_MARGIN_SECONDS = 1.0
"""The supervisors count the grace from when they saw the cancel; the orchestrator comes after them."""


def run(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The body of the `run` orchestrator. Input: the run's reference."""
    reference: dict[str, Any] = context.get_input()
    begun = yield from call_until_done(context, names.ACTIVITY_BEGIN_RUN, reference)
    if begun["status"] != "running":
        return {"status": begun["status"]}
    pipeline = context.call_sub_orchestrator(
        names.ORCHESTRATOR_PIPELINE, {**reference, "steps": begun["steps"]}, f"{context.instance_id}:pipeline"
    )
    cancel = context.wait_for_external_event(names.EVENT_CANCEL)
    winner = yield context.task_any([pipeline, cancel])
    if winner != pipeline:
        grace = timedelta(seconds=_grace_of(cancel.result, begun["grace_seconds"]) + GRACE_MARGIN_SECONDS)
        timer = context.create_timer(context.current_utc_datetime + grace)
        drained = yield context.task_any([pipeline, timer])
        if drained == pipeline:
            timer.cancel()
        else:
            late = {**reference, "outcome": {"status": names.OUTCOME_GRACE_EXPIRED}}
            settled = yield from call_until_done(context, names.ACTIVITY_SETTLE, late)
            if settled["status"] != "running":
                return settled
            yield context.task_any([pipeline])  # no cancel was accepted: someone raised the event by hand
    return (yield from call_until_done(context, names.ACTIVITY_SETTLE, {**reference, "outcome": _outcome(pipeline)}))


def _grace_of(event: Any, default: float) -> float:
    """The grace that the event carries. Raised by the SDK's client it is a JSON string, over HTTP the value itself."""
    try:
        facts = json.loads(event) if isinstance(event, str) else event
        grace = float(facts["grace_seconds"])
    except (ValueError, TypeError, KeyError):
        return default
    return grace if 0 <= grace <= MAX_GRACE_SECONDS else default


def _outcome(pipeline: Any) -> dict[str, Any]:
    """What the pipeline returned; a pipeline that failed as an orchestration is a failed run."""
    if isinstance(pipeline.result, dict) and "status" in pipeline.result:
        return pipeline.result
    return {"status": "failed", "error": {"code": "pipeline_failed", "message": str(pipeline.result)[:500]}}
