"""The queue of notifications, whose messages wake deliveries to webhooks, and the timer that makes up for lost ones."""

from __future__ import annotations

import logging

import azure.durable_functions as df
import azure.functions as func

from shared import names
from shared.deliveries import sweep
from shared.errors import StoreError
from shared.permissions import system
from shared.services import get_services
from shared.webhooks import handle

log = logging.getLogger(__name__)

SCHEDULE = "30 * * * * *"

blueprint = df.Blueprint()


async def _notifications(message: func.QueueMessage) -> None:
    """Try the delivery that a message names."""
    outcome = await handle(get_services(), message.get_body().decode("utf-8", "replace"))
    log.info("notification: %s", outcome)


async def _sweep_notifications(timer: func.TimerRequest) -> None:
    """Wake the deliveries whose message was lost."""
    del timer  # a late sweep does what a timely one does
    try:
        woken = await sweep(get_services())
    except StoreError as error:
        log.warning("notifications are swept again in a minute: %s", error)
    else:
        log.info("notifications: %s overdue", woken)


# The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
_notifications.__annotations__ = {"message": func.QueueMessage, "return": None}
_notifications = blueprint.queue_trigger(
    arg_name="message", queue_name=names.QUEUE_NOTIFICATIONS, connection="AzureWebJobsStorage"
)(_notifications)
blueprint.function_name(system(names.QUEUE_FUNCTION_NOTIFICATIONS))(_notifications)
_sweep_notifications.__annotations__ = {"timer": func.TimerRequest, "return": None}
_sweep_notifications = blueprint.timer_trigger(arg_name="timer", schedule=SCHEDULE)(_sweep_notifications)
blueprint.function_name(system(names.TIMER_SWEEP_NOTIFICATIONS))(_sweep_notifications)
