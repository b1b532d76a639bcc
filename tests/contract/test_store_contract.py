"""What every `DocumentStore` does on a write, and on the way back. Nothing here knows which one it is."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ConditionFailed, Conflict, NotFound, StoreError, TooLarge
from shared.states import RunStatus
from shared.store.port import (
    MAX_BYTES,
    MAX_OPERATIONS,
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
    Replace,
)
from tests.contract.documents import NEVER, content, doc, ids, put


class TestGet:
    async def test_what_was_created_is_read_back(self, store: DocumentStore, partition: Partition) -> None:
        """A store that converts a value on the way would break guards that compare it later."""
        value = {"n": [1, 1.5, -0.0, True, None, "ü🙂\u0000\n", {}, []], "deep": {"a": {"b": {"c": "d"}}}, "big": 2**53}
        [created] = await store.transact(partition, [Create(doc("a", value=value))])
        got = await store.get(partition, "a")
        assert got == created
        assert content(got) == doc("a", value=value)
        assert got["value"]["n"][3] is True

    async def test_a_document_says_where_it_lives(self, store: DocumentStore, partition: Partition) -> None:
        """A query across partitions would be of little use otherwise."""
        await put(store, partition, doc("a"))
        got = await store.get(partition, "a")
        assert (got["scope"], got["workflow_id"]) == partition

    async def test_a_document_of_another_partition_is_refused(self, store: DocumentStore, partition: Partition) -> None:
        with pytest.raises(ValueError, match="scope"):
            await put(store, partition, doc("a", scope="user:someone-else"))

    async def test_a_missing_document_is_not_found(self, store: DocumentStore, partition: Partition) -> None:
        with pytest.raises(NotFound) as caught:
            await store.get(partition, "a")
        assert caught.value.document_id == "a"

    async def test_partitions_keep_their_documents_apart(self, store: DocumentStore, partition: Partition) -> None:
        other = Partition(partition.scope, "w2")
        await put(store, partition, doc("a", n=1))
        await put(store, other, doc("a", n=2))
        assert (await store.get(partition, "a"))["n"] == 1
        assert (await store.get(other, "a"))["n"] == 2

    async def test_answers_are_the_callers_own(self, store: DocumentStore, partition: Partition) -> None:
        """A document that a caller goes on to change must not change in the store or in another answer."""
        given = doc("a", list=[1])
        [created] = await store.transact(partition, [Create(given)])
        added: list[int] = [7]
        [patched] = await store.transact(partition, [Patch("a", set={"more": added})])
        assert created is not None and patched is not None
        for array in (given["list"], created["list"], patched["list"], patched["more"]):
            array.append("changed")
        assert added == [7]
        assert content(await store.get(partition, "a")) == doc("a", list=[1], more=[7])

    async def test_members_of_enumerations_are_plain_strings(self, store: DocumentStore, partition: Partition) -> None:
        """Statuses are a StrEnum in the domain and text in the store."""
        await put(store, partition, doc("a", status=RunStatus.QUEUED))
        guard = (FieldIn("status", (RunStatus.QUEUED,)),)
        [patched] = await store.transact(partition, [Patch("a", set={"status": RunStatus.RUNNING}, when=guard)])
        assert patched is not None and type(patched["status"]) is str
        assert await ids(store, Query("run", partition, (FieldIn("status", (RunStatus.RUNNING,)),))) == ["a"]


class TestWrites:
    async def test_create_refuses_an_existing_id(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a", n=1))
        with pytest.raises(Conflict) as caught:
            await store.transact(partition, [Create(doc("b")), Create(doc("a", n=2))])
        assert (caught.value.document_id, caught.value.op_index) == ("a", 1)
        assert (await store.get(partition, "a"))["n"] == 1

    async def test_replace_replaces_the_whole_document(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a", old=1))
        [replaced] = await store.transact(partition, [Replace({"id": "a", "type": "lock", "new": 2})])
        assert content(replaced) == {"id": "a", "type": "lock", "new": 2}
        assert await store.get(partition, "a") == replaced
        assert await ids(store, Query("lock", partition)) == ["a"]
        assert await ids(store, Query("run", partition)) == []

    async def test_delete_deletes(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a"))
        assert await store.transact(partition, [Delete("a")]) == [None]
        with pytest.raises(NotFound):
            await store.get(partition, "a")

    async def test_check_changes_nothing(self, store: DocumentStore, partition: Partition) -> None:
        [created] = await store.transact(partition, [Create(doc("a", n=1))])
        assert await store.transact(partition, [Check("a", (FieldIn("n", (1,)),))]) == [created]
        assert await store.get(partition, "a") == created

    @pytest.mark.parametrize("op", [Replace(doc("a")), Patch("a"), Delete("a"), Check("a")])
    async def test_a_missing_document_is_not_found(self, store: DocumentStore, partition: Partition, op: Op) -> None:
        with pytest.raises(NotFound) as caught:
            await store.transact(partition, [Create(doc("b")), op])
        assert (caught.value.document_id, caught.value.op_index) == ("a", 1)

    async def test_the_etag_changes_with_every_write(self, store: DocumentStore, partition: Partition) -> None:
        """If-Match compares these; an etag that comes back would let an old edit through."""
        ops: list[Op] = [Create(doc("a")), Patch("a", set={"n": 1}), Patch("a", set={"n": 1}), Replace(doc("a"))]
        results = await store.transact(partition, ops)
        results += await store.transact(partition, [Delete("a"), Create(doc("a"))])
        etags = [result["_etag"] for result in results if result is not None]
        assert all(isinstance(etag, str) and etag for etag in etags)
        assert len(set(etags)) == 5

    async def test_only_the_current_etag_is_accepted(self, store: DocumentStore, partition: Partition) -> None:
        [first] = await store.transact(partition, [Create(doc("a"))])
        assert first is not None
        [second] = await store.transact(partition, [Patch("a", set={"n": 1}, etag=first["_etag"])])
        assert second is not None
        stale = first["_etag"]
        for op in (
            Replace(doc("a"), etag=stale),
            Patch("a", etag=stale),
            Delete("a", etag=stale),
            Check("a", etag=stale),
        ):
            with pytest.raises(ConditionFailed):
                await store.transact(partition, [op])
        await store.transact(partition, [Delete("a", etag=second["_etag"])])

    async def test_keys_of_the_store_are_ignored_when_given(self, store: DocumentStore, partition: Partition) -> None:
        """What was read can be written back as it is, and nobody forges an etag."""
        [created] = await store.transact(partition, [Create(doc("a", _etag="forged", _ts=1, inner={"_kept": 1}))])
        assert created is not None and created["_etag"] != "forged"
        assert content(created) == doc("a", inner={"_kept": 1})
        [replaced] = await store.transact(partition, [Replace(created)])
        assert content(replaced) == content(created)

    async def test_no_operations_do_nothing(self, store: DocumentStore, partition: Partition) -> None:
        assert await store.transact(partition, []) == []


class TestPatch:
    async def test_set_creates_and_overwrites(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a", cancel={"by": "me"}, gone=1))
        changes = {"cancel.observed_at": "now", "cancel.by": None, "gone": {"x": []}, "new": True}
        [patched] = await store.transact(partition, [Patch("a", set=changes)])
        assert content(patched) == doc("a", cancel={"by": None, "observed_at": "now"}, gone={"x": []}, new=True)
        assert await store.get(partition, "a") == patched

    async def test_increment_counts_from_nothing(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a", n=5, counts={}))
        [patched] = await store.transact(partition, [Patch("a", increment={"n": -2, "counts.done": 1, "new": 3})])
        assert content(patched) == doc("a", n=3, counts={"done": 1}, new=3)

    async def test_append_adds_at_the_end(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a", list=["x"]))
        [patched] = await store.transact(partition, [Patch("a", append={"list": ["y", "z"]})])
        assert content(patched) == doc("a", list=["x", ["y", "z"]])

    @pytest.mark.parametrize(
        "patch",
        [
            Patch("a", set={"missing.x": 1}),
            Patch("a", set={"text.x": 1}),
            Patch("a", set={"list.0": 1}),
            Patch("a", set={"null.x": 1}),
            Patch("a", increment={"text": 1}),
            Patch("a", increment={"true": 1}),
            Patch("a", increment={"null": 1}),
            Patch("a", increment={"missing.x": 1}),
            Patch("a", append={"text": 1}),
            Patch("a", append={"missing": 1}),
            Patch("a", set={"id": "b"}),
            Patch("a", set={"type": "lock"}),
            Patch("a", set={"scope": "user:b"}),
            Patch("a", set={"_etag": "1"}),
            Patch("a", set={"": 1}),
            Patch("a", set={"x..y": 1}),
            Patch("a", set={'x"y': 1}),
        ],
        ids=str,
    )
    async def test_a_change_that_does_not_fit_is_refused(
        self, store: DocumentStore, partition: Partition, patch: Patch
    ) -> None:
        """Making up parents or numbers would hide a mistake; and nothing else of the transaction may stay."""
        before = doc("a", text="t", list=[1], null=None, true=True)
        await put(store, partition, before)
        with pytest.raises(ValueError):
            await store.transact(partition, [Create(doc("b")), patch])
        assert content(await store.get(partition, "a")) == before
        assert await ids(store, Query("run", partition)) == ["a"]

    async def test_ten_changes_are_the_limit(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a", list=[]))
        full = {f"f{index}": index for index in range(8)}
        await store.transact(partition, [Patch("a", set=full, increment={"n": 1}, append={"list": 1})])
        with pytest.raises(TooLarge):
            await store.transact(partition, [Patch("a", set=full, increment={"n": 1, "m": 1}, append={"list": 1})])

    async def test_a_name_with_a_dot_is_not_addressable(self, store: DocumentStore, partition: Partition) -> None:
        """`a.b` is always b inside a, also when a key of that spelling exists."""
        await put(store, partition, {**doc("a"), "x.y": 1})
        await store.transact(partition, [Check("a", (FieldIn("x.y", (None,)),))])
        assert await ids(store, Query("run", partition, (FieldIn("x.y", (1,)),))) == []


class TestAtomicity:
    @pytest.mark.parametrize("index", [0, 2, 4])
    @pytest.mark.parametrize(
        ("failing", "error"),
        [
            (Create(doc("a")), Conflict),
            (Patch("missing"), NotFound),
            (Check("a", NEVER), ConditionFailed),
            (Replace(doc("a"), NEVER), ConditionFailed),
            (Delete("a", NEVER), ConditionFailed),
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_a_failure_at_any_place_undoes_everything(
        self, store: DocumentStore, partition: Partition, index: int, failing: Op, error: type[StoreError]
    ) -> None:
        """A half-applied settle would leave a lock behind."""
        await put(store, partition, doc("a", n=0), doc("b", n=0))
        before = [await store.get(partition, name) for name in "ab"]
        ops: list[Op] = [Patch("a", increment={"n": 1}), Delete("b"), Create(doc("c")), Replace(doc("a", n=9))]
        ops.insert(index, failing)
        with pytest.raises(error) as caught:
            await store.transact(partition, ops)
        assert getattr(caught.value, "op_index") == index  # noqa: B009 - not every StoreError has one
        assert [await store.get(partition, name) for name in "ab"] == before
        assert await ids(store, Query("run", partition)) == ["a", "b"]

    async def test_operations_see_what_earlier_ones_did(self, store: DocumentStore, partition: Partition) -> None:
        ops: list[Op] = [
            Create(doc("a", n=1)),
            Patch("a", increment={"n": 1}, when=(FieldIn("n", (1,)),)),
            Patch("a", set={"status": "x"}, when=(FieldIn("n", (2,)),)),
            Check("a", (FieldIn("status", ("x",)),)),
            Delete("a"),
            Create(doc("a", n=7)),
        ]
        results = await store.transact(partition, ops)
        assert [result and result["n"] for result in results] == [1, 2, 2, 2, None, 7]
        assert [result and result.get("status") for result in results] == [None, None, "x", "x", None, None]
        assert await store.get(partition, "a") == results[-1]

    async def test_the_first_failure_is_reported(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a"))
        with pytest.raises(ConditionFailed) as caught:
            await store.transact(partition, [Check("a"), Check("a", NEVER), Create(doc("a")), Patch("missing")])
        assert caught.value.op_index == 1


class TestLimits:
    async def test_a_hundred_operations_are_the_limit(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, *(doc(f"a{index}") for index in range(MAX_OPERATIONS)))
        with pytest.raises(TooLarge):
            await put(store, partition, *(doc(f"b{index}") for index in range(MAX_OPERATIONS + 1)))
        assert await ids(store, Query("run", partition, (Prefix("id", "b"),))) == []

    async def test_an_item_may_be_large_but_not_over_two_megabytes(
        self, store: DocumentStore, partition: Partition
    ) -> None:
        """Cosmos counts bytes of UTF-8, so the limit must not be of characters."""
        large = "x" * (MAX_BYTES - 4096)
        await put(store, partition, doc("a", text=large))
        assert (await store.get(partition, "a"))["text"] == large
        for text in ("x" * MAX_BYTES, "é" * (MAX_BYTES // 2)):
            with pytest.raises(TooLarge):
                await put(store, partition, doc("b", text=text))

    async def test_a_patch_can_not_grow_an_item_over_the_limit(
        self, store: DocumentStore, partition: Partition
    ) -> None:
        await put(store, partition, doc("a", text="x" * (MAX_BYTES // 2)))
        with pytest.raises(TooLarge):
            await store.transact(partition, [Patch("a", set={"more": "x" * (MAX_BYTES // 2)})])
        assert "more" not in await store.get(partition, "a")

    async def test_a_transaction_is_not_over_two_megabytes(self, store: DocumentStore, partition: Partition) -> None:
        with pytest.raises(TooLarge):
            await put(store, partition, *(doc(f"a{index}", text="x" * (MAX_BYTES // 2)) for index in range(2)))

    @pytest.mark.parametrize("bad", ["", "a/b", "a\\b", "a#b", "a?b", "x" * 256, "a\nb", 7, None])
    async def test_ids_that_cosmos_refuses_are_refused(
        self, store: DocumentStore, partition: Partition, bad: Any
    ) -> None:
        """What works on a laptop must not fail in Azure."""
        for op in (Create(doc(bad)), Replace(doc(bad)), Patch(bad), Delete(bad), Check(bad)):
            with pytest.raises(ValueError):
                await store.transact(partition, [op])

    async def test_the_longest_id_works(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("ü" * 255))
        assert await ids(store, Query("run", partition)) == ["ü" * 255]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), "\ud800", object()])
    async def test_what_is_not_json_is_refused(self, store: DocumentStore, partition: Partition, bad: Any) -> None:
        await put(store, partition, doc("a"))
        for op in (Create(doc("b", bad=bad)), Replace(doc("a", bad=bad)), Patch("a", set={"bad": bad})):
            with pytest.raises((ValueError, TypeError)):
                await store.transact(partition, [op])
        assert content(await store.get(partition, "a")) == doc("a")

    async def test_a_document_needs_a_type(self, store: DocumentStore, partition: Partition) -> None:
        with pytest.raises(ValueError, match="type"):
            await put(store, partition, {"id": "a"})

    @pytest.mark.parametrize("bad", [Partition("", "w"), Partition("s", "")])
    async def test_a_partition_needs_both_parts(self, store: DocumentStore, bad: Partition) -> None:
        with pytest.raises(ValueError, match="partition"):
            await put(store, bad, doc("a"))
        with pytest.raises(ValueError, match="partition"):
            await store.get(bad, "a")
