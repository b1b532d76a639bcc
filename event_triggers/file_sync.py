"""File Sync: the blob trigger that notes what arrives, the queue that closes bursts, and the timer for lost messages.

One parameter for the whole name: with several the host splits a path at its last slashes, as each takes what it can.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.errors import StoreError
from shared.file_bursts import wake_lost_bursts
from shared.file_messages import deliver, handle
from shared.identity import on_azure
from shared.permissions import system
from shared.services import get_services

log = logging.getLogger(__name__)

SCHEDULE = "15 * * * * *"
SOURCE = func.BlobSource.EVENT_GRID if on_azure(os.environ) else func.BlobSource.LOGS_AND_CONTAINER_SCAN
"""A Flex Consumption plan takes blobs from Event Grid only, and no laptop has one."""

blueprint = df.Blueprint()


async def _file_sync(blob: func.InputStream) -> None:
    """Note that a file arrived or changed."""
    name = (blob.name or "").partition("/")[2]
    log.info("file %r: %s", name, await deliver(get_services(), name, datetime.now(UTC)))


async def _file_sync_bursts(message: func.QueueMessage, client: df.DurableOrchestrationClient) -> None:
    """Look at a burst of files: start its run when it is over."""
    text = message.get_body().decode("utf-8", "replace")
    log.info("burst of files: %s", await handle(get_services(), client, text, datetime.now(UTC)))


async def _sweep_file_sync(timer: func.TimerRequest) -> None:
    """Wake the bursts whose message was lost."""
    del timer  # a late sweep does what a timely one does
    try:
        await wake_lost_bursts(get_services(), datetime.now(UTC))
    except StoreError as error:
        log.warning("bursts of files are swept again in a minute: %s", error)


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_file_sync.__annotations__ = {"blob": func.InputStream, "return": None}
_file_sync = blueprint.blob_trigger(
    arg_name="blob", path=f"{names.CONTAINER_FILE_SYNC}/{{name}}", connection="AzureWebJobsStorage", source=SOURCE
)(_file_sync)
blueprint.function_name(system(names.BLOB_FILE_SYNC))(_file_sync)
_file_sync_bursts.__annotations__ = {"message": func.QueueMessage, "return": None}
_file_sync_bursts = blueprint.durable_client_input(client_name="client")(_file_sync_bursts)
_file_sync_bursts = blueprint.queue_trigger(
    arg_name="message", queue_name=names.QUEUE_FILE_SYNC, connection="AzureWebJobsStorage"
)(_file_sync_bursts)
blueprint.function_name(system(names.QUEUE_FUNCTION_FILE_SYNC))(_file_sync_bursts)
_sweep_file_sync.__annotations__ = {"timer": func.TimerRequest, "return": None}
_sweep_file_sync = blueprint.timer_trigger(arg_name="timer", schedule=SCHEDULE)(_sweep_file_sync)
blueprint.function_name(system(names.TIMER_SWEEP_FILE_SYNC))(_sweep_file_sync)
