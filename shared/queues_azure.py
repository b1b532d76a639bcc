"""Queues in an Azure Storage account, read and written as the Functions host does."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any

from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from shared.azure_storage import StorageConnection, made_already, translated
from shared.ids import to_text
from shared.queues import (
    MAX_PEEK,
    POISON,
    Received,
    bodies,
    check_delay,
    check_peek,
    check_queue_name,
    check_visibility,
    message_text,
)

POISON_SECONDS = 30


class AzureQueue:
    """`QueueSender` and `QueueReader` of an account. One a process; it belongs to one event loop.

    The SDK repeats what got no answer, so a message may come twice, and the delete of one that is gone may say `NotFound`.
    """

    def __init__(self, connection: StorageConnection, encoded: bool = True) -> None:
        """Connects to nothing yet. `encoded`: in base64, the host's default `messageEncoding`. Raises `SettingsError`."""
        self._setting, self._encoded = connection.setting, encoded
        self._closing = AsyncExitStack()
        self._service = connection.queues(self._closing)

    async def initialise(self, queues: Iterable[str]) -> None:
        """Make those of the queues that aren't there. Idempotent. Raises `Unavailable`."""
        for queue in queues:
            check_queue_name(queue)
            async with translated(self._setting, queue):
                with made_already():
                    await self._client(queue).create_queue()

    async def send(self, queue: str, body: Mapping[str, Any], delay_seconds: int = 0) -> None:
        text = message_text(queue, body)
        check_delay(delay_seconds)
        await self._put(queue, self._content(text), delay_seconds)

    async def peek(self, queue: str, limit: int = MAX_PEEK) -> list[dict[str, Any]]:
        check_peek(queue, limit)
        async with translated(self._setting, queue):
            messages = await self._client(queue).peek_messages(limit)
        return bodies(self._decoded(message.content)[0] for message in messages)

    async def receive(self, queue: str, visibility_seconds: int, limit: int = 1) -> list[Received]:
        check_peek(queue, limit)
        check_visibility(visibility_seconds, 1)
        async with translated(self._setting, queue):
            messages = self._client(queue).receive_messages(
                messages_per_page=limit, max_messages=limit, visibility_timeout=visibility_seconds
            )
            return [self._received(queue, message) async for message in messages]

    async def update(self, message: Received, visibility_seconds: int) -> Received:
        check_visibility(visibility_seconds, 0)
        async with translated(self._setting, message.id):
            answer = await self._client(message.queue).update_message(
                message.id, message.receipt, visibility_timeout=visibility_seconds
            )
        return replace(message, receipt=str(answer.pop_receipt), visible_at=_time(answer.next_visible_on))

    async def delete(self, message: Received) -> None:
        async with translated(self._setting, message.id):
            await self._client(message.queue).delete_message(message.id, message.receipt)

    async def poison(self, message: Received) -> None:
        queue = message.queue + POISON
        message = await self.update(message, POISON_SECONDS)  # fails if the lease was lost, before there are two of it
        await self.initialise([queue])
        await self._put(queue, message.text if message.garbled else self._content(message.text))
        await self.delete(message)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._closing.aclose()

    async def _put(self, queue: str, content: str, delay_seconds: int = 0) -> None:
        async with translated(self._setting, queue):
            await self._client(queue).send_message(content, visibility_timeout=delay_seconds)

    def _content(self, text: str) -> str:
        return base64.b64encode(text.encode()).decode() if self._encoded else text

    def _decoded(self, content: Any) -> tuple[str, bool]:
        """The text of a message, and whether it could be decoded; if not, the text is the message as it is."""
        if not self._encoded:
            return str(content), True
        try:
            return base64.b64decode(content, validate=True).decode(), True
        except ValueError:
            return str(content), False

    def _received(self, queue: str, message: QueueMessage) -> Received:
        text, decoded = self._decoded(message.content)
        return Received(
            queue=queue,
            id=str(message.id),
            text=text,
            receipt=str(message.pop_receipt),
            dequeue_count=message.dequeue_count or 0,
            inserted_at=_time(message.inserted_on),
            visible_at=_time(message.next_visible_on),
            expires_at=_time(message.expires_on),
            garbled=not decoded,
        )

    def _client(self, queue: str) -> QueueClient:
        return self._service.get_queue_client(queue)


def _time(moment: datetime | None) -> str:
    assert moment is not None, "a message that was received has its times"
    return to_text(moment)
