"""Fixtures around the double. A test file imports those that it uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from shared.store.cosmos import CosmosStore
from shared.store.cosmos_client import CosmosAccount, initialise
from shared.store.port import DocumentStore
from tests.cosmos_double.server import Double, running_double

OpenCosmos = Callable[[], DocumentStore]


def account_of(double: Double, timeout_seconds: float = 10.0) -> CosmosAccount:
    """The double as an account with a database and a container. Endpoint discovery is on, as in Azure."""
    return CosmosAccount(double.endpoint, double.key, "truestop", "truestop", timeout_seconds, endpoint_discovery=True)


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
