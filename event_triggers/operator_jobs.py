"""The timer of operators' jobs, every ten seconds. The host runs it on one instance; a second would do no harm."""

from __future__ import annotations

import logging

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.errors import StoreError
from shared.operator_cancels import work_off
from shared.permissions import system
from shared.services import get_services

log = logging.getLogger(__name__)

SCHEDULE = "5-55/10 * * * * *"

blueprint = df.Blueprint()


async def _operator_jobs(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """Go on with the cancels of many runs."""
    del timer  # what is open is in the store
    try:
        batches = await work_off(get_services(), client)
    except StoreError as error:
        log.warning("operators' jobs wait for the next look: %s", error)
    else:
        if batches:
            log.info("operators' jobs: %s batches", batches)


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_operator_jobs.__annotations__ = {"timer": func.TimerRequest, "return": None}
_operator_jobs = blueprint.durable_client_input(client_name="client")(_operator_jobs)
_operator_jobs = blueprint.timer_trigger(arg_name="timer", schedule=SCHEDULE, use_monitor=False)(_operator_jobs)
blueprint.function_name(system(names.TIMER_OPERATOR_JOBS))(_operator_jobs)
