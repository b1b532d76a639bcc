"""What every document store refuses before it asks its database, so that all of them refuse the same.

The numbers and the characters are those of Cosmos DB: what works on a laptop must not fail in Azure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from shared.errors import TooLarge
from shared.jsontext import dumps, refuse_nan
from shared.store.port import MAX_BYTES, MAX_CHANGES, MAX_OPERATIONS, Create, Document, Op, Partition, Patch, Replace

MAX_ID = 255
PARTITION_FIELDS = ("scope", "workflow_id")
_FIXED_FIELDS = frozenset({"id", "type", *PARTITION_FIELDS})
_BAD_IN_ID = re.compile(r"[/\\#?\x00-\x1f\x7f]")
_BAD_IN_FIELD = re.compile(r'["\\\x00-\x1f\x7f]')


def check_transaction(partition: Partition, ops: Sequence[Op]) -> list[str | None]:
    """Refuse a transaction that no store takes. Answers, for each create and replace, the JSON text to store.

    Raises `TooLarge`; `ValueError` for an id, field name, partition or document that is not storable; `TypeError` for
    a value that JSON doesn't have.
    """
    check_partition(partition)
    if len(ops) > MAX_OPERATIONS:
        raise TooLarge("operations in a transaction", len(ops), MAX_OPERATIONS)
    texts: list[str | None] = []
    size = 0
    for op in ops:
        text = None
        if isinstance(op, (Create, Replace)):
            refuse_nan(op.document)
            text = document_text(stored_document(partition, op.document))
            size += utf8_size(text)
        else:
            check_id(op.id)
            if isinstance(op, Patch):
                size += utf8_size(_check_patch(op))
        if not isinstance(op, Create):
            for condition in op.when:
                field_parts(condition.field)
        texts.append(text)
    if size > MAX_BYTES:
        raise TooLarge("bytes in a transaction", size, MAX_BYTES)
    return texts


def stored_document(partition: Partition, document: Mapping[str, Any]) -> Document:
    """The document without store-owned keys and with its partition's fields, which Cosmos needs inside it."""
    check_id(document.get("id"))
    if not isinstance(document.get("type"), str):
        raise ValueError(f"document {document['id']!r} has no string 'type'")
    stored = {key: value for key, value in document.items() if not key.startswith("_")}
    for field, value in zip(PARTITION_FIELDS, partition, strict=True):
        if stored.setdefault(field, value) != value:
            raise ValueError(f"document {document['id']!r} says {field} {stored[field]!r}, its partition {value!r}")
    return stored


def document_text(document: Document) -> str:
    """The document as JSON text. Raises `TooLarge` over 2 MB of UTF-8."""
    text = dumps(document)
    size = utf8_size(text)
    if size > MAX_BYTES:
        raise TooLarge(f"bytes in document {document['id']!r}", size, MAX_BYTES)
    return text


def utf8_size(text: str) -> int:
    """The length in bytes of UTF-8. Raises `ValueError` for text with half a surrogate pair."""
    return len(text) if text.isascii() else len(text.encode())


def check_id(document_id: object) -> None:
    """Raise `ValueError` unless this can be a document's id."""
    if not isinstance(document_id, str) or not document_id or len(document_id) > MAX_ID:
        raise ValueError(f"a document id is a string of 1 to {MAX_ID} characters, not {document_id!r:.300}")
    if _BAD_IN_ID.search(document_id):
        raise ValueError(f"document id {document_id!r} holds a control character or one of / \\ # ?")


def check_partition(partition: Partition) -> None:
    """Raise `ValueError` unless both parts are strings that say something."""
    for part in partition:
        if not isinstance(part, str) or not part:
            raise ValueError(f"a partition is two non-empty strings, not {tuple(partition)!r}")


@lru_cache(maxsize=4096)
def field_parts(field: str) -> tuple[str, ...]:
    """The names along a dotted path. Raises `ValueError` for empty ones, quotes, backslashes, control characters."""
    parts = tuple(field.split("."))
    if not all(parts) or _BAD_IN_FIELD.search(field):
        raise ValueError(f"{field!r} is not a path of field names")
    return parts


def _check_patch(patch: Patch) -> str:
    changes = len(patch.set) + len(patch.increment) + len(patch.append)
    if changes > MAX_CHANGES:
        raise TooLarge(f"changes in the patch of {patch.id!r}", changes, MAX_CHANGES)
    for field in (*patch.set, *patch.increment, *patch.append):
        parts = field_parts(field)
        # Cosmos reads a patch's path as JSON Pointer: such a part would be an array's index, or an escape.
        if any(part.isdigit() or part == "-" or "/" in part or "~" in part for part in parts):
            raise ValueError(f"field {field!r} of document {patch.id!r} can't be patched")
        if parts[0].startswith("_") or field in _FIXED_FIELDS:
            raise ValueError(f"field {field!r} of document {patch.id!r} can't be patched")
    content = [dict(patch.set), dict(patch.increment), dict(patch.append)]
    refuse_nan(content)
    return dumps(content)
