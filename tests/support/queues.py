"""The queues that tests use, on SQLite and on an account."""

from __future__ import annotations

from contextlib import AsyncExitStack

from shared.azure_storage import StorageConnection
from shared.queues import POISON, SqliteQueue
from shared.queues_azure import AzureQueue

Queues = SqliteQueue | AzureQueue
"""What is a `QueueSender` and a `QueueReader`."""
QUEUES = ("run-requests", "notifications", "q-1", "q-1" + POISON)


async def empty_queues(connection: StorageConnection) -> AzureQueue:
    """`QUEUES` of an account, made and emptied."""
    azure = AzureQueue(connection)
    await azure.initialise(QUEUES)
    async with AsyncExitStack() as stack:
        service = connection.queues(stack)
        for queue in QUEUES:
            await service.get_queue_client(queue).clear_messages()
    return azure
