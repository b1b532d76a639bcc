"""One lane of a fan-out: every `lanes`-th item, one after the other.

1. Run the item, called until it has an outcome.
2. `cancelled` ends the lane; so does `skipped` (the fan-out halted at a failure).

Lanes, not one sliding window over all items: a task that is re-used in a second `task_any` isn't woken for, so a window
would advance only when its newest task ends.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df

from orchestrators.calls import call_until_done
from shared import names
from shared.executions import item_path


def items(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    """The body of the `items` orchestrator. Input: the step's reference, `lane`, `lanes` and `items` (how many)."""
    given: dict[str, Any] = context.get_input()
    reference = {key: given[key] for key in ("scope", "workflow_id", "run_id", "epoch")}
    for index in range(given["lane"], given["items"], given["lanes"]):
        payload = {**reference, "path": item_path(given["path"], index)}
        outcome = yield from call_until_done(context, names.ACTIVITY_RUN_ITEM, payload)
        if outcome["status"] in ("cancelled", "skipped"):
            return outcome["status"]
    return "done"
