"""The document store on SQLite: JSON text in one table, with the conditions and patches evaluated inside the write."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from shared.errors import ConditionFailed, Conflict, NotFound
from shared.jsontext import loads
from shared.sqlite import Database
from shared.store.evaluate import apply_patch, holds
from shared.store.limits import check_id, check_partition, check_transaction, document_text
from shared.store.port import (
    MAX_PAGE,
    Changes,
    Check,
    Create,
    Delete,
    Document,
    Op,
    Page,
    Partition,
    Patch,
    Query,
    Replace,
)
from shared.store.sqlite_query import Sortable, compile_query, page_token, sortable

# `seq` numbers every write of the file, in commit order: it is the feed's position and the document's etag. Numbers are
# never used again, not even after a delete, so a reader of the feed that has seen one can go on from it. The columns
# that queries compare are declared without a type: else SQLite would convert what they are compared with.
_TABLES = """
CREATE TABLE IF NOT EXISTS store_sequence (value INTEGER NOT NULL, only INTEGER PRIMARY KEY CHECK (only = 1));
INSERT OR IGNORE INTO store_sequence VALUES (0, 1);
CREATE TABLE IF NOT EXISTS store_documents (
    key INTEGER PRIMARY KEY, scope NOT NULL, workflow_id NOT NULL, id NOT NULL,
    type NOT NULL, status, created_at, seq INTEGER NOT NULL, body TEXT NOT NULL,
    UNIQUE (id, scope, workflow_id)
);
CREATE UNIQUE INDEX IF NOT EXISTS store_by_change ON store_documents (scope, workflow_id, seq);
CREATE INDEX IF NOT EXISTS store_by_id ON store_documents (type, scope, workflow_id, id);
CREATE INDEX IF NOT EXISTS store_by_age ON store_documents (type, scope, workflow_id, created_at, id);
CREATE INDEX IF NOT EXISTS store_by_status ON store_documents (type, status) WHERE status IS NOT NULL;
"""
_FIND = (
    "SELECT key, seq, body, type, status, created_at FROM store_documents"
    " WHERE scope = ? AND workflow_id = ? AND id = ?"
)
_START = "s0"
_TOKEN = re.compile(r"s([0-9]{1,18})")


class SqliteStore:
    """`DocumentStore` on a `Database`; see the port for what each method does. Several processes may use one file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ready = False

    async def get(self, partition: Partition, document_id: str) -> Document:
        check_partition(partition)
        check_id(document_id)
        await self._prepare()
        rows = self._database.fetch(_FIND, (*partition, document_id))
        if not rows:
            raise NotFound(document_id)
        row = _Row(*rows[0])
        return _loaded(row.body, row.seq)

    async def query(self, query: Query) -> Page:
        statement = compile_query(query)
        await self._prepare()

        def run(connection: sqlite3.Connection) -> tuple[str | None, str]:
            if "unicode_lower" in statement.sql:  # on whichever read connection this is; defining it again does no harm
                connection.create_function("unicode_lower", 1, _lower, deterministic=True)
            row: tuple[str | None, str] = connection.execute(*statement).fetchone()
            return row

        bodies, sequence = await self._database.read(run)
        if bodies is None:
            return Page([], None)
        documents: list[Document] = loads(f"[{bodies}]")
        for document, seq in zip(documents, sequence.split(","), strict=True):
            document["_etag"] = seq
        if len(documents) <= query.limit:
            return Page(documents, None)
        del documents[query.limit :]
        return Page(documents, page_token(query, documents[-1]))

    async def changes(self, partition: Partition, token: str | None = None, limit: int = 100) -> Changes:
        check_partition(partition)
        match = _TOKEN.fullmatch(_START if token is None else token)
        if match is None:
            raise ValueError("not a token of this store's feed")
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit is 1 to {MAX_PAGE}, not {limit}")
        await self._prepare()
        sql = (
            "SELECT body, seq FROM store_documents WHERE scope = ? AND workflow_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        values = (*partition, int(match[1]), limit)
        rows: list[tuple[str, int]] = self._database.fetch(sql, values)
        tokens = [f"s{seq}" for _, seq in rows]
        return Changes([_loaded(*row) for row in rows], tokens[-1] if rows else match[0], tokens)

    async def position(self, partition: Partition) -> str:
        check_partition(partition)
        await self._prepare()
        ((value,),) = self._database.fetch("SELECT value FROM store_sequence", ())
        return f"s{value}"

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        texts = check_transaction(partition, ops)
        if not ops:
            return []
        await self._prepare()
        return await self._database.write(_Transaction(partition, ops, texts))

    async def close(self) -> None:
        await self._database.close()

    async def _prepare(self) -> None:
        if not self._ready:
            await self._database.create(_TABLES)
            self._ready = True


class _Row(NamedTuple):
    key: int
    seq: int
    body: str
    type: str
    status: Sortable
    created_at: Sortable


class _Transaction:
    """A transaction as a write. It raises at the first operation that fails; the savepoint undoes those before it."""

    def __init__(self, partition: Partition, ops: Sequence[Op], texts: Sequence[str | None]) -> None:
        self.partition, self.ops, self.texts = partition, tuple(ops), texts

    def __call__(self, connection: sqlite3.Connection) -> list[Document | None]:
        count = len(self.ops)
        sql = "UPDATE store_sequence SET value = value + ? RETURNING value"
        last: int = connection.execute(sql, (count,)).fetchall()[0][0]
        return [self._apply(connection, index, last - count + 1 + index) for index in range(count)]

    def _apply(self, connection: sqlite3.Connection, index: int, seq: int) -> Document | None:
        op, text = self.ops[index], self.texts[index]
        if isinstance(op, Create):
            assert text is not None
            return self._create(connection, index, seq, text)
        row, before = self._guarded(connection, index, op)
        if isinstance(op, Check):
            return before
        if isinstance(op, Delete):
            connection.execute("DELETE FROM store_documents WHERE key = ?", (row.key,))
            return None
        if isinstance(op, Patch):
            del before["_etag"]
            apply_patch(before, op)
            return _rewrite(connection, row, seq, document_text(before), before)
        assert text is not None
        return _rewrite(connection, row, seq, text, loads(text))

    def _create(self, connection: sqlite3.Connection, index: int, seq: int, text: str) -> Document:
        document = _loaded(text, seq)
        try:
            connection.execute(
                "INSERT INTO store_documents (scope, workflow_id, id, type, status, created_at, seq, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*self.partition, document["id"], *_columns(document), seq, text),
            )
        except sqlite3.IntegrityError:
            raise Conflict(document["id"], index) from None
        return document

    def _guarded(
        self, connection: sqlite3.Connection, index: int, op: Replace | Patch | Delete | Check
    ) -> tuple[_Row, Document]:
        """The document that the operation is about, once its conditions hold."""
        document_id: str = op.document["id"] if isinstance(op, Replace) else op.id
        row = _find(connection, self.partition, document_id)
        if row is None:
            raise NotFound(document_id, index)
        document = _loaded(row.body, row.seq)
        if op.etag not in (None, document["_etag"]) or not all(holds(condition, document) for condition in op.when):
            raise ConditionFailed(document_id, index)
        return row, document


def _rewrite(connection: sqlite3.Connection, row: _Row, seq: int, text: str, document: Document) -> Document:
    columns = _columns(document)
    if columns == (row.type, row.status, row.created_at):  # spare the indexes on them
        connection.execute("UPDATE store_documents SET seq = ?, body = ? WHERE key = ?", (seq, text, row.key))
    else:
        connection.execute(
            "UPDATE store_documents SET type = ?, status = ?, created_at = ?, seq = ?, body = ? WHERE key = ?",
            (*columns, seq, text, row.key),
        )
    document["_etag"] = str(seq)
    return document


def _find(connection: sqlite3.Connection, partition: Partition, document_id: str) -> _Row | None:
    row = connection.execute(_FIND, (*partition, document_id)).fetchone()
    return None if row is None else _Row(*row)


def _columns(document: Document) -> tuple[str, Sortable, Sortable]:
    return document["type"], sortable(document.get("status")), sortable(document.get("created_at"))


def _loaded(body: str, seq: int) -> Document:
    document: Document = loads(body)
    document["_etag"] = str(seq)
    return document


def _lower(value: object) -> str | None:
    return value.lower() if isinstance(value, str) else None
