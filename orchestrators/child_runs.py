"""A child run: begin it, run its orchestration as a sub-orchestration, tell how it ended.

1. `start_child` (or another activity that answers `running` with `child`) records the child run.
2. The child's own `run` orchestration, under the child's own instance id. What it returns, or whether it failed, says
   nothing: the child's record does.
3. Past the step's deadline: cancel the child, and go on waiting for it.
4. `end_child`, until the child's run has ended.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from orchestrators.calls import Outcome, Steps, call_until_done
from shared import names


def child_step(context: df.DurableOrchestrationContext, payload: dict[str, Any], seconds: float | None) -> Steps:
    """The step of kind `child_run` at the payload's path, with its deadline."""
    started = yield from call_until_done(context, names.ACTIVITY_START_CHILD, payload)
    return (yield from follow_child(context, payload, started, seconds))


def follow_child(
    context: df.DurableOrchestrationContext, payload: dict[str, Any], started: Outcome, seconds: float | None
) -> Steps:
    """Wait for the child run that `started` tells of. Answers its outcome; `started` itself if no child runs."""
    if started["status"] != "running":
        return started
    given = dict(started["child"])
    child = context.call_sub_orchestrator(names.ORCHESTRATOR_RUN, given, given.pop("instance_id"))
    if seconds is not None:
        deadline = context.create_timer(context.current_utc_datetime + timedelta(seconds=seconds))
        winner = yield context.task_any([child, deadline])
        if winner == deadline:
            yield from call_until_done(context, names.ACTIVITY_CANCEL_CHILD, payload)
        else:
            deadline.cancel()
    try:
        yield child
    except Exception:  # noqa: S110 - terminated, say: its record tells, and is repaired if need be
        pass
    return (yield from call_until_done(context, names.ACTIVITY_END_CHILD, payload))
