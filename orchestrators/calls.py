"""Calling an activity until it has an outcome.

The retry loop is ours: an abandoned `call_activity_with_retry` would go on trying after a cancel. Calling again is safe:
every operation finds its own record. While the store is away it goes on for as long as that takes, because giving up would
leave an operation on record as working, or a run with its lock. An activity that raises is broken: given up after a while.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from shared import names

Outcome = dict[str, Any]
Steps = Generator[Any, Any, Outcome]

AWAY_PAUSE_SECONDS = (5, 15)
"""How long the store is waited for, at first and at most. Short of a usual grace together with a fence: a cancel of a run
whose process lost the store should find its operation lost, not abandon it."""
BROKEN_TRIES = 6
BROKEN_PAUSE_SECONDS = 5


def call_until_done(context: df.DurableOrchestrationContext, activity: str, payload: dict[str, Any]) -> Steps:
    """Call `activity`; while it says `retry`, wait as long as it says and call it again."""
    broken = 0
    pause, longest = AWAY_PAUSE_SECONDS
    while True:
        try:
            outcome: Outcome = yield context.call_activity(activity, payload)
        except Exception as error:
            broken += 1
            if broken == BROKEN_TRIES:
                detail = str(error).strip().splitlines()
                message = detail[0][:500] if detail else "an activity failed"
                told = {"code": "activity_failed", "message": message}
                return {"status": "failed", "error": told, "given_up": True}
            yield context.create_timer(
                context.current_utc_datetime + timedelta(seconds=BROKEN_PAUSE_SECONDS * 2 ** (broken - 1))
            )
            continue
        if outcome["status"] == names.OUTCOME_STORE_AWAY:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=pause))
            pause = min(2 * pause, longest)
            continue
        if outcome["status"] != names.OUTCOME_RETRY:
            return outcome
        if outcome["after_seconds"] > 0:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=outcome["after_seconds"]))
