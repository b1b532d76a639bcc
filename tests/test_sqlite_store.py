"""What is SQLite's own about its document store: that the domain's queries find an index, and its speed depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.sqlite import Database
from shared.store.port import Create, FieldIn, Partition, Patch, Prefix, Query
from shared.store.sqlite import SqliteStore
from shared.store.sqlite_query import compile_query, page_token

HERE = Partition("user:1", "w1")
ACTIVE = FieldIn("status", ("queued", "running"))
PLACE = {"id": "r1", "scope": "user:1", "workflow_id": "w1", "created_at": "2026-01-01T00:00:00.000Z"}
NEWEST = Query("run", HERE, order_by="created_at", descending=True)


@pytest.mark.parametrize(
    ("query", "index", "sorts"),
    [
        (Query("execution", HERE, (Prefix("id", "r1:"),)), "store_by_id", False),
        (Query("execution", HERE, (Prefix("id", "r1:"), ACTIVE)), "store_by_id", False),
        (Query("event", HERE, after=page_token(Query("event", HERE), PLACE)), "store_by_id", False),
        (NEWEST, "store_by_age", False),
        (Query("run", HERE, (ACTIVE,), "created_at", True), "store_by_age", False),
        (Query("run", HERE, (), "created_at", True, after=page_token(NEWEST, PLACE)), "store_by_age", False),
        (Query("workflow", "user:1", order_by="created_at"), "store_by_age", True),
        (Query("run", None, (ACTIVE,)), "store_by_status", True),
        (Query("run", None, (FieldIn("id", ("r1",)),)), "sqlite_autoindex_store_documents_1", False),
        (Query("run", "user:1", (FieldIn("id", ("r1",)),)), "sqlite_autoindex_store_documents_1", True),
    ],
    ids=str,
)
async def test_the_domains_queries_use_an_index(tmp_path: Path, query: Query, index: str, sorts: bool) -> None:
    """A scan of the table is unnoticed with a test's ten documents and takes seconds with a year's."""
    database = Database.open(tmp_path / "test.db")
    store = SqliteStore(database)
    await store.query(query)
    sql, values = compile_query(query)
    plan = [
        row[3]
        for row in database.read_now(
            lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
        )
    ]
    await store.close()
    assert any(line.startswith("SEARCH") and f" {index} " in line for line in plan), plan
    assert any("TEMP B-TREE" in line for line in plan) is sorts


async def test_columns_follow_the_document(tmp_path: Path) -> None:
    """The indexed columns are copies; one that isn't updated would hide a run from reconcile."""
    store = SqliteStore(Database.open(tmp_path / "test.db"))
    await store.transact(HERE, [Create({"id": "r1", "type": "run", "status": "queued", "created_at": "1"})])
    for status in ("running", True, None, 1, ["x"], "done"):
        await store.transact(HERE, [Patch("r1", set={"status": status, "created_at": status})])
        for value in ("queued", "running", True, None, 1, "done"):
            expected = value is status or (value == status and not isinstance(value, bool) and status is not True)
            for field in ("status", "created_at"):
                page = await store.query(Query("run", None, (FieldIn(field, (value,)),)))
                assert bool(page.items) is expected, (field, status, value)
    await store.close()
