"""Publishing: artifacts and notifications, by steps and by tools. Each is a side effect of the operation that does it."""

from __future__ import annotations

import mimetypes
from typing import Any

from shared import deliveries
from shared.documents import validate_name
from shared.errors import StepFailed
from shared.events import event
from shared.names import ARTIFACT, NOTIFICATION, EventType
from shared.operation_context import OperationContext
from shared.outputs import ARTIFACTS, blob_folder, preview

MAX_SUBJECT = 2000


async def write_artifact(context: OperationContext, path: str, content: str | bytes) -> dict[str, Any]:
    """Write an artifact of the run: it is one once the operation has completed. Answers its path and size.

    Raises `StepFailed`: `artifact_path_invalid`, `artifact_too_large`.
    """
    try:
        validate_name(path)
    except ValueError as error:
        raise StepFailed("artifact_path_invalid", str(error)) from None
    data = content.encode(errors="replace") if isinstance(content, str) else content
    limit = context.services.settings.document_max_bytes
    if len(data) > limit:
        raise StepFailed("artifact_too_large", f"{path!r} has {len(data)} bytes; the most is {limit}")
    ref, begun = context.ref, context.begun
    # The attempt's own blob: it becomes an artifact only when the operation's end has landed.
    name = f"{blob_folder(ARTIFACTS, ref)}{begun.leaf.path}.{begun.attempt}/{path}"
    content_type = mimetypes.guess_type(path)[0] or "text/plain"
    async with context.side_effect(ARTIFACT, path, ref=name, size=len(data), content_type=content_type):
        await context.services.blobs.put(name, data, content_type)
    return {"path": path, "size": len(data)}


async def notify(context: OperationContext, subject: str, message: str) -> dict[str, Any]:
    """Tell the people of the scope something, once an operation: in every attempt it is the same notification."""
    facts = {"subject": preview(subject, MAX_SUBJECT), "message": preview(message)}
    async with context.side_effect(NOTIFICATION, facts["subject"]):
        told = deliveries.of_notify_step(context.begun.run, context.key, facts)
        await deliveries.record(context.services, context.ref, told)
    context.events.append(event(context.ref.run_id, EventType.EXECUTION_OUTPUT, context.key, **facts))
    return facts
