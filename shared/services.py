"""What the domain works with, made once a process on first use.

Everything takes `Services` as an argument, so tests give their own; only triggers and activities call `get_services`.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.blobs import BlobStore, LocalBlobs
from shared.model_client import ModelClient
from shared.queues import QueueSender, SqliteQueue
from shared.settings import Settings, get_settings
from shared.sqlite import Database
from shared.store.port import DocumentStore
from shared.store.sqlite import SqliteStore
from shared.watcher import Watcher
from shared.web import FetchLimits


@dataclass(slots=True)
class Services:
    """The settings and the ports."""

    settings: Settings
    store: DocumentStore
    blobs: BlobStore
    queue: QueueSender
    model: ModelClient
    watcher: Watcher

    @property
    def fetch_limits(self) -> FetchLimits:
        """The bounds of a page that a run fetches."""
        settings = self.settings
        return FetchLimits(
            settings.fetch_max_bytes, settings.fetch_timeout_seconds, allow_private=settings.fetch_allow_private
        )

    async def close(self) -> None:
        """Release everything. Operations must have ended."""
        await self.watcher.close()
        await self.model.close()
        await self.store.close()


def make_services(settings: Settings) -> Services:
    """Services as `settings` ask. Call it in the event loop that will use them."""
    database = Database.open(settings.data / "truestop.db")
    store = SqliteStore(database)
    return Services(
        settings=settings,
        store=store,
        blobs=LocalBlobs(settings.data / "blobs"),
        queue=SqliteQueue(database),
        model=ModelClient(
            endpoint=settings.model_endpoint,
            api_key=settings.model_api_key,
            default_model=settings.model,
            read_timeout=settings.model_timeout_seconds,
        ),
        watcher=Watcher(store, settings.poll_seconds),
    )


_services: Services | None = None


def get_services() -> Services:
    """The process's services."""
    global _services  # noqa: PLW0603 - one a process; the Functions worker has one event loop
    if _services is None:
        _services = make_services(get_settings())
    return _services
