"""The queue of run requests: each message asks for a run."""

from __future__ import annotations

import logging

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.permissions import system
from shared.run_requests import handle
from shared.services import get_services

log = logging.getLogger(__name__)

blueprint = df.Blueprint()


async def _run_requests(message: func.QueueMessage, client: df.DurableOrchestrationClient) -> None:
    """Start the run that a message asks for."""
    outcome = await handle(get_services(), client, message.get_body().decode("utf-8", "replace"))
    log.info("run request: %s", outcome)


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_run_requests.__annotations__ = {"message": func.QueueMessage, "return": None}
_run_requests = blueprint.durable_client_input(client_name="client")(_run_requests)
_run_requests = blueprint.queue_trigger(
    arg_name="message", queue_name=names.QUEUE_RUN_REQUESTS, connection="AzureWebJobsStorage"
)(_run_requests)
blueprint.function_name(system(names.QUEUE_FUNCTION_RUN_REQUESTS))(_run_requests)
