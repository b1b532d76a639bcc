"""Fixtures around the double, and what its tests write. A test file imports those that it uses."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from shared.store import cosmos as cosmos_module
from shared.store.cosmos import CosmosStore
from shared.store.cosmos_client import CosmosAccount, initialise
from shared.store.port import Create, Document, DocumentStore, FieldIn, Partition, Patch
from tests.cosmos_double.server import Double, running_double

OpenCosmos = Callable[[], DocumentStore]


def account_of(double: Double, timeout_seconds: float = 10.0) -> CosmosAccount:
    """The double as an account with a database and a container. Endpoint discovery is on, as in Azure."""
    return CosmosAccount(double.endpoint, double.key, "truestop", "truestop", timeout_seconds, endpoint_discovery=True)


def doc(document_id: str, **fields: object) -> Document:
    """A document."""
    return {"id": document_id, "type": "run", **fields}


ADD = Patch("a", increment={"n": 1}, when=(FieldIn("status", ("running",)),))
EVENT = Create(doc("event"))


async def begun(store: CosmosStore, partition: Partition) -> None:
    """Make the document that `ADD` counts in."""
    await store.transact(partition, [Create(doc("a", n=0, status="running"))])


@pytest.fixture
def partition() -> Partition:
    """A partition that nobody else uses."""
    return Partition(f"user:{uuid.uuid4().hex}", "w1")


@pytest.fixture
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(cosmos_module, "PAUSE_SECONDS", 0.001)


@pytest.fixture(scope="session")
def cosmos_server() -> Iterator[Double]:
    """A double, its container made by `initialise`."""
    with running_double() as double:
        asyncio.run(initialise(account_of(double)))
        yield double


@pytest.fixture
def double(cosmos_server: Double) -> Iterator[Double]:
    """The double, behaving well until the test says otherwise."""
    cosmos_server.trouble.clear()
    yield cosmos_server
    cosmos_server.trouble.clear()


@pytest.fixture
async def cosmos(double: Double) -> AsyncIterator[CosmosStore]:
    """A store on the double."""
    store = CosmosStore(account_of(double))
    yield store
    await store.close()


@pytest.fixture(scope="session")
def cosmos_account() -> CosmosAccount:
    """A real account or emulator: `TRUESTOP_TEST_COSMOS` is its endpoint and key, joined by a semicolon."""
    endpoint, _, key = os.environ["TRUESTOP_TEST_COSMOS"].partition(";")
    account = CosmosAccount(endpoint, key or None, "truestop-test", "contract", 30.0)
    asyncio.run(initialise(account))
    return account
