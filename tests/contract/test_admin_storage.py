"""`python -m truestop.admin init` for Azure Storage, against Azurite."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from shared.azure_storage import StorageConnection
from shared.blobs_azure import AzureBlobs
from shared.names import CONTAINER_FILE_SYNC, QUEUES
from shared.queues_azure import AzureQueue
from truestop import admin


def test_it_makes_the_containers_and_the_queues_and_may_be_repeated(
    storage_account: StorageConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards that an app whose identity may not create them finds them there."""
    container = f"c{uuid.uuid4().hex}"
    assert storage_account.connection_string is not None
    settings = {
        "TRUESTOP_STORAGE": "azure",
        "TRUESTOP_BLOB_CONTAINER": container,
        "AzureWebJobsStorage": storage_account.connection_string,
    }
    for _ in range(2):
        assert admin.main(["init"], settings) == 0
        assert "are ready" in capsys.readouterr().out
    asyncio.run(_use(storage_account, container))


async def _use(account: StorageConnection, container: str) -> None:
    queue = AzureQueue(account)
    try:
        for name in (container, CONTAINER_FILE_SYNC):
            blobs = AzureBlobs(account, name)
            await blobs.put("a/b.txt", b"x", "text/plain")
            await blobs.close()
        for name in QUEUES:
            await queue.peek(name, 1)
    finally:
        await queue.close()


def test_a_connection_that_cannot_be_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards the message: it says which setting to mend."""
    assert admin.main(["init"], {"TRUESTOP_STORAGE": "azure", "AzureWebJobsStorage": "nonsense"}) == 1
    assert "AzureWebJobsStorage" in capsys.readouterr().err
