"""Calling an activity until it has an outcome.

The retry loop is ours: an abandoned `call_activity_with_retry` would go on trying after a cancel. An activity that raises
could not reach the store; it is called again, which is safe because every operation finds its own record.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from shared import names

Outcome = dict[str, Any]
Steps = Generator[Any, Any, Outcome]

BROKEN_TRIES = 6
BROKEN_PAUSE_SECONDS = 5


def call_until_done(context: df.DurableOrchestrationContext, activity: str, payload: dict[str, Any]) -> Steps:
    """Call `activity`; while it says `retry`, wait as long as it says and call it again."""
    broken = 0
    while True:
        try:
            outcome: Outcome = yield context.call_activity(activity, payload)
        except Exception as error:
            broken += 1
            if broken == BROKEN_TRIES:
                detail = str(error).strip().splitlines()
                message = detail[0][:500] if detail else "an activity failed"
                return {"status": "failed", "error": {"code": "activity_failed", "message": message}}
            yield context.create_timer(
                context.current_utc_datetime + timedelta(seconds=BROKEN_PAUSE_SECONDS * 2 ** (broken - 1))
            )
            continue
        if outcome["status"] != names.OUTCOME_RETRY:
            return outcome
        if outcome["after_seconds"] > 0:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=outcome["after_seconds"]))
