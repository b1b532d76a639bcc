"""Containers that blob triggers look into, and what they find there. Those of an account are in `containers_azure.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from azure.functions import InputStream, meta
from azure.functions.blob import BlobConverter

from shared.blobs import MAX_LIST, BlobReader


@dataclass(frozen=True, slots=True)
class Opened:
    """A version of a blob. `properties` are named as in the host's JSON."""

    data: bytes
    etag: str
    uri: str
    properties: dict[str, Any]
    metadata: dict[str, str]


class Container(Protocol):
    """A container as a blob trigger sees it. Methods raise `Throttled`, `Unavailable`."""

    name: str
    settles: bool
    """Whether what is written appears bit by bit, so that a version counts only once it stays as it is for a while."""

    async def versions(self, prefix: str) -> dict[str, str]:
        """The etags of all blobs whose names begin with `prefix`, by name."""
        ...

    async def open(self, name: str) -> Opened:
        """The blob as it is now. Raises `NotFound`, `TooLarge`, and `ValueError` for a name that no blob has."""
        ...


class LocalContainer:
    """A `Container` on this machine."""

    def __init__(self, name: str, blobs: BlobReader, settles: bool) -> None:
        self.name, self._blobs, self.settles = name, blobs, settles

    async def versions(self, prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        after = None
        while True:
            page = await self._blobs.list(prefix, MAX_LIST, after)
            found.update((info.name, info.etag) for info in page.items)
            if page.next is None:
                return found
            after = page.next

    async def open(self, name: str) -> Opened:
        blob = await self._blobs.get(name)
        info = blob.info
        properties = blob_properties(info.size, info.content_type, info.etag, info.modified_at)
        return Opened(blob.data, info.etag, f"local://{self.name}/{quote(name)}", properties, {})


def input_stream(container: str, name: str, blob: Opened) -> InputStream:
    """What the function receives, made by the worker's own converter of what the host sends."""
    metadata = {
        "BlobTrigger": meta.Datum(f"{container}/{name}", "string"),
        "Uri": meta.Datum(blob.uri, "string"),
        "Properties": meta.Datum(json.dumps(blob.properties), "json"),
        "Metadata": meta.Datum(json.dumps(blob.metadata), "json"),
    }
    made: InputStream = BlobConverter.decode(meta.Datum(blob.data, "bytes"), trigger_metadata=metadata)
    return made


def blob_properties(size: int, content_type: str | None, etag: str, modified: str) -> dict[str, Any]:
    """Facts of a blob, named as in the host's JSON."""
    return {"ContentLength": size, "ContentType": content_type, "ETag": f'"{etag}"', "LastModified": modified}
