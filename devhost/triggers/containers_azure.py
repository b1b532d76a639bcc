"""Containers of a storage account, as blob triggers see them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from devhost.triggers.containers import Opened, blob_properties
from shared.azure_storage import StorageConnection, translated
from shared.blobs import MAX_BLOB
from shared.errors import TooLarge


class AzureContainer:
    """A `Container` of an account, with whatever names others gave."""

    settles = False

    def __init__(self, name: str, connection: StorageConnection, closing: AsyncExitStack) -> None:
        """Connects to nothing yet. `closing` closes it. Raises `SettingsError`."""
        self.name, self._setting = name, connection.setting
        self._client = connection.blobs(closing).get_container_client(name)

    async def versions(self, prefix: str) -> dict[str, str]:
        async with translated(self._setting, self.name):
            listed = self._client.list_blobs(name_starts_with=prefix)
            return {str(blob.name): _unquoted(blob.etag) async for blob in listed}

    async def open(self, name: str) -> Opened:
        async with translated(self._setting, name):
            client = self._client.get_blob_client(name)
            download = await client.download_blob()
            found: Any = download.properties
            if found.size > MAX_BLOB:
                raise TooLarge(f"bytes in blob {name!r}", found.size, MAX_BLOB)
            data, etag = await download.readall(), _unquoted(found.etag)
        properties = blob_properties(
            found.size, found.content_settings.content_type, etag, found.last_modified.isoformat()
        )
        return Opened(data, etag, client.url, properties, dict(found.metadata or {}))


def _unquoted(etag: Any) -> str:
    """The service quotes an etag in headers and not in lists."""
    return str(etag).strip('"')
