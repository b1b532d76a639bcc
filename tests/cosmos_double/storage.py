"""What the double stores: containers with documents, their history, and batches that apply whole or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cosmos_double.patching import BadPatch, allowed, patched
from tests.cosmos_double.sql import BadQuery

MAX_BYTES = 2 * 1024 * 1024
MAX_BATCH = 100
Key = tuple[str, ...]
Body = dict[str, Any]


@dataclass(slots=True)
class Item:
    """A document's versions, each from a sequence number on; None is its absence."""

    rid: int
    versions: list[tuple[int, Body | None]] = field(default_factory=list)
    order: tuple[int, int] = (0, 0)
    """Of its last change: the sequence number, and the place in its transaction."""
    expires: float | None = None

    def at(self, lsn: int) -> Body | None:
        """The version that a reader who is at `lsn` sees."""
        return next((body for since, body in reversed(self.versions) if since <= lsn), None)


@dataclass(slots=True)
class Result:
    """Of one operation."""

    status: int
    body: Body | None = None
    message: str = ""


class Container:
    """A container with a hierarchical partition key."""

    def __init__(self, definition: Body, rid: str, clock: Callable[[], float]) -> None:
        self.definition, self.rid, self.clock = definition, rid, clock
        self.fields: list[str] = [path.lstrip("/") for path in definition["partitionKey"]["paths"]]
        self._items: dict[Key, dict[str, Item]] = {}
        """By partition and id."""
        self.lsn = 0
        self._rids = 0
        self._etags = 0

    def read(self, key: Key, document_id: str, lsn: int) -> Body | None:
        """The document as a reader at `lsn` sees it."""
        item = self._item(key, document_id)
        return None if item is None or self._expired(item) else item.at(lsn)

    def documents(self, lsn: int, mine: Callable[[Key], bool]) -> list[tuple[Item, Body]]:
        """The documents of those partitions, in the order of their creation."""
        items = [item for key, items in self._items.items() if mine(key) for item in items.values()]
        found = [(item, item.at(lsn)) for item in items if not self._expired(item)]
        return sorted(((i, b) for i, b in found if b is not None), key=lambda one: one[0].rid)

    def changed(self, lsn: int, since: int, mine: Callable[[Key], bool]) -> list[tuple[Item, Body]]:
        """Those that changed after `since`, in the order of their last change."""
        found = [one for one in self.documents(lsn, mine) if since < one[0].order[0] <= lsn]
        return sorted(found, key=lambda one: one[0].order)

    def _item(self, key: Key, document_id: str) -> Item | None:
        return self._items.get(key, {}).get(document_id)

    def apply(self, key: Key, operations: Sequence[Mapping[str, Any]]) -> list[Result]:
        """A transaction: all operations, or none. Answers each one's result; 424 for those that another one undid."""
        staged: dict[str, tuple[Item, Body | None]] = {}
        results: list[Result] = []
        for operation in operations:
            result = self._stage(key, operation, staged)
            results.append(result)
            if result.status >= 400:
                undone = [Result(424) for _ in operations]
                undone[len(results) - 1] = result
                return undone
        if staged:
            self.lsn += 1
            for place, (document_id, (item, body)) in enumerate(staged.items()):
                item.versions.append((self.lsn, body))
                item.order = (self.lsn, place)
                item.expires = self._expiry(body)
                self._items.setdefault(key, {})[document_id] = item
        return results

    def _stage(self, key: Key, operation: Mapping[str, Any], staged: dict[str, tuple[Item, Body | None]]) -> Result:
        kind = operation.get("operationType")
        given = operation.get("resourceBody")
        document_id = operation["id"] if "id" in operation else (given or {}).get("id")
        if not isinstance(document_id, str) or not document_id or any(sign in document_id for sign in "/\\#?"):
            return Result(400, message="bad id")
        before = staged[document_id][1] if document_id in staged else self.read(key, document_id, self.lsn)
        if kind == "Create" and before is not None:
            return Result(409, message="Entity with the specified id already exists in the system.")
        if kind not in ("Create", "Upsert") and before is None:
            return Result(404, message="Entity with the specified id does not exist in the system.")
        if before is not None and operation.get("ifMatch") not in (None, "*", before["_etag"]) and kind != "Read":
            return Result(412, message="One of the specified pre-condition is not met.")
        if kind == "Read":  # a condition on it is not enforced in a batch: azure-cosmos-dotnet-v3 issue 1581
            return Result(200, copy.deepcopy(before))
        if kind == "Delete":
            self._put(key, document_id, None, staged)
            return Result(204)
        if kind == "Patch":
            assert before is not None
            return self._patch(key, document_id, before, given or {}, staged)
        if kind not in ("Create", "Upsert", "Replace") or not isinstance(given, dict):
            return Result(400, message=f"unknown operation {kind!r}")
        return self._write(key, document_id, before, given, staged)

    def _patch(
        self, key: Key, document_id: str, before: Body, given: Body, staged: dict[str, tuple[Item, Body | None]]
    ) -> Result:
        try:
            if not allowed(before, given.get("condition")):
                return Result(412, message="One of the specified pre-condition is not met.")
            after = patched(before, given["operations"], self.fields)
        except (BadPatch, BadQuery) as error:
            return Result(400, message=str(error))
        return self._write(key, document_id, before, after, staged)

    def _write(
        self, key: Key, document_id: str, before: Body | None, given: Body, staged: dict[str, tuple[Item, Body | None]]
    ) -> Result:
        body = {name: value for name, value in given.items() if name not in _SYSTEM}
        if body.get("id") != document_id:
            return Result(400, message="the id can't change")
        if tuple(body.get(name) for name in self.fields) != key:
            return Result(400, message="PartitionKey extracted from document doesn't match the one in the header")
        if "defaultTtl" in self.definition and not _is_ttl(body.get("ttl", -1)):
            return Result(400, message="The ttl is invalid")
        if len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_BYTES:
            return Result(413, message="Request size is too large")
        written = self._put(key, document_id, body, staged)
        return Result(200 if before is not None else 201, written)

    def _put(
        self, key: Key, document_id: str, body: Body | None, staged: dict[str, tuple[Item, Body | None]]
    ) -> Body | None:
        item = staged[document_id][0] if document_id in staged else self._item(key, document_id)
        if item is None or item.at(self.lsn) is None or self._expired(item):
            self._rids += 1
            item = Item(self._rids, [] if item is None else item.versions)
        if body is not None:
            self._etags += 1
            body |= {"_rid": f"{self.rid}{item.rid}", "_self": f"dbs/db/colls/{self.rid}/docs/{item.rid}/"}
            body |= {"_etag": f'"{self._etags:08x}-0000"', "_attachments": "attachments/", "_ts": int(self.clock())}
        staged.pop(document_id, None)  # a document is in the feed where it was written last
        staged[document_id] = (item, copy.deepcopy(body))
        return body

    def _expired(self, item: Item) -> bool:
        return item.expires is not None and self.clock() >= item.expires

    def _expiry(self, body: Body | None) -> float | None:
        if body is None or "defaultTtl" not in self.definition:
            return None
        seconds = body.get("ttl", self.definition["defaultTtl"])
        return None if seconds in (None, -1) else self.clock() + seconds


_SYSTEM = frozenset({"_rid", "_self", "_etag", "_ts", "_attachments"})


def _is_ttl(value: object) -> bool:
    return value is None or (
        isinstance(value, int) and not isinstance(value, bool) and (value == -1 or 0 < value < 2**31)
    )
