"""A store that says which partitions this process wrote to, so that who follows them here needn't wait for a poll."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.store.port import Changes, Document, DocumentStore, Op, Page, Partition, Query


@dataclass(frozen=True, slots=True)
class AnnouncingStore:
    """`DocumentStore` that hands everything on to `inner`, and tells `written` after each transaction that landed."""

    inner: DocumentStore
    written: Callable[[Partition], None]

    async def get(self, partition: Partition, document_id: str) -> Document:
        return await self.inner.get(partition, document_id)

    async def query(self, query: Query) -> Page:
        return await self.inner.query(query)

    async def changes(self, partition: Partition, token: str | None = None, limit: int = 100) -> Changes:
        return await self.inner.changes(partition, token, limit)

    async def position(self, partition: Partition) -> str:
        return await self.inner.position(partition)

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        result = await self.inner.transact(partition, ops)
        self.written(partition)
        return result

    async def close(self) -> None:
        await self.inner.close()
