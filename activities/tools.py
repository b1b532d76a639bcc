"""What a tool is given of the operation that calls it."""

from __future__ import annotations

from typing import Any

from activities import publishing
from shared.documents import Documents
from shared.operation_context import OperationContext
from shared.side_effects import SideEffect
from shared.tools import ToolContext


class _Publisher:
    """Publishes in the name of one operation."""

    def __init__(self, context: OperationContext) -> None:
        self._context = context
        self._notified = False

    @property
    def key(self) -> str:
        return self._context.key

    def side_effect(self, kind: str, what: str) -> SideEffect:
        return self._context.side_effect(kind, what)

    async def write_artifact(self, path: str, content: str | bytes) -> dict[str, Any]:
        return await publishing.write_artifact(self._context, path, content)

    async def notify(self, subject: str, message: str) -> dict[str, Any]:
        if self._notified:
            raise ValueError("a tool call notifies once")  # a second one would be taken for the first, sent again
        self._notified = True
        return await publishing.notify(self._context, subject, message)


def tool_context(context: OperationContext) -> ToolContext:
    """The context of a tool that an operation calls."""
    documents = Documents(context.services.blobs, context.ref.scope, context.token.check)
    return ToolContext(documents, _Publisher(context), context.services.fetch_limits)
