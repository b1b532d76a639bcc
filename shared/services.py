"""What the domain works with, made once a process on first use.

Everything takes `Services` as an argument, so tests give their own; only triggers and activities call `get_services`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.blobs import BlobReader, BlobStore, LocalBlobs
from shared.folder_blobs import FolderBlobs, container_folder
from shared.live import LiveFeeds
from shared.model_client import ModelClient
from shared.names import CONTAINER_FILE_SYNC
from shared.queue_bodies import LargeBodies
from shared.queues import QueueSender, SqliteQueue
from shared.rate_limits import RateLimits
from shared.settings import Settings, get_settings
from shared.sqlite import Database
from shared.store.announcing import AnnouncingStore
from shared.store.port import DocumentStore
from shared.store.sqlite import SqliteStore
from shared.watcher import Watcher
from shared.web import FetchLimits

if TYPE_CHECKING:
    from shared.store.cosmos_client import CosmosAccount


@dataclass(slots=True)
class Services:
    """The settings and the ports."""

    settings: Settings
    store: DocumentStore
    blobs: BlobStore
    sources: BlobReader
    """The container that people drop files into, for File Sync."""
    queue: QueueSender
    model: ModelClient
    watcher: Watcher
    live: LiveFeeds
    limits: RateLimits
    database: Database | None
    """The file of what is local, if anything is."""

    @property
    def fetch_limits(self) -> FetchLimits:
        """The bounds of a page that a run fetches."""
        settings = self.settings
        return FetchLimits(
            settings.fetch_max_bytes, settings.fetch_timeout_seconds, allow_private=settings.fetch_allow_private
        )

    async def close(self) -> None:
        """Release everything. Operations must have ended."""
        await self.live.close()
        await self.watcher.close()
        for part in (self.model, self.queue, self.sources, self.blobs, self.store):
            await part.close()
        if self.database is not None:
            await self.database.close()


def make_services(settings: Settings) -> Services:
    """Services as `settings` ask. Call it in the event loop that will use them. Raises `SettingsError`."""
    local = settings.store == "sqlite" or settings.storage == "local"
    database = Database.open(settings.data / "truestop.db") if local else None
    live = LiveFeeds(settings.poll_seconds)
    store = AnnouncingStore(_store(settings, database), live.wake)
    blobs, sources, queue = _storage(settings, database)
    return Services(
        settings=settings,
        store=store,
        blobs=blobs,
        sources=sources,
        queue=LargeBodies(queue, blobs),
        model=ModelClient(
            endpoint=settings.model_endpoint,
            api_key=settings.model_api_key,
            default_model=settings.model,
            read_timeout=settings.model_timeout_seconds,
        ),
        watcher=Watcher(store, settings.poll_seconds),
        live=live,
        limits=RateLimits(settings.starts_per_minute, settings.cancels_per_minute),
        database=database,
    )


def cosmos_account(settings: Settings) -> CosmosAccount:
    """Where the documents are when `TRUESTOP_STORE` is `cosmos`."""
    from shared.store.cosmos_client import CosmosAccount

    assert settings.cosmos_endpoint is not None  # the settings were checked
    return CosmosAccount(
        settings.cosmos_endpoint, settings.cosmos_key, settings.cosmos_database, settings.cosmos_container
    )


def _store(settings: Settings, database: Database | None) -> DocumentStore:
    if settings.store == "sqlite":
        assert database is not None
        return SqliteStore(database)
    from shared.store.cosmos import CosmosStore  # its SDK takes long to import

    return CosmosStore(cosmos_account(settings))


def _storage(settings: Settings, database: Database | None) -> tuple[BlobStore, BlobReader, QueueSender]:
    if settings.storage == "local":
        assert database is not None
        folder = container_folder(settings.data, CONTAINER_FILE_SYNC)
        return LocalBlobs(settings.data / "blobs"), FolderBlobs(folder), SqliteQueue(database)
    from shared.azure_storage import connection_from  # its SDKs take long to import
    from shared.blobs_azure import AzureBlobs
    from shared.queues_azure import AzureQueue

    connection = connection_from(os.environ)
    blobs, sources = AzureBlobs(connection, settings.blob_container), AzureBlobs(connection, CONTAINER_FILE_SYNC)
    return blobs, sources, AzureQueue(connection)


_services: Services | None = None


def get_services() -> Services:
    """The process's services."""
    global _services  # noqa: PLW0603 - one a process; the Functions worker has one event loop
    if _services is None:
        _services = make_services(get_settings())
    return _services
