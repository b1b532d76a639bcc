"""Plain files in a folder, read as blobs: a container of a storage account, on a development machine.

People and programs put files there with whatever they have, so a version is told by what the file system says of it.
"""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from shared.blobs import (
    MAX_BLOB,
    UNKNOWN_TYPE,
    Blob,
    BlobInfo,
    BlobPage,
    check_blob_name,
    check_limit,
    page_token,
    read_page_token,
)
from shared.errors import NotFound, TooLarge, Unavailable
from shared.ids import to_text

_READ_TRIES = 5


def container_folder(data: Path, container: str) -> Path:
    """Where `container` is on this machine."""
    return data / "containers" / container


class FolderBlobs:
    """`BlobReader` of a folder, which need not exist. Hidden files, links, and names that no blob has aren't there."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BLOB) -> None:
        self._root, self._max_bytes = directory, max_bytes

    async def get(self, name: str) -> Blob:
        check_blob_name(name)
        return await asyncio.to_thread(self._get, name)

    async def info(self, name: str) -> BlobInfo:
        check_blob_name(name)
        return await asyncio.to_thread(self._info, name)

    async def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> BlobPage:
        check_limit(limit)
        last = "" if after is None else read_page_token(after)
        return await asyncio.to_thread(self._list, prefix, limit, last)

    async def close(self) -> None:
        """Nothing is held."""

    def _get(self, name: str) -> Blob:
        """Facts and bytes of one version: what changes while it is read is read again."""
        for _ in range(_READ_TRIES):
            before = self._info(name)
            if before.size > self._max_bytes:
                raise TooLarge(f"bytes in blob {name!r}", before.size, self._max_bytes)
            try:
                with self._root.joinpath(name).open("rb") as file:
                    data = file.read(self._max_bytes + 1)
            except FileNotFoundError:
                raise NotFound(name) from None
            except OSError as error:
                raise Unavailable(str(error)) from error
            if self._info(name) == before and len(data) == before.size:
                return Blob(before, data)
        raise Unavailable(f"{name!r} keeps changing while it is read")

    def _info(self, name: str) -> BlobInfo:
        path = self._root.joinpath(name)
        try:
            if _is_hidden(name) or any(
                one.is_symlink() for one in (path, *path.parents) if one.is_relative_to(self._root)
            ):
                raise NotFound(name)
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(name) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NotFound(name) from None
            raise Unavailable(str(error)) from error
        if not stat.S_ISREG(found.st_mode):
            raise NotFound(name)
        etag = f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"
        modified_at = to_text(datetime.fromtimestamp(found.st_mtime, UTC))
        return BlobInfo(name, found.st_size, etag, mimetypes.guess_type(name)[0] or UNKNOWN_TYPE, modified_at)

    def _list(self, prefix: str, limit: int, last: str) -> BlobPage:
        names = sorted(name for name in self._names() if name.startswith(prefix))
        items: list[BlobInfo] = []
        for name in names[bisect_right(names, last) :]:
            if len(items) == limit:
                return BlobPage(items, page_token(items[-1].name))
            try:
                items.append(self._info(name))
            except NotFound:
                pass  # deleted since, or nothing that counts
        return BlobPage(items, None)

    def _names(self) -> Iterator[str]:
        for directory, below, files in os.walk(self._root):
            below[:] = [one for one in below if not one.startswith(".")]
            for file in files:
                name = Path(directory, file).relative_to(self._root).as_posix()
                try:
                    check_blob_name(name)
                except ValueError:
                    continue
                yield name


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
