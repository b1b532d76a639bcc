"""An agent: its turns, one after the other.

1. `take_turn`, called until it has an outcome: the model's call, and what it comes to.
2. Anything but `turn` is the agent's end.
3. The turn's calls in parallel, each a sub-orchestration with its own retries: a tool's (`tool_call`), or a sub-agent's,
   which is this orchestrator again. A call that failed is for the model to read; one that was given up ends the agent.
4. `cancelled`: the run is; the agent ends. A call that was cancelled alone is told to the model with the next turn.
5. Again from 1. The activity counts the turns and ends the agent at its limit.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df

from orchestrators.calls import Outcome, call_until_done
from orchestrators.child_runs import follow_child
from shared import names


def agent(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The body of the `agent` orchestrator. Input: the run's reference and the agent's `path`."""
    given: dict[str, Any] = context.get_input()
    turn = 0
    while True:
        turn += 1
        outcome = yield from call_until_done(context, names.ACTIVITY_TAKE_TURN, {**given, "turn": turn})
        if outcome["status"] != names.OUTCOME_TURN:
            return outcome
        if not outcome["calls"]:
            continue
        ended: list[Outcome] = yield context.task_all([_call(context, given, call) for call in outcome["calls"]])
        for one in ended:
            if one["status"] == "cancelled" or one.get("given_up"):
                return one


def _call(context: df.DurableOrchestrationContext, given: dict[str, Any], call: dict[str, Any]) -> Any:
    own = call["path"].removeprefix(f"{given['path']}.")
    name = names.ORCHESTRATOR_AGENT if call["agent"] else names.ORCHESTRATOR_TOOL_CALL
    return context.call_sub_orchestrator(name, {**given, "path": call["path"]}, f"{context.instance_id}:{own}")


def tool_call(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The body of the `tool_call` orchestrator. Input: the run's reference and the call's `path`.

    A call of `run_workflow` is a child run, which is waited for here.
    """
    payload: dict[str, Any] = context.get_input()
    started = yield from call_until_done(context, names.ACTIVITY_CALL_TOOL, payload)
    return (yield from follow_child(context, payload, started, started.get("seconds")))
