"""What a live view shows of a document: an allow-list. Whatever is not named here never leaves by the stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.names import DocumentType
from shared.receipts import cancel_receipt
from shared.store.port import Document
from shared.views import event_view, execution_view, run_view, workflow_view

if TYPE_CHECKING:
    from shared.services import Services


class Shown(NamedTuple):
    """A document as the stream tells it: its type, the run that it is of (None: the workflow's own), and its view."""

    type: DocumentType
    run_id: str | None
    view: Mapping[str, Any]


async def shown(services: Services, document: Document) -> Shown | None:
    """What to show of a changed document; None for one that nobody may see."""
    match document["type"]:
        case DocumentType.WORKFLOW:
            return Shown(DocumentType.WORKFLOW, None, workflow_view(document))
        case DocumentType.RUN:
            receipt = await cancel_receipt(services, document) if document["cancel"] is not None else None
            return Shown(DocumentType.RUN, document["id"], run_view(document, receipt))
        case DocumentType.EXECUTION:
            return Shown(DocumentType.EXECUTION, document["run_id"], execution_view(document))
        case DocumentType.EVENT:
            return Shown(DocumentType.EVENT, document["run_id"], event_view(document))
    return None


def server_sent(what: Shown, token: str) -> bytes:
    """As a server-sent event whose id is the token that continues after it. JSON has no line breaks of its own."""
    data = json.dumps(what.view, ensure_ascii=False, separators=(",", ":"))
    return f"event: {what.type}\nid: {token}\ndata: {data}\n\n".encode()
