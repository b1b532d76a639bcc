"""The blob store in an Azure Storage container."""

from __future__ import annotations

import base64
import binascii
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobProperties, ContentSettings

from shared.azure_storage import StorageConnection, made_already, translated
from shared.blobs import (
    MAX_BLOB,
    UNKNOWN_TYPE,
    Blob,
    BlobInfo,
    BlobPage,
    can_begin_a_name,
    check_blob_name,
    check_limit,
    content_type_to_keep,
)
from shared.errors import NotFound, TooLarge
from shared.ids import to_text

_TOKEN = b"azure:"
_Page = tuple[list[BlobInfo], str | None]


class _TokenRefused(Exception):
    """The service doesn't know a marker, though it has the form of ours."""


class AzureBlobs:
    """`BlobStore` in `container`, whose names are ours as they are. One a process; it belongs to one event loop.

    A put is one request however large, so it is whole or not at all, and the SDK may repeat it when the answer is lost. A
    get is one request too, so facts and bytes are of one version.
    """

    def __init__(self, connection: StorageConnection, container: str, max_bytes: int = MAX_BLOB) -> None:
        """Connects to nothing yet. Raises `SettingsError`."""
        self._setting, self._max_bytes, self._name = connection.setting, max_bytes, container
        self._closing = AsyncExitStack()
        service = connection.blobs(self._closing, max_single_put_size=MAX_BLOB, max_single_get_size=MAX_BLOB)
        self._container = service.get_container_client(container)

    async def initialise(self) -> None:
        """Make the container if it isn't there. Idempotent. Raises `Unavailable`."""
        async with translated(self._setting, self._name):
            with made_already():
                await self._container.create_container()

    async def put(self, name: str, data: bytes, content_type: str) -> BlobInfo:
        check_blob_name(name)
        content_type = content_type_to_keep(content_type)
        if len(data) > self._max_bytes:
            raise TooLarge(f"bytes in blob {name!r}", len(data), self._max_bytes)
        settings = ContentSettings(content_type=content_type)
        async with translated(self._setting, name):
            blob = self._container.get_blob_client(name)
            answer = await blob.upload_blob(data, length=len(data), overwrite=True, content_settings=settings)
        return _info(name, len(data), answer["etag"], content_type, answer["last_modified"])

    async def get(self, name: str) -> Blob:
        check_blob_name(name)
        async with translated(self._setting, name):
            download = await self._container.get_blob_client(name).download_blob()
            info = _info_of(download.properties, name)
            if info.size > self._max_bytes:  # put there by someone else
                raise TooLarge(f"bytes in blob {name!r}", info.size, self._max_bytes)
            return Blob(info, await download.readall())

    async def info(self, name: str) -> BlobInfo:
        check_blob_name(name)
        async with translated(self._setting, name):
            return _info_of(await self._container.get_blob_client(name).get_blob_properties(), name)

    async def delete(self, name: str) -> None:
        check_blob_name(name)
        try:
            async with translated(self._setting, name):
                await self._container.get_blob_client(name).delete_blob(delete_snapshots="include")
        except NotFound:
            pass

    async def tidy(self) -> None:
        """Nothing: the service itself drops blocks that no put committed, after a week."""

    async def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> BlobPage:
        check_limit(limit)
        marker = None if after is None else _read_token(after)
        items: list[BlobInfo] = []
        if not can_begin_a_name(prefix):
            return BlobPage(items, None)
        while True:  # the service may answer fewer than asked for, even none, and still have more
            page, marker = await self._page(prefix, limit - len(items), marker)
            items += page
            if not marker or len(items) >= limit:
                return BlobPage(items, _token(marker) if marker else None)

    async def _page(self, prefix: str, limit: int, marker: str | None) -> _Page:
        try:
            async with translated(self._setting, self._name):
                return await self._ask_page(prefix, limit, marker)
        except _TokenRefused:
            raise ValueError("not a page token of this blob store") from None

    async def _ask_page(self, prefix: str, limit: int, marker: str | None) -> _Page:
        pages: Any = self._container.list_blobs(name_starts_with=prefix, results_per_page=limit).by_page(marker)
        try:
            async for page in pages:
                found = [_info_of(blob, blob.name) async for blob in page if _is_ours(blob.name)]
                return found, pages.continuation_token
        except HttpResponseError as error:
            if marker is not None and error.status_code == 400:
                raise _TokenRefused from None
            raise
        return [], None

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._closing.aclose()


def _info_of(blob: BlobProperties, name: str) -> BlobInfo:
    properties: Any = blob  # whose own types say less than is so
    return _info(
        name, properties.size, properties.etag, properties.content_settings.content_type, properties.last_modified
    )


def _info(name: str, size: int, etag: str, content_type: str | None, modified: datetime) -> BlobInfo:
    """The service quotes an etag in headers and not in lists."""
    return BlobInfo(name, size, etag.strip('"'), content_type or UNKNOWN_TYPE, to_text(modified))


def _is_ours(name: str) -> bool:
    """Others may put what no `get` of ours could name."""
    try:
        check_blob_name(name)
    except ValueError:
        return False
    return True


def _token(marker: str) -> str:
    return base64.urlsafe_b64encode(_TOKEN + marker.encode()).decode()


def _read_token(token: str) -> str:
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True)
        if text.startswith(_TOKEN):
            return text.removeprefix(_TOKEN).decode()
    except (binascii.Error, ValueError):
        pass
    raise ValueError("not a page token of this blob store")
