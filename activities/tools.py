"""What a tool is given of the operation that calls it."""

from __future__ import annotations

from shared.documents import Documents
from shared.operation_context import OperationContext
from shared.tools import ToolContext


def tool_context(context: OperationContext) -> ToolContext:
    """The context of a tool that an operation calls."""
    return ToolContext(Documents(context.services.blobs, context.ref.scope), context.services.fetch_limits)
