"""The implementations that each contract suite runs on. A suite says what any of them does, and names none."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.blobs import BlobStore, LocalBlobs
from shared.blobs_azure import AzureBlobs
from shared.sqlite import Database
from shared.store.cosmos import CosmosStore
from shared.store.cosmos_client import CosmosAccount
from shared.store.port import DocumentStore, Partition
from shared.store.sqlite import SqliteStore
from tests.cosmos_double.fixtures import account_of, cosmos_account, cosmos_server  # noqa: F401 - fixtures

OpenStore = Callable[[], DocumentStore]

STORES = ["sqlite", "cosmos-double", *(["cosmos-account"] if "TRUESTOP_TEST_COSMOS" in os.environ else [])]


@pytest.fixture(params=STORES)
def store_account(request: pytest.FixtureRequest) -> CosmosAccount | None:
    """The Cosmos DB account to test, None for SQLite."""
    if request.param == "cosmos-double":
        return account_of(request.getfixturevalue("cosmos_server"))
    return request.getfixturevalue("cosmos_account") if request.param == "cosmos-account" else None


@pytest.fixture
async def open_store(store_account: CosmosAccount | None, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens clients of one and the same store; those left open are closed afterwards."""
    opened: list[DocumentStore] = []

    def open_one() -> DocumentStore:
        made = CosmosStore(store_account) if store_account else SqliteStore(Database.open(tmp_path / "contract.db"))
        opened.append(made)
        return made

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


@pytest.fixture
def blob_bytes() -> int:
    """The most that a blob may have in `blobs`."""
    return 1000


@pytest.fixture(params=["local", "azurite"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path, blob_bytes: int) -> AsyncIterator[BlobStore]:
    """An empty blob store that takes at most `blob_bytes` a blob."""
    if request.param == "local":
        yield LocalBlobs(tmp_path / "blobs", max_bytes=blob_bytes)
        return
    azure = AzureBlobs(request.getfixturevalue("storage_account"), f"test-{uuid.uuid4().hex}", max_bytes=blob_bytes)
    await azure.initialise()
    yield azure
    await azure.close()
