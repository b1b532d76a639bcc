"""The timer of schedules, every ten seconds. The host runs it on one instance at a time, and a second would do no harm.

The host's own memory of missed calls (`use_monitor`) is off: what is due is in the store, so a late call does what many
timely ones would have done.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.errors import StoreError
from shared.permissions import system
from shared.scheduler import run_due
from shared.services import get_services

log = logging.getLogger(__name__)

SCHEDULE = "*/10 * * * * *"

blueprint = df.Blueprint()


async def _schedule(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """Start what is due."""
    del timer  # what is due is in the store
    try:
        await run_due(get_services(), client, datetime.now(UTC))
    except StoreError as error:
        log.warning("schedules wait for the next look: %s", error)


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_schedule.__annotations__ = {"timer": func.TimerRequest, "return": None}
_schedule = blueprint.durable_client_input(client_name="client")(_schedule)
_schedule = blueprint.timer_trigger(arg_name="timer", schedule=SCHEDULE, use_monitor=False)(_schedule)
blueprint.function_name(system(names.TIMER_SCHEDULE))(_schedule)
