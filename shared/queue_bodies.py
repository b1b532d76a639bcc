"""Message bodies of any size: what a queue can't carry waits in a blob, and the message says where.

Over any `QueueSender`, so that what works on a laptop works in Azure, where a message is 64 KB at most. A blob is written
before its message. Who reads a message calls `resolve_body`, and `discard_body` when the work is done: delivered once more
after that, the message's `resolve_body` raises `NotFound`, which means that there is nothing left to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shared.blobs import BlobStore
from shared.errors import NotFound, TooLarge, Unavailable
from shared.ids import new_ulid
from shared.queues import MAX_PEEK, QueueSender, message_text

REFERENCE = "$body_blob"
PREFIX = "messages/"
"""Blobs of messages that nobody read stay; Azure drops such messages after 7 days, so a lifecycle rule may drop these."""


class LargeBodies:
    """`QueueSender` that takes bodies as large as `blobs` takes. Closes the sender that it wraps, not the blobs."""

    def __init__(self, sender: QueueSender, blobs: BlobStore) -> None:
        self._sender, self._blobs = sender, blobs

    async def send(self, queue: str, body: Mapping[str, Any], delay_seconds: int = 0) -> None:
        if REFERENCE not in body:  # else it would read as a reference, so it goes as one itself
            try:
                return await self._sender.send(queue, body, delay_seconds)
            except TooLarge:
                pass
        text = message_text(queue, body, limit=None)
        name = f"{PREFIX}{queue}/{new_ulid()}.json"
        await self._blobs.put(name, text.encode(), "application/json")
        return await self._sender.send(queue, {REFERENCE: name}, delay_seconds)

    async def peek(self, queue: str, limit: int = MAX_PEEK) -> list[dict[str, Any]]:
        found = []
        for body in await self._sender.peek(queue, limit):
            try:
                found.append(await resolve_body(self._blobs, body))
            except NotFound:
                pass  # done since
        return found

    async def close(self) -> None:
        await self._sender.close()


async def resolve_body(blobs: BlobStore, body: dict[str, Any]) -> dict[str, Any]:
    """The body itself, read from its blob if it went by reference. Raises `NotFound` if it was discarded, `Unavailable`."""
    name = _reference(body)
    if name is None:
        return body
    try:
        resolved = json.loads((await blobs.get(name)).data)
    except ValueError as error:
        raise Unavailable(f"blob {name!r} of a message is damaged: {error}") from None
    if not isinstance(resolved, dict):
        raise Unavailable(f"blob {name!r} of a message is damaged: it holds no object")
    return resolved


async def discard_body(blobs: BlobStore, body: Mapping[str, Any]) -> None:
    """Delete the blob of a body that went by reference, given as it was received. Idempotent."""
    name = _reference(body)
    if name is not None:
        await blobs.delete(name)


def _reference(body: Mapping[str, Any]) -> str | None:
    """The blob that a body refers to. Only a message's own: a forged reference must not reach documents."""
    name = body.get(REFERENCE)
    return name if isinstance(name, str) and len(body) == 1 and name.startswith(PREFIX) else None
