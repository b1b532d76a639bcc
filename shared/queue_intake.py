"""What queue functions share: reading a message that anyone may have sent, and keeping one that can't be worked on.

A rejected message is not tried again. A record of it says why, for operators; and a copy goes to the queue's poison queue,
where people who know the Functions host look first. Neither holds a token.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.definitions import invalid, validation_errors
from shared.errors import Conflict, Problem
from shared.ids import now
from shared.jsontext import parsed
from shared.names import DocumentType
from shared.outputs import preview
from shared.queues import MAX_BODY, POISON
from shared.services import Services
from shared.store.port import Create, Partition

log = logging.getLogger(__name__)

MAX_TEXT = MAX_BODY - 1024
"""What we may have to send again, with a count of our own, must still fit into a message."""
REJECTED = Partition("system", "rejected")
"""Where the records are. No scope of a user or group is called so."""
RECORD_SECONDS = 30 * 24 * 3600
SECRET_FIELDS = ("token",)

Model = TypeVar("Model", bound=BaseModel)


def read_message(text: str, model: type[Model]) -> Model:
    """The message as `model`. Raises `Problem` `malformed_json`, `body_too_large`, `invalid`."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT:
        raise Problem(413, "body_too_large", f"the message is over {MAX_TEXT} bytes")
    try:
        value = parsed(text)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "malformed_json", f"the message is not JSON: {error}") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(validation_errors(error), "the message") from None


async def reject(services: Services, queue: str, text: str, problem: Problem) -> None:
    """Keep a message that will not be worked on, with the reason. Idempotent: the same text makes one record."""
    log.warning("a message of queue %s is rejected: %s", queue, problem)
    digest = hashlib.sha256(f"{queue}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
    record = {
        "id": f"rejected:{digest[:32]}",
        "type": DocumentType.REJECTED,
        "queue": queue,
        "message": preview(redacted(text)),
        "error": {"code": problem.code, "message": problem.detail},
        "errors": [dict(error) for error in problem.errors],
        "created_at": now(),
        "ttl": RECORD_SECONDS,
    }
    try:
        await services.store.transact(REJECTED, [Create(record)])
    except Conflict:
        pass
    await poison(services, queue, text, problem.detail)


async def poison(services: Services, queue: str, text: str, reason: str) -> None:
    """Put a copy into the poison queue of `queue`, with the reason."""
    await services.queue.send(queue + POISON, {"reason": reason, "message": redacted(text)})


def redacted(text: str) -> str:
    """A message as it may be kept: without what proves who sent it, and as text that can be stored."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        value = {key: "…" if key in SECRET_FIELDS else inner for key, inner in value.items()}
    return json.dumps(value)
