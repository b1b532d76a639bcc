"""Fixtures that several files use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared.azure_storage import StorageConnection
from shared.queues import SqliteQueue
from shared.sqlite import Database
from tests.support.azurite import azurite
from tests.support.queues import Queues, empty_queues
from tests.support.world import World, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose model answers at once."""
    async with open_world(tmp_path) as one:
        yield one


@pytest.fixture(scope="session")
def storage_account() -> Iterator[StorageConnection]:
    """An Azure Storage account: Azurite, started once."""
    with azurite() as connection:
        yield connection


@pytest_asyncio.fixture(params=["sqlite", "azurite"])
async def queues(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Queues]:
    """`QUEUES`, all of them empty."""
    if request.param == "sqlite":
        database = Database.open(tmp_path / "contract.db")
        yield SqliteQueue(database)
        await database.close()
        return
    azure = await empty_queues(request.getfixturevalue("storage_account"))
    yield azure
    await azure.close()
