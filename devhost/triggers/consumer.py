"""Takes messages from a queue, several at once, has each worked on, and sees to what fails.

A message is leased while it is worked on, and deleted when that succeeded. After a failure it is seen again; after the
last of its tries it goes to the poison queue. The lease is short and renewed, so that what a killed host had in hand is
delivered again after seconds; the host in Azure takes ten minutes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from devhost.triggers.queue_options import SHORTEST_POLL, QueueOptions
from shared.errors import NotFound, StoreError
from shared.queues import POISON, QueueReader, Received

log = logging.getLogger("devhost.triggers")

LEASE_SECONDS = 15
RENEW_SECONDS = 5.0
ASIDE_SECONDS = 600
"""How long a message stays hidden that failed in a queue without a poison queue."""
_MOST_CHARACTERS = 63
_JITTER = 0.2


class Backoff:
    """How long to wait before the next look into an empty queue: longer each time, by chance, up to `longest`."""

    def __init__(self, longest: timedelta) -> None:
        self._shortest, self._longest = SHORTEST_POLL.total_seconds(), longest.total_seconds()
        self._looks = 0

    def reset(self) -> None:
        """There was something."""
        self._looks = 0

    def next(self) -> float:
        """Seconds."""
        growth = 2.0 ** (self._looks - 1) * random.uniform(1 - _JITTER, 1 + _JITTER) if self._looks else 0.0  # noqa: S311
        pause = self._shortest * (1 + growth)
        if pause >= self._longest:
            return self._longest
        self._looks += 1
        return pause


class Consumer:
    """Reads one queue. `work` answers whether it succeeded with a message; it raises only when it is cancelled."""

    def __init__(
        self,
        queue: str,
        reader: QueueReader,
        options: QueueOptions,
        longest_poll: timedelta,
        work: Callable[[Received], Awaitable[bool]],
    ) -> None:
        self.queue, self._reader, self._options, self._work = queue, reader, options, work
        self._backoff = Backoff(longest_poll)
        self._out_of_reach = False

    async def run(self) -> None:
        """Listen until cancelled. Then the work is cancelled, too, and its messages given back."""
        at_work: dict[asyncio.Task[None], asyncio.Task[bool]] = {}
        try:
            while True:
                messages = await self._receive()
                for message in messages:
                    call = asyncio.create_task(self._call(message), name=f"message {message.id}")
                    at_work[asyncio.create_task(self._see_through(message, call))] = call
                while len(at_work) > self._options.threshold:
                    await asyncio.wait(at_work, return_when=asyncio.FIRST_COMPLETED)
                    at_work = {task: call for task, call in at_work.items() if not task.done()}
                if messages:
                    self._backoff.reset()
                else:
                    await asyncio.sleep(self._backoff.next())
        finally:
            # Only the calls: what a function has done is told to the queue all the same, or it would be done again.
            for call in at_work.values():
                call.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

    async def _receive(self) -> list[Received]:
        try:
            messages = await self._reader.receive(self.queue, LEASE_SECONDS, self._options.batch_size)
        except StoreError as error:
            if not self._out_of_reach:
                log.warning("queue %s can't be read; trying again: %s", self.queue, error)
            self._out_of_reach = True
            return []
        if self._out_of_reach:
            log.info("queue %s can be read again", self.queue)
        self._out_of_reach = False
        return messages

    async def _call(self, message: Received) -> bool:
        if message.garbled or message.dequeue_count > self._options.max_dequeue_count:
            return False
        return await self._work(message)

    async def _see_through(self, message: Received, call: asyncio.Task[bool]) -> None:
        try:
            message = await self._hold(message, call)
            if call.cancelled():
                await self._reader.update(message, 0)
            elif call.result():
                await self._reader.delete(message)
            elif message.garbled or message.dequeue_count >= self._options.max_dequeue_count:
                await self._set_aside(message)
            else:
                await self._reader.update(message, math.ceil(self._options.visibility_timeout.total_seconds()))
        except NotFound:
            log.warning("the lease of message %s was lost; it may be delivered again", message.id)
        except StoreError as error:
            log.warning("the end of message %s can't be told to its queue; it comes again: %s", message.id, error)

    async def _hold(self, message: Received, call: asyncio.Task[bool]) -> Received:
        """Renew the lease until the call has ended; answers the message with its latest receipt. Raises `NotFound`."""
        while True:
            done, _ = await asyncio.wait({call}, timeout=RENEW_SECONDS)
            if done:
                return message
            try:
                message = await self._reader.update(message, LEASE_SECONDS)
            except NotFound:
                await asyncio.wait({call})
                raise
            except StoreError as error:
                log.warning("the lease of message %s can't be renewed; trying again: %s", message.id, error)

    async def _set_aside(self, message: Received) -> None:
        if self.queue.endswith(POISON) or len(self.queue) + len(POISON) > _MOST_CHARACTERS:
            await self._reader.update(message, ASIDE_SECONDS)
            return
        log.warning("message %s of queue %s goes to %s", message.id, self.queue, self.queue + POISON)
        await self._reader.poison(message)
