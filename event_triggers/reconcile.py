"""The timer of `reconcile`, each minute. The host runs it on one instance at a time, and a second would do no harm."""

from __future__ import annotations

import logging

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.errors import StoreError
from shared.permissions import system
from shared.reconcile import Progress, reconcile
from shared.services import get_services

log = logging.getLogger(__name__)

SCHEDULE = "0 * * * * *"

blueprint = df.Blueprint()
_progress = Progress()


async def _reconcile(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    """Mend what no orchestrator can."""
    del timer  # a late pass does what a timely one does
    try:
        done = await reconcile(get_services(), client, _progress)
    except StoreError as error:
        log.warning("reconcile goes on with its next pass: %s", error)
    else:
        log.info("reconcile: %s", done or "nothing to mend")


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_reconcile.__annotations__ = {"timer": func.TimerRequest, "return": None}
_reconcile = blueprint.durable_client_input(client_name="client")(_reconcile)
_reconcile = blueprint.timer_trigger(arg_name="timer", schedule=SCHEDULE)(_reconcile)
blueprint.function_name(system(names.TIMER_RECONCILE))(_reconcile)
