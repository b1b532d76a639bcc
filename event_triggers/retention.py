"""The timer of retention, once an hour. A pass that takes place late, or twice, removes what has aged out and no more."""

from __future__ import annotations

import logging

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.errors import StoreError
from shared.permissions import system
from shared.retention import retain
from shared.services import get_services

log = logging.getLogger(__name__)

SCHEDULE = "0 20 * * * *"

blueprint = df.Blueprint()


async def _retain(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """Remove what has aged out."""
    del timer
    try:
        removed = await retain(get_services(), client)
    except StoreError as error:
        log.warning("retention goes on with its next pass: %s", error)
    else:
        log.info("retention: removed %s", {kind: count for kind, count in removed.items() if count} or "nothing")


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_retain.__annotations__ = {"timer": func.TimerRequest, "return": None}
_retain = blueprint.durable_client_input(client_name="client")(_retain)
_retain = blueprint.timer_trigger(arg_name="timer", schedule=SCHEDULE)(_retain)
blueprint.function_name(system(names.TIMER_RETENTION))(_retain)
