"""What every `DocumentStore` does over time: the feed of changes, and many clients at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.errors import ConditionFailed
from shared.store.port import (
    Check,
    Create,
    Delete,
    DocumentStore,
    FieldIn,
    Op,
    Partition,
    Patch,
    Prefix,
    Query,
)
from tests.contract.conftest import OpenStore
from tests.contract.documents import NEVER, content, doc, ids, put


class TestChanges:
    async def test_changes_come_in_order_of_their_last_modification(
        self, store: DocumentStore, partition: Partition
    ) -> None:
        await put(store, partition, doc("a"), doc("b"), doc("c"))
        await store.transact(partition, [Patch("a", set={"n": 1})])
        seen = await store.changes(partition)
        assert [document["id"] for document in seen.items] == ["b", "c", "a"]
        assert seen.items[-1] == await store.get(partition, "a")

    async def test_a_token_continues_where_the_page_ended(self, store: DocumentStore, partition: Partition) -> None:
        """A document written twice in one transaction is there once, in its last state; a delete isn't seen."""
        start = (await store.changes(partition)).token
        await put(store, partition, doc("a"), doc("b"), doc("c"))
        first = await store.changes(partition, start, limit=2)
        assert [document["id"] for document in first.items] == ["a", "b"]
        ops: list[Op] = [Patch("a", set={"n": 1}), Delete("b"), Create(doc("d")), Patch("a", set={"n": 2})]
        await store.transact(partition, ops)
        rest = await store.changes(partition, first.token)
        assert [content(document) for document in rest.items] == [doc("c"), doc("d"), doc("a", n=2)]
        end = await store.changes(partition, rest.token)
        assert (end.items, end.token) == ([], rest.token)

    @pytest.mark.parametrize("limit", [3, 10])
    async def test_a_reader_may_go_on_after_any_item_of_a_page(
        self, store: DocumentStore, partition: Partition, limit: int
    ) -> None:
        """A live view whose connection breaks in the middle of a page has seen what came before, and not the rest."""
        await put(store, partition, doc("a"), doc("b"))
        await put(store, partition, doc("c"), doc("d"), doc("e"))
        page = await store.changes(partition, limit=limit)
        order = ["a", "b", "c", "d", "e"]
        assert [document["id"] for document in page.items] == order[:limit]
        assert page.tokens[-1] == page.token
        for index, token in enumerate(page.tokens):
            rest = await store.changes(partition, token)
            while (more := await store.changes(partition, rest.token)).items:
                rest = replace(more, items=rest.items + more.items)
            assert [document["id"] for document in rest.items] == order[index + 1 :]
        await store.transact(partition, [Patch("a", set={"n": 1})])
        assert "a" in [document["id"] for document in (await store.changes(partition, page.tokens[0])).items]

    async def test_what_is_written_after_a_position_was_read_follows_it(
        self, store: DocumentStore, partition: Partition
    ) -> None:
        """A live view takes it before its snapshot: a token from too late would lose what changed between the two."""
        assert (await store.changes(partition, await store.position(partition))).items == []
        await put(store, partition, doc("a"), doc("b"))
        position = await store.position(partition)
        assert (await store.changes(partition, position)).items == []
        await put(store, Partition(partition.scope, "w2"), doc("other"))
        await store.transact(partition, [Patch("a", set={"n": 1}), Create(doc("c"))])
        assert [document["id"] for document in (await store.changes(partition, position)).items] == ["a", "c"]

    async def test_positions_read_while_many_write_lose_nothing(
        self, open_store: OpenStore, partition: Partition
    ) -> None:
        """Whatever a reader can't see yet must be after the position that it reads."""
        writer, reader = open_store(), open_store()

        async def write(lane: int) -> None:
            for index in range(10):
                await put(writer, partition, doc(f"{lane}-{index}"))

        writing = asyncio.gather(*(write(lane) for lane in range(5)))
        taken: list[tuple[str, set[str]]] = []
        while not writing.done():
            position = await reader.position(partition)
            taken.append(
                (position, {one["id"] for one in (await reader.query(Query("run", partition, limit=1000))).items})
            )
            await asyncio.sleep(0)
        await writing
        everything = {f"{lane}-{index}" for lane in range(5) for index in range(10)}
        for position, snapshot in taken[:: max(1, len(taken) // 20)]:
            later = {one["id"] for one in (await reader.changes(partition, position)).items}
            assert snapshot | later == everything

    async def test_a_check_and_a_failure_are_no_changes(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a"))
        token = (await store.changes(partition)).token
        await store.transact(partition, [Check("a")])
        with pytest.raises(ConditionFailed):
            await store.transact(partition, [Patch("a", set={"n": 1}), Check("a", NEVER)])
        assert (await store.changes(partition, token)).items == []

    async def test_what_comes_after_a_deleted_last_one_is_seen(
        self, store: DocumentStore, partition: Partition
    ) -> None:
        """A store that counted from its highest document would give the new one a number that was already read."""
        await put(store, partition, doc("a"), doc("b"))
        token = (await store.changes(partition)).token
        await store.transact(partition, [Delete("b")])
        await put(store, partition, doc("c"))
        assert [document["id"] for document in (await store.changes(partition, token)).items] == ["c"]

    async def test_other_partitions_are_not_in_the_feed(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, Partition(partition.scope, "w2"), doc("b"))
        await put(store, partition, doc("a"))
        assert [document["id"] for document in (await store.changes(partition)).items] == ["a"]

    @pytest.mark.parametrize("token", ["", "x", "s", "s-1", "s1 ", "é", "s" + "9" * 40])
    async def test_a_token_that_is_not_ours_is_a_value_error(
        self, store: DocumentStore, partition: Partition, token: str
    ) -> None:
        with pytest.raises(ValueError):
            await store.changes(partition, token)

    async def test_a_reader_that_follows_the_feed_misses_nothing(
        self, open_store: OpenStore, partition: Partition
    ) -> None:
        """The live view reads while many write."""
        writer, reader = open_store(), open_store()

        async def write(lane: int) -> None:
            for index in range(10):
                await put(writer, partition, doc(f"{lane}-{index}"))

        seen: list[str] = []
        token: str | None = None
        writing = asyncio.gather(*(write(lane) for lane in range(5)))
        while not writing.done() or len(seen) < 50:
            news = await reader.changes(partition, token, limit=7)
            seen += [document["id"] for document in news.items]
            token = news.token
            await asyncio.sleep(0)
            if writing.done() and not news.items:
                break
        await writing
        assert len(seen) == len(set(seen)) == 50


class TestConcurrency:
    async def test_of_many_writers_on_one_guard_exactly_one_wins(
        self, open_store: OpenStore, partition: Partition
    ) -> None:
        """Accept, begin, take the lock, settle: each is such a race."""
        stores = [open_store() for _ in range(4)]
        await put(stores[0], partition, doc("a", status="running"))
        guard = (FieldIn("status", ("running",)),)

        async def race(index: int) -> bool:
            ops: list[Op] = [Create(doc(f"won-{index}")), Patch("a", set={"status": index}, when=guard)]
            try:
                await stores[index % 4].transact(partition, ops)
            except ConditionFailed as error:
                assert error.op_index == 1
                return False
            return True

        won = await asyncio.gather(*(race(index) for index in range(40)))
        assert won.count(True) == 1
        assert (await stores[0].get(partition, "a"))["status"] == won.index(True)
        assert await ids(stores[0], Query("run", partition, (Prefix("id", "won-"),))) == [f"won-{won.index(True)}"]

    async def test_no_increment_is_lost(self, open_store: OpenStore, partition: Partition) -> None:
        stores = [open_store() for _ in range(3)]
        await put(stores[0], partition, doc("a"))
        await asyncio.gather(
            *(stores[index % 3].transact(partition, [Patch("a", increment={"n": 1})]) for index in range(60))
        )
        assert (await stores[0].get(partition, "a"))["n"] == 60

    async def test_a_client_reads_its_own_writes(self, store: DocumentStore, partition: Partition) -> None:
        """Enumerating the children after the accept relies on it."""
        token = (await store.changes(partition)).token
        for index in range(10):
            await put(store, partition, doc(f"d{index}"))
            assert (await store.get(partition, f"d{index}"))["id"] == f"d{index}"
            assert len((await store.query(Query("run", partition))).items) == index + 1
            assert len((await store.changes(partition, token)).items) == index + 1

    async def test_a_closed_client_can_be_closed_again(self, open_store: OpenStore, partition: Partition) -> None:
        first, second = open_store(), open_store()
        await put(first, partition, doc("a"))
        await first.close()
        await first.close()
        assert content(await second.get(partition, "a")) == doc("a")
