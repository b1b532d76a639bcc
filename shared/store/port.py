"""The document store that the domain may use, as a port. `sqlite.py` and `cosmos.py` implement it.

Documents are JSON objects with a string `id` and `type`. They live in a *partition* `(scope, workflow_id)`; all that must
change together is in one partition and changes in one `transact`. What a store returns also has `_etag`, which changes with
every write. Keys that begin with `_` belong to the store: it sets them, and ignores them in what it is given.

Field names are dotted paths (`cancel.observed_at`). A missing field compares as None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

Document = dict[str, Any]
Scalar = str | int | float | bool | None

MAX_OPERATIONS = 100
MAX_CHANGES = 10
MAX_BYTES = 2 * 1024 * 1024
MAX_PAGE = 1000


class Partition(NamedTuple):
    """A logical partition: `scope` is `user:{oid}` or `group:{gid}`."""

    scope: str
    workflow_id: str


@dataclass(frozen=True, slots=True)
class FieldIn:
    """Holds when the field's value is one of `values`."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class HoldsNone:
    """Holds when the field, an array (or missing), holds none of `values`."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class HoldsOne:
    """Query only. Holds when the field is an array that holds `value`."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Query only. Holds when the field compares so with `value`. A missing or null field never does."""

    field: str
    op: Literal["<", "<=", ">", ">="]
    value: str | int | float


@dataclass(frozen=True, slots=True)
class Prefix:
    """Query only. Holds when the field is a string that begins with `value` (case counts)."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Contains:
    """Query only. Holds when the field is a string that contains `value` (case is ignored)."""

    field: str
    value: str


Condition = FieldIn | HoldsNone
Filter = FieldIn | HoldsNone | HoldsOne | Compare | Prefix | Contains


@dataclass(frozen=True, slots=True)
class Create:
    """Create a document. `Conflict` if the id exists in the partition."""

    document: Document


@dataclass(frozen=True, slots=True)
class Replace:
    """Replace the document with this `id` whole. `NotFound`; `ConditionFailed`."""

    document: Document
    when: tuple[Condition, ...] = ()
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """Change some fields: at most 10 changes, counted over `set`, `increment` and `append`.

    `set` creates the last part of its path or overwrites it; the parts before it must be objects. `increment` adds to a
    number (a missing one counts as 0); `append` adds one value at the end of an existing array.
    """

    id: str
    set: Mapping[str, Any] = field(default_factory=dict)
    increment: Mapping[str, int] = field(default_factory=dict)
    append: Mapping[str, Any] = field(default_factory=dict)
    when: tuple[Condition, ...] = ()
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a document. `NotFound`; `ConditionFailed`."""

    id: str
    when: tuple[Condition, ...] = ()
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Change nothing; the transaction fails unless the document exists and the conditions hold."""

    id: str
    when: tuple[Condition, ...] = ()
    etag: str | None = None


Op = Create | Replace | Patch | Delete | Check


@dataclass(frozen=True, slots=True)
class Query:
    """Documents of one `type`, filtered (all filters must hold) and ordered.

    `within`: a `Partition`, a scope (str), or None for everywhere. `order_by`: a field; ties are broken by partition and id,
    in the same direction. `after`: the token of the page before. Documents without the field sort first.
    """

    type: str
    within: Partition | str | None
    where: tuple[Filter, ...] = ()
    order_by: str = "id"
    descending: bool = False
    limit: int = 50
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of documents; `next` is the token for the page after it, None when there is none."""

    items: list[Document]
    next: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Documents as they are now, in the order of their last modification after the token; `token` continues from there.

    A document that changed several times is seen at least in its last state. Deletes are not seen. `token` is never None:
    when nothing is new it is the one that was given (or one for the start of the feed). `tokens` has one for each item,
    which continues right after it.
    """

    items: list[Document]
    token: str
    tokens: list[str]


class DocumentStore(Protocol):
    """All that the domain may use. A write is durable when its call returns.

    Every method may raise `Throttled` and `Unavailable`; `ValueError` for a token that is not this store's.
    """

    async def get(self, partition: Partition, document_id: str) -> Document:
        """The document. Raises `NotFound`."""
        ...

    async def query(self, query: Query) -> Page:
        """One page of a query."""
        ...

    async def changes(self, partition: Partition, token: str | None = None, limit: int = 100) -> Changes:
        """What changed in a partition since `token` (None: from the beginning)."""
        ...

    async def position(self, partition: Partition) -> str:
        """A token for the feed's end: all that is read after it is no older, and all that is written later follows it."""
        ...

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        """Apply all operations in order, or none. Answers each one's document after it (None for a delete).

        Raises `NotFound`, `Conflict`, `ConditionFailed` with the index of the first operation that failed, and `TooLarge`.
        """
        ...

    async def close(self) -> None:
        """Release what the store holds. Idempotent."""
        ...
