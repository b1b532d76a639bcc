"""The storage that queue and blob triggers listen to: the app's own, as its settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta

from devhost.bindings import Unserved
from devhost.functions import HostedFunction
from devhost.triggers.queue_options import QueueOptions
from shared.queues import QueueReader, SqliteQueue
from shared.settings import Settings, load
from shared.sqlite import Database

LOCAL_POLL = timedelta(milliseconds=250)
"""To look into a table costs microseconds, and nobody likes to wait at his own machine."""
_CONNECTIONS = ("", "storage", "azurewebjobsstorage")


class Storage:
    """Opens what listeners ask for, each once, and closes it. Use on one event loop."""

    def __init__(self, options: QueueOptions, environment: Mapping[str, str] = os.environ) -> None:
        self._options, self._environment = options, environment
        self._closing = AsyncExitStack()
        self._settings: Settings | None = None
        self._queues: QueueReader | None = None

    @property
    def settings(self) -> Settings:
        """The app's. Raises `SettingsError`."""
        if self._settings is None:
            self._settings = load(self._environment)
        return self._settings

    @property
    def is_local(self) -> bool:
        """Whether blobs and queues are in the data folder. Raises `SettingsError`."""
        return self.settings.storage == "local"

    @property
    def longest_poll(self) -> timedelta:
        """How long an idle listener waits before it looks again."""
        return (
            min(LOCAL_POLL, self._options.max_polling_interval) if self.is_local else self._options.max_polling_interval
        )

    def queues(self) -> QueueReader:
        """The app's queues. Raises `SettingsError`, `Unavailable`."""
        if self._queues is None:
            self._queues = self._open_queues()
        return self._queues

    async def close(self) -> None:
        """Close what was opened. Idempotent."""
        await self._closing.aclose()

    def _open_queues(self) -> QueueReader:
        if self.is_local:
            database = Database.open(self.settings.data / "truestop.db")
            self._closing.push_async_callback(database.close)
            return SqliteQueue(database)
        from shared.azure_storage import connection_from  # its SDKs take long to import
        from shared.queues_azure import AzureQueue

        queues = AzureQueue(connection_from(self._environment), self._options.encoded)
        self._closing.push_async_callback(queues.close)
        return queues


def check_connection(function: HostedFunction, connection: str | None) -> None:
    """Raises `Unserved` unless a trigger's `connection` is the app's own storage."""
    if (connection or "").lower() not in _CONNECTIONS:
        raise Unserved(function.name, f"the connection {connection!r} (AzureWebJobsStorage is served)")
