"""The storage that queue and blob triggers listen to: the app's own, as its settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from devhost.bindings import Unserved
from devhost.functions import HostedFunction
from devhost.triggers.containers import Container, LocalContainer
from devhost.triggers.queue_options import QueueOptions
from shared.blobs import LocalBlobs
from shared.folder_blobs import FolderBlobs, container_folder
from shared.queues import SqliteQueue
from shared.settings import Settings, load
from shared.sqlite import Database

if TYPE_CHECKING:  # the SDKs take long to import
    from shared.azure_storage import StorageConnection
    from shared.queues_azure import AzureQueue

LOCAL_POLL = timedelta(milliseconds=250)
"""To look into a table costs microseconds, and nobody likes to wait at his own machine."""
LOCAL_SCAN_SECONDS = 1.0
ACCOUNT_SCAN_SECONDS = 3.0
_CONNECTIONS = ("", "storage", "azurewebjobsstorage")


class Storage:
    """Opens what listeners ask for, each once, and closes it. Use on one event loop."""

    def __init__(self, options: QueueOptions, environment: Mapping[str, str] = os.environ) -> None:
        self._options, self._environment = options, environment
        self._closing = AsyncExitStack()
        self._settings: Settings | None = None
        self._queues: SqliteQueue | AzureQueue | None = None
        self._connection: StorageConnection | None = None

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

    @property
    def scan_seconds(self) -> float:
        """How long a blob listener waits before it looks again. Raises `SettingsError`."""
        return LOCAL_SCAN_SECONDS if self.is_local else ACCOUNT_SCAN_SECONDS

    def queues(self) -> SqliteQueue | AzureQueue:
        """The app's queues. Raises `SettingsError`, `Unavailable`."""
        if self._queues is None:
            self._queues = self._open_queues()
        return self._queues

    async def make_queue(self, name: str) -> None:
        """Make a queue of the host's own, if it isn't there. Raises `StoreError`."""
        queues = self.queues()
        if not isinstance(queues, SqliteQueue):
            await queues.initialise([name])

    def container(self, name: str) -> Container:
        """A container: on this machine the app's own, or a folder of plain files. Raises `SettingsError`."""
        settings = self.settings
        if not self.is_local:
            from devhost.triggers.containers_azure import AzureContainer

            return AzureContainer(name, self._account(), self._closing)
        if name == settings.blob_container:
            return LocalContainer(name, LocalBlobs(settings.data / "blobs"), settles=False)
        return LocalContainer(name, FolderBlobs(container_folder(settings.data, name)), settles=True)

    async def close(self) -> None:
        """Close what was opened. Idempotent."""
        await self._closing.aclose()

    def _open_queues(self) -> SqliteQueue | AzureQueue:
        if self.is_local:
            database = Database.open(self.settings.data / "truestop.db")
            self._closing.push_async_callback(database.close)
            return SqliteQueue(database)
        from shared.queues_azure import AzureQueue

        queues = AzureQueue(self._account(), self._options.encoded)
        self._closing.push_async_callback(queues.close)
        return queues

    def _account(self) -> StorageConnection:
        from shared.azure_storage import connection_from

        if self._connection is None:
            self._connection = connection_from(self._environment)
        return self._connection


def check_connection(function: HostedFunction, connection: str | None) -> None:
    """Raises `Unserved` unless a trigger's `connection` is the app's own storage."""
    if (connection or "").lower() not in _CONNECTIONS:
        raise Unserved(function.name, f"the connection {connection!r} (AzureWebJobsStorage is served)")
