"""The pipeline of a run: its steps, in order.

1. A step that is one operation: one activity, called until it has an outcome.
2. A fan-out: `open_items`; one lane (a sub-orchestration) for each of its parallel places; `close_items`. An agent: a
   sub-orchestration that takes its turns.
3. `cancelled` from anywhere ends the pipeline: the store has said so, no event is needed.
4. A step that failed ends it too, unless the step says `continue`. One that was cancelled alone does when it says `stop`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df

from orchestrators.calls import Outcome, Steps, call_until_done
from orchestrators.child_runs import child_step
from shared import names

STEP_CANCELLED = {"code": "step_cancelled", "message": "a step was cancelled, and it says that the run stops then"}


def pipeline(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The body of the `pipeline` orchestrator. Input: the run's reference and its `steps`."""
    given: dict[str, Any] = context.get_input()
    reference = {key: given[key] for key in ("scope", "workflow_id", "run_id", "epoch")}
    for step in given["steps"]:
        payload = {**reference, "path": step["path"]}
        outcome = yield from _run(context, step, payload)
        if outcome["status"] == "cancelled":
            return {"status": "cancelled"}
        if outcome["status"] == "failed" and step["on_error"] == "stop":
            return {"status": "failed", "error": outcome.get("error")}
        if outcome["status"] == names.OUTCOME_BRANCH_CANCELLED and step["on_cancelled"] == "stop":
            return {"status": "failed", "error": STEP_CANCELLED}
    return {"status": "completed"}


def _run(context: df.DurableOrchestrationContext, step: dict[str, Any], payload: dict[str, Any]) -> Steps:
    if step["shape"] == "fan_out":
        return _fan_out(context, payload)
    if step["shape"] == "agent":
        return _agent(context, payload)
    if step["shape"] == "child_run":
        return child_step(context, payload, step["timeout_seconds"])
    return call_until_done(context, names.ACTIVITY_RUN_STEP, payload)


def _agent(context: df.DurableOrchestrationContext, payload: dict[str, Any]) -> Steps:
    instance_id = f"{context.instance_id}:{payload['path']}"
    outcome: Outcome = yield context.call_sub_orchestrator(names.ORCHESTRATOR_AGENT, payload, instance_id)
    return outcome


def _fan_out(context: df.DurableOrchestrationContext, payload: dict[str, Any]) -> Steps:
    opened = yield from call_until_done(context, names.ACTIVITY_OPEN_ITEMS, payload)
    if opened["status"] != "running":
        return opened
    lanes = opened["lanes"]
    if lanes:
        yield context.task_all(
            [
                context.call_sub_orchestrator(
                    names.ORCHESTRATOR_ITEMS,
                    {**payload, "lane": lane, "lanes": lanes, "items": opened["items"]},
                    f"{context.instance_id}:{payload['path']}:l{lane}",
                )
                for lane in range(lanes)
            ]
        )
    return (yield from call_until_done(context, names.ACTIVITY_CLOSE_ITEMS, payload))
