"""Going through all pages of a query."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from shared.store.port import Document, DocumentStore, Query


async def every(store: DocumentStore, query: Query) -> AsyncIterator[Document]:
    """All documents of `query`, in its order, from its `after` on; read by pages of its `limit`. Raises as `query` does."""
    while True:
        page = await store.query(query)
        for one in page.items:
            yield one
        if page.next is None:
            return
        query = replace(query, after=page.next)
