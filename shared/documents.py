"""A scope's documents: named files in blobs, and their text.

A scope sees only what is below its own prefix, so a name that could climb out of it is refused here, once, for every
caller: the HTTP API, the steps and the tools that a model drives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shared.blobs import Blob, BlobInfo, BlobPage, BlobStore, check_blob_name
from shared.cancellation import checkpoint_if_run, run_blocking
from shared.errors import NotFound, StepFailed
from shared.extract import MAX_INPUT_BYTES, extract_text

MAX_NAME = 300
PAGE = 500


def validate_name(name: str) -> str:
    """Answer `name` if it may name a document: 1 to 300 characters, `/` between parts. Else `ValueError` says why."""
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"a document's name has 1 to {MAX_NAME} characters, this one has {len(name)}")
    if "\\" in name:
        raise ValueError(f"{name!r}: parts of a document's name are separated by '/', not by a backslash")
    if any(ord(c) < 32 or 0x7F <= ord(c) <= 0x9F or 0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise ValueError(f"{name!r} holds a control character or half of a surrogate pair")
    for part in name.split("/"):
        if not part:
            raise ValueError(f"{name!r} begins or ends with '/', or has '//' in it")
        if part.endswith("."):  # covers '.' and '..'; Azure refuses a part that ends so
            raise ValueError(f"{name!r}: no part of a document's name may be '.' or '..' or end with a dot")
    check_blob_name(name)
    return name


def prefix_of(scope: str) -> str:
    """What the names of a scope's document blobs begin with."""
    return f"documents/{scope}/"


class Documents:
    """The documents of one scope (`user:{oid}` or `group:{gid}`), by their names within it.

    `check` is called on entry of each method and raises once nothing may be done any more. What is given to a tool has its
    operation's own, because a thread that a tool starts has no current run.
    """

    def __init__(self, blobs: BlobStore, scope: str, check: Callable[[], None] = checkpoint_if_run) -> None:
        if not scope or "/" in scope:
            raise ValueError(f"{scope!r} is not a scope: with a '/' it could reach into another one's documents")
        self._blobs, self._check = blobs, check
        self._root = prefix_of(scope)

    async def put(self, name: str, data: bytes, content_type: str) -> BlobInfo:
        """Create or overwrite a document. Raises `ValueError` (name), `StepFailed` `document_too_large`."""
        self._check()
        path = self._path(name)
        if len(data) > MAX_INPUT_BYTES:
            raise StepFailed("document_too_large", f"{name!r} has {len(data)} bytes; the most is {MAX_INPUT_BYTES}")
        return self._named(await self._blobs.put(path, data, content_type))

    async def get(self, name: str) -> Blob:
        """A document's bytes. Raises `ValueError` (name), `NotFound`."""
        self._check()
        path = self._path(name)
        try:
            blob = await self._blobs.get(path)
        except NotFound:
            raise NotFound(name) from None
        return replace(blob, info=self._named(blob.info))

    async def delete(self, name: str) -> None:
        """Delete a document; one that doesn't exist is none the worse. Raises `ValueError` (name)."""
        self._check()
        await self._blobs.delete(self._path(name))

    async def list(self, prefix: str = "", limit: int = 50, after: str | None = None) -> BlobPage:
        """One page of the documents whose names begin with `prefix`. Raises `ValueError` (prefix, or foreign token)."""
        self._check()
        if prefix:
            validate_name(prefix + "x")  # a prefix is what a name may begin with, so it can't climb out either
        page = await self._blobs.list(self._root + prefix, limit, after)
        return BlobPage([self._named(info) for info in page.items], page.next)

    async def names(self, prefix: str = "", at_most: int = 999) -> tuple[str, ...]:
        """All names that begin with `prefix`, in order.

        Raises `StepFailed`: `too_many_documents` over `at_most`, `document_name_invalid`.
        """
        found: list[str] = []
        after: str | None = None
        while True:
            self._check()
            try:
                page = await self.list(prefix, PAGE, after)
            except ValueError as error:
                raise StepFailed("document_name_invalid", str(error)) from None
            found.extend(info.name for info in page.items)
            if len(found) > at_most:
                raise StepFailed("too_many_documents", f"over {at_most} documents begin with {prefix!r}")
            if page.next is None:
                return tuple(found)
            after = page.next

    async def read_text(self, name: str) -> str:
        """A document's text.

        Raises `StepFailed`: `document_missing`, `document_name_invalid`, and those of `extract_text`.
        """
        self._check()
        try:
            blob = await self.get(name)
        except NotFound:
            raise StepFailed("document_missing", f"there is no document {name!r}") from None
        except ValueError as error:
            raise StepFailed("document_name_invalid", str(error)) from None
        return await run_blocking(extract_text, name, blob.data)

    def _path(self, name: str) -> str:
        return self._root + validate_name(name)

    def _named(self, info: BlobInfo) -> BlobInfo:
        return replace(info, name=info.name.removeprefix(self._root))
