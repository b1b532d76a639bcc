"""Where what is too large for a document lives: source files, texts, outputs, artifacts. A port, and files on a disk."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from shared.errors import NotFound, TooLarge, Unavailable

MAX_NAME = 900
"""UTF-16 code units, which is what Azure counts; its own limit is 1024."""
MAX_PARTS = 250
MAX_BLOB = 100 * 1024 * 1024
MAX_LIST = 1000
UNKNOWN_TYPE = "application/octet-stream"
# Control characters, halves of surrogate pairs, private use, no character at all: Azure, a URL or XML can't carry them.
_REFUSED = re.compile(
    "[\x00-\x1f\x7f-\x9f\\\\\ud800-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U0001fffe\U0001ffff\U000e1000-\U0010ffff]"
)
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]{1,200}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-.,=()\x80-\U0010ffff]")
_ENCODED = re.compile("%([0-9A-F]{2})")
_PIECE = 200
_MOVE_TRIES = 100
_PUT_TAKES_AT_MOST = 3600.0


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is known of a blob without its bytes: `size` in bytes, `etag` of this version, `modified_at` RFC 3339 UTC."""

    name: str
    size: int
    etag: str
    content_type: str
    modified_at: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of one version: facts and bytes belong together."""

    info: BlobInfo
    data: bytes


@dataclass(frozen=True, slots=True)
class BlobPage:
    """Some blobs in order of their names; `next` is the token for what follows, None at the end."""

    items: list[BlobInfo]
    next: str | None


class BlobReader(Protocol):
    """Named byte strings that may be read. Names are `/`-separated paths (see `check_blob_name`).

    Every method may raise `Throttled` and `Unavailable`, and `ValueError` for a name or token that can't be.
    """

    async def get(self, name: str) -> Blob:
        """Facts and bytes. Raises `NotFound`; `TooLarge` for what others put there."""
        ...

    async def info(self, name: str) -> BlobInfo:
        """Facts. Raises `NotFound`."""
        ...

    async def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> BlobPage:
        """Blobs whose name begins with `prefix` (any text), in order of code points; `limit` is 1 to 1000.

        Paging sees once each blob that is there all the while. (Azure doesn't say how it orders characters above U+FFFF.)
        """
        ...

    async def close(self) -> None:
        """Release what the store holds. Idempotent."""
        ...


class BlobStore(BlobReader, Protocol):
    """Named byte strings. A put is whole or not at all, durable when it returns; of two at once the last one stays."""

    async def put(self, name: str, data: bytes, content_type: str) -> BlobInfo:
        """Create or replace; the content type as `content_type_to_keep` says. Raises `TooLarge`."""
        ...

    async def delete(self, name: str) -> None:
        """Delete, if it exists."""
        ...

    async def tidy(self) -> None:
        """Remove what processes left that died in a put, and that nobody can see. Safe at any time."""
        ...


def check_blob_name(name: str) -> None:
    """Raise `ValueError` unless this is a blob's name, here and in Azure.

    1 to 900 characters (one above U+FFFF counts twice), at most 250 parts, none of them empty or ending with a dot, which
    Azure would drop; no control or private use character, no backslash.
    """
    length = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if not 1 <= length <= MAX_NAME:
        raise ValueError(f"a blob name has 1 to {MAX_NAME} characters, not {length}")
    if _REFUSED.search(name):
        raise ValueError(f"blob name {name!r} holds a control character, a backslash, or no character at all")
    parts = name.split("/")
    if len(parts) > MAX_PARTS:
        raise ValueError(f"blob name {name!r} has {len(parts)} parts; the most is {MAX_PARTS}")
    if any(not part or part.endswith(".") for part in parts):
        raise ValueError(f"blob name {name!r} has a part that is empty or ends with a dot")


def can_begin_a_name(prefix: str) -> bool:
    """Whether any blob's name may begin with `prefix`. A store that isn't ours need not be asked otherwise."""
    return len(prefix) <= MAX_NAME and not _REFUSED.search(prefix) and not prefix.startswith("/") and "//" not in prefix


def content_type_to_keep(content_type: str) -> str:
    """`content_type` if it can be a header (1 to 200 printable ASCII characters), else that of unknown bytes."""
    return content_type if _CONTENT_TYPE.fullmatch(content_type) else UNKNOWN_TYPE


def check_limit(limit: int) -> None:
    """Raise `ValueError` unless a page may have so many blobs."""
    if not 1 <= limit <= MAX_LIST:
        raise ValueError(f"limit is 1 to {MAX_LIST}, not {limit}")


class LocalBlobs:
    """`BlobStore` in a directory that several processes may share.

    A file holds a line of JSON with the facts and then the bytes, so that one rename replaces both. It is found at the
    blob's name, with what a file system might mind percent-encoded, and `@` at its end, because a blob may be called as
    another one's directory is. File systems limit names to 255 bytes: longer ones go on in a directory that ends in `+`.
    """

    def __init__(self, directory: Path, max_bytes: int = MAX_BLOB) -> None:
        self._root, self._max_bytes = directory, max_bytes

    async def put(self, name: str, data: bytes, content_type: str) -> BlobInfo:
        check_blob_name(name)
        if len(data) > self._max_bytes:
            raise TooLarge(f"bytes in blob {name!r}", len(data), self._max_bytes)
        modified_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        info = BlobInfo(name, len(data), uuid.uuid4().hex, content_type_to_keep(content_type), modified_at)
        await asyncio.to_thread(self._write, info, data)
        return info

    async def get(self, name: str) -> Blob:
        check_blob_name(name)
        return await asyncio.to_thread(self._read, name, True)

    async def info(self, name: str) -> BlobInfo:
        check_blob_name(name)
        return (await asyncio.to_thread(self._read, name, False)).info

    async def delete(self, name: str) -> None:
        check_blob_name(name)
        await asyncio.to_thread(self._delete, name)

    async def tidy(self) -> None:
        await asyncio.to_thread(self._tidy)

    async def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> BlobPage:
        check_limit(limit)
        last = "" if after is None else read_page_token(after)
        if not can_begin_a_name(prefix):
            return BlobPage([], None)
        return await asyncio.to_thread(self._list, prefix, limit, last)

    async def close(self) -> None:
        """Nothing is held."""

    def _write(self, info: BlobInfo, data: bytes) -> None:
        facts = {"etag": info.etag, "content_type": info.content_type, "modified_at": info.modified_at}
        target = self._path(info.name)
        temporary = self._root / ".tmp" / info.etag
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(json.dumps(facts).encode() + b"\n")
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _move(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(str(error)) from error

    def _read(self, name: str, with_data: bool) -> Blob:
        try:
            with self._path(name).open("rb") as file:
                info = _read_facts(file, name)
                return Blob(info, file.read() if with_data else b"")
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(name) from None
        except OSError as error:
            raise Unavailable(str(error)) from error

    def _delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise Unavailable(str(error)) from error
        try:
            for directory in path.parents:
                if directory == self._root:
                    break
                directory.rmdir()
        except OSError:
            pass  # not empty, or gone already

    def _tidy(self) -> None:
        before = time.time() - _PUT_TAKES_AT_MOST
        try:
            for file in (self._root / ".tmp").iterdir():
                if file.stat().st_mtime < before:
                    file.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # there is none, or another process is at it too
        except OSError as error:
            raise Unavailable(str(error)) from error

    def _list(self, prefix: str, limit: int, last: str) -> BlobPage:
        top = self._root.joinpath(*_pieces(prefix.split("/")[:-1]))
        names = sorted(name for name in self._names(top) if name.startswith(prefix))
        items: list[BlobInfo] = []
        for name in names[bisect_right(names, last) :]:
            if len(items) == limit:
                return BlobPage(items, page_token(items[-1].name))
            try:
                items.append(self._read(name, False).info)
            except NotFound:
                pass  # deleted since
        return BlobPage(items, None)

    def _names(self, top: Path) -> Iterator[str]:
        for directory, _, files in os.walk(top):
            parts = Path(directory).relative_to(self._root).parts
            yield from (_name((*parts, file[:-1])) for file in files if file.endswith("@"))

    def _path(self, name: str) -> Path:
        *above, file = _pieces(name.split("/"))
        return self._root.joinpath(*above, file + "@")


def _pieces(parts: Sequence[str]) -> list[str]:
    """The parts of a name as file names. None begins with a dot, ends in `@`, or is over `_PIECE` bytes and a little."""
    pieces: list[str] = []
    for part in parts:
        rest = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part).encode()
        while len(rest) > _PIECE:
            piece = rest[:_PIECE].decode(errors="ignore")
            pieces.append(f"{piece}+")
            rest = rest[len(piece.encode()) :]
        pieces.append(rest.decode())
    return [f"%2E{piece[1:]}" if piece.startswith(".") else piece for piece in pieces]


def _name(pieces: Sequence[str]) -> str:
    joined = "/".join(pieces).replace("+/", "")
    return _ENCODED.sub(lambda match: chr(int(match[1], 16)), joined)


def _move(temporary: Path, target: Path) -> None:
    for _ in range(_MOVE_TRIES):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
            break
        except (FileNotFoundError, FileExistsError):
            pass  # a delete took the directory away, as it was empty (the latter: just after mkdir had found it there)
    else:
        raise FileNotFoundError(f"{target.parent} can't be made, or keeps vanishing")
    if os.name == "posix":  # a rename is durable once the directory is
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_facts(file: BinaryIO, name: str) -> BlobInfo:
    line = file.readline()
    size = os.fstat(file.fileno()).st_size - len(line)
    try:
        facts = json.loads(line)
        return BlobInfo(name, size, facts["etag"], facts["content_type"], facts["modified_at"])
    except (ValueError, TypeError, KeyError):
        raise Unavailable(f"the file of blob {name!r} is damaged") from None


def page_token(name: str) -> str:
    """The token of the page after the blob `name`, where names are in order."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def read_page_token(token: str) -> str:
    """The name in a `page_token`. Raises `ValueError` for anything else."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise ValueError("not a page token of this blob store") from None
