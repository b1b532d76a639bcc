"""A message as a queue function receives it: made by the worker's own converter of the metadata that the host sends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from azure.functions import QueueMessage, meta
from azure.functions.queue import QueueMessageInConverter

from shared.queues import NEVER, Received

Metadata = dict[str, meta.Datum]


def queue_message(message: Received) -> QueueMessage:
    """What the function receives. Raises what the converter does of a body whose keys make the metadata senseless."""
    return _made(
        message.text,
        {
            "Id": meta.Datum(message.id, "string"),
            "DequeueCount": meta.Datum(str(message.dequeue_count), "json"),
            "ExpirationTime": meta.Datum(message.expires_at, "string"),
            "InsertionTime": meta.Datum(message.inserted_at, "string"),
            "NextVisibleTime": meta.Datum(message.visible_at, "string"),
            "PopReceipt": meta.Datum(message.receipt, "string"),
        },
    )


def message_by_hand(text: str) -> QueueMessage:
    """What the function receives of a call by hand: a message that is in no queue has no id and no receipt."""
    return _made(
        text,
        {
            "DequeueCount": meta.Datum("0", "json"),
            "ExpirationTime": meta.Datum(NEVER, "string"),
            "InsertionTime": meta.Datum(datetime.now(UTC).isoformat(), "string"),
            "NextVisibleTime": meta.Datum(NEVER, "string"),
        },
    )


def _made(text: str, metadata: Metadata) -> QueueMessage:
    _overlay(metadata, text)
    made: QueueMessage = QueueMessageInConverter.decode(meta.Datum(text, "string"), trigger_metadata=metadata)
    return made


def _overlay(metadata: Metadata, text: str) -> None:
    """Let the keys of a JSON body take the place of metadata of that name in any case, as they do in the host.

    So a body with an `id` hides the message's own, which an app must learn here rather than in Azure.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(body, dict):
        return
    names = {name.lower(): name for name in metadata}
    for key, value in body.items():
        name = names.get(key.lower())
        if name is not None and value is not None and not isinstance(value, list):
            metadata[name] = _datum(value)


def _datum(value: Any) -> meta.Datum:
    if isinstance(value, dict):
        return meta.Datum(json.dumps(value), "json")
    return meta.Datum(str(value), "string")
