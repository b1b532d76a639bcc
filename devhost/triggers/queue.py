"""Queue triggers: each message of a queue calls a function."""

from __future__ import annotations

from typing import Any

from azure.functions.queue import QueueMessageInConverter

from devhost.bindings import BadBinding, check_annotation, resolved
from devhost.functions import HostedFunction
from devhost.triggers.calls import Caller, log
from devhost.triggers.consumer import Consumer
from devhost.triggers.messages import message_by_hand, queue_message
from devhost.triggers.queue_options import QueueOptions
from devhost.triggers.storage import Storage, check_connection
from shared.queues import Received, check_queue_name

KIND = "queueTrigger"


class Queue:
    """The listener of one queue function."""

    def __init__(self, caller: Caller, storage: Storage, options: QueueOptions) -> None:
        """Raises `BadBinding`, `Unserved`, `SettingsError`, `Unavailable`."""
        self.caller = caller
        function = caller.function
        trigger: Any = function.trigger
        check_annotation(function, QueueMessageInConverter.check_input_type_annotation)
        check_connection(function, trigger.connection)
        queue = _queue_name(function, trigger.queue_name)
        self._consumer = Consumer(queue, storage.queues(), options, storage.longest_poll, self._work)

    async def run(self) -> None:
        """Listen until cancelled."""
        await self._consumer.run()

    async def by_hand(self, given: str | None) -> None:
        """Call the function with a message of this text, which is in no queue."""
        await self.caller(message_by_hand(given or ""))

    async def _work(self, message: Received) -> bool:
        try:
            given = queue_message(message)
        except Exception:
            log.exception("message %s can't be given to function %s", message.id, self.caller.function.name)
            return False
        return await self.caller(given)


def _queue_name(function: HostedFunction, text: str) -> str:
    name = resolved(function, text).lower()
    try:
        check_queue_name(name)
    except ValueError as error:
        raise BadBinding(function.name, str(error)) from error
    return name
