"""Documents for the store's contract suites, and what the suites do with them all the time."""

from __future__ import annotations

from typing import Any

from shared.store.port import (
    Create,
    Document,
    DocumentStore,
    FieldIn,
    Partition,
    Query,
)

NEVER = (FieldIn("status", ("no such status",)),)


def doc(document_id: str, **fields: Any) -> Document:
    return {"id": document_id, "type": "run", **fields}


def content(document: Document | None) -> Document:
    """Without what the store adds."""
    assert document is not None
    return {key: value for key, value in document.items() if key not in ("_etag", "scope", "workflow_id")}


async def put(store: DocumentStore, partition: Partition, *documents: Document) -> None:
    await store.transact(partition, [Create(document) for document in documents])


async def ids(store: DocumentStore, query: Query) -> list[str]:
    """The ids of every page."""
    found: list[str] = []
    while True:
        page = await store.query(query)
        found += [document["id"] for document in page.items]
        if page.next is None:
            return found
        query = Query(query.type, query.within, query.where, query.order_by, query.descending, query.limit, page.next)
