"""The deliveries of File Sync: of the blob trigger, and of its queue. Neither fails because the document store is away.

A blob trigger gives up after five failures, and nobody reads its poison queue: a delivery that can't be recorded waits on
our own queue instead, as does a burst that can't be closed, for about a day.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime

from pydantic import Field, TypeAdapter, ValidationError

from shared.errors import StoreError, Throttled, Unavailable
from shared.file_bursts import Wake, close_burst
from shared.file_sync import arrive
from shared.names import QUEUE_FILE_SYNC
from shared.orchestration import Orchestrations
from shared.services import Services
from shared.steps import Strict

log = logging.getLogger(__name__)

DEFER_SECONDS = (10, 300)
"""The pause after the first time, and the longest; doubling."""
MAX_DEFERRED = 300


class Arrived(Strict):
    """A blob whose delivery could not be recorded."""

    blob: str = Field(max_length=2000)


class Deferred(Strict):
    """What waits for the store. `times`: how often it was put off."""

    delivery: Arrived | Wake
    times: int = Field(ge=1)


_message: TypeAdapter[Wake | Deferred] = TypeAdapter(Wake | Deferred)


async def deliver(services: Services, blob_name: str, at: datetime) -> str:
    """What the blob trigger does. Answers what became of it. Raises only when the queue is away too."""
    return await _attempt(services, None, Arrived(blob=blob_name[:2000]), 0, at)


async def handle(services: Services, orchestrations: Orchestrations, text: str, at: datetime) -> str:
    """What the queue's function does with a message. Answers what became of it. Raises only when the queue is away."""
    try:
        message = _message.validate_python(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        log.error("file_sync_message_invalid: dropped a message of queue %s: %s", QUEUE_FILE_SYNC, error)
        return "invalid"
    if isinstance(message, Wake):
        return await _attempt(services, orchestrations, message, 0, at)
    return await _attempt(services, orchestrations, message.delivery, message.times, at)


async def _attempt(
    services: Services, orchestrations: Orchestrations | None, delivery: Arrived | Wake, times: int, at: datetime
) -> str:
    try:
        if isinstance(delivery, Arrived):
            return await arrive(services, delivery.blob, at)
        assert orchestrations is not None  # bursts come by the queue only
        await close_burst(services, orchestrations, delivery, at)
        return "closed"
    except (Throttled, Unavailable) as error:
        return await _defer(services, delivery, times + 1, error)


async def _defer(services: Services, delivery: Arrived | Wake, times: int, error: StoreError) -> str:
    if times > MAX_DEFERRED:
        log.error("file_sync_given_up: %s was put off %s times: %s", delivery, MAX_DEFERRED, error)
        return "given up"
    log.warning("File Sync waits for the store: %s", error)
    first, most = DEFER_SECONDS
    message = Deferred(delivery=delivery, times=times)
    await services.queue.send(QUEUE_FILE_SYNC, message.model_dump(), min(first << min(times - 1, 10), most))
    return "deferred"
