"""The implementations that each contract suite runs on. A suite says what any of them does, and names none."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.blobs import BlobStore, LocalBlobs
from shared.queues import QueueSender, SqliteQueue
from shared.sqlite import Database
from shared.store.port import DocumentStore, Partition
from shared.store.sqlite import SqliteStore

OpenStore = Callable[[], DocumentStore]


@pytest.fixture(params=["sqlite"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens clients of one and the same store; those left open are closed afterwards."""
    opened: list[DocumentStore] = []

    def open_one() -> DocumentStore:
        opened.append(SqliteStore(Database.open(tmp_path / "contract.db")))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> DocumentStore:
    return open_store()


@pytest.fixture
def partition() -> Partition:
    """A partition that nobody has used, as a store may be shared with other tests."""
    return Partition(f"user:{uuid.uuid4().hex}", "w1")


@pytest.fixture(params=["local"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """A blob store that takes at most 1000 bytes a blob."""
    return LocalBlobs(tmp_path / "blobs", max_bytes=1000)


@pytest.fixture(params=["sqlite"])
async def queues(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueSender]:
    database = Database.open(tmp_path / "contract.db")
    yield SqliteQueue(database)
    await database.close()
