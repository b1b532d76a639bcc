"""What every `DocumentStore` finds: guards and filters, queries and their pages."""

from __future__ import annotations

import uuid

import pytest

from shared.errors import ConditionFailed
from shared.store.port import (
    Check,
    Compare,
    Condition,
    Contains,
    Create,
    Delete,
    Document,
    DocumentStore,
    FieldIn,
    Filter,
    HoldsNone,
    HoldsOne,
    Partition,
    Patch,
    Prefix,
    Query,
)
from tests.contract.documents import doc, ids, put

CONDITIONS: list[tuple[Filter, bool]] = [
    (FieldIn("text", ("t",)), True),
    (FieldIn("text", ("other", "t")), True),
    (FieldIn("text", ("T",)), False),
    (FieldIn("text", ()), False),
    (FieldIn("one", (1,)), True),
    (FieldIn("one", (1.0,)), True),
    (FieldIn("one", (True,)), False),
    (FieldIn("one", ("1",)), False),
    (FieldIn("half", (0.5,)), True),
    (FieldIn("true", (True,)), True),
    (FieldIn("true", (1,)), False),
    (FieldIn("true", ("true",)), False),
    (FieldIn("false", (False,)), True),
    (FieldIn("false", (0, None)), False),
    (FieldIn("null", (None,)), True),
    (FieldIn("null", ("null", 0, False, "")), False),
    (FieldIn("missing", (None,)), True),
    (FieldIn("missing", ("x",)), False),
    (FieldIn("missing.deeper", (None, "x")), True),
    (FieldIn("text.deeper", (None,)), True),
    (FieldIn("list", ("[]", None)), False),
    (FieldIn("object", (None, "{}")), False),
    (FieldIn("object.in", ("side",)), True),
    (FieldIn("list.0", (None,)), True),
    (FieldIn("it's", ("quoted",)), True),
    (FieldIn("id", ("a",)), True),
    (FieldIn("id", (None, 1)), False),
    (FieldIn("status", ("running", None)), True),
    (FieldIn("status", (True,)), False),
    (HoldsNone("list", ("y", "z")), True),
    (HoldsNone("list", ("y", "x")), False),
    (HoldsNone("list", (True,)), True),
    (HoldsNone("list", (1.0,)), False),
    (HoldsNone("list", (None,)), False),
    (HoldsNone("list", ("nested",)), True),
    (HoldsNone("list", ()), True),
    (HoldsNone("missing", ("x", None)), True),
    (HoldsNone("null", ("x",)), True),
    (HoldsNone("text", ("x",)), False),
    (HoldsNone("object", ("x",)), False),
    (HoldsNone("object.list", ("x",)), False),
]
FILTERS: list[tuple[Filter, bool]] = [
    (HoldsOne("list", "x"), True),
    (HoldsOne("list", "y"), False),
    (HoldsOne("list", "X"), False),
    (HoldsOne("list", "1"), False),
    (HoldsOne("list", "nested"), False),
    (HoldsOne("text", "t"), False),
    (HoldsOne("object", "x"), False),
    (HoldsOne("null", "null"), False),
    (HoldsOne("missing", "x"), False),
    (Compare("one", ">", 0), True),
    (Compare("one", ">=", 1.0), True),
    (Compare("one", "<", 1), False),
    (Compare("one", "<=", "2"), False),
    (Compare("text", ">", 0), False),
    (Compare("text", ">", "s"), True),
    (Compare("text", "<", "t"), False),
    (Compare("text", "<", "Z"), False),
    (Compare("true", ">", 0), False),
    (Compare("missing", "<", "x"), False),
    (Compare("null", "<", 1), False),
    (Compare("created_at", ">=", "2026-01-02"), True),
    (Compare("created_at", "<", "2026-01-02"), False),
    (Compare("created_at", ">", 0), False),
    (Compare("id", ">", "A"), True),
    (Prefix("text", "t"), True),
    (Prefix("text", ""), True),
    (Prefix("text", "T"), False),
    (Prefix("text", "tt"), False),
    (Prefix("sentence", "50%_of"), True),
    (Prefix("sentence", "50%.of"), False),
    (Prefix("one", "1"), False),
    (Prefix("missing", ""), False),
    (Prefix("id", "a"), True),
    (Prefix("id", "b"), False),
    (Prefix("status", "run"), True),
    (Contains("sentence", "OF Ä"), True),
    (Contains("sentence", "ärger"), True),
    (Contains("sentence", "%"), True),
    (Contains("sentence", "of  "), False),
    (Contains("text", ""), True),
    (Contains("one", "1"), False),
    (Contains("list", "x"), False),
    (Contains("missing", ""), False),
]
SUBJECT = doc(
    "a",
    text="t",
    one=1,
    half=0.5,
    true=True,
    false=False,
    null=None,
    list=["x", 1, None, ["nested"]],
    object={"in": "side", "list": ["x"]},
    sentence="50%_of Ärger",
    status="running",
    created_at="2026-01-02T03:04:05.678Z",
    **{"it's": "quoted"},
)


class TestConditions:
    @pytest.mark.parametrize(("condition", "expected"), CONDITIONS, ids=str)
    async def test_a_guard_holds_exactly_when_the_port_says(
        self, store: DocumentStore, partition: Partition, condition: Condition, expected: bool
    ) -> None:
        """The promise stands on these: a guard that lets through what it should not starts work after a cancel."""
        await put(store, partition, SUBJECT)
        for op in (Check("a", (condition,)), Patch("a", set={"x": 1}, when=(condition,)), Delete("a", (condition,))):
            try:
                await store.transact(partition, [op])
                held = True
            except ConditionFailed as error:
                assert (error.document_id, error.op_index) == ("a", 0)
                held = False
            assert held is expected

    @pytest.mark.parametrize(("condition", "expected"), CONDITIONS + FILTERS, ids=str)
    async def test_a_filter_finds_exactly_what_the_port_says(
        self, store: DocumentStore, partition: Partition, condition: Filter, expected: bool
    ) -> None:
        """A filter and a guard of the same spelling must agree, although a store may evaluate them apart."""
        await put(store, partition, SUBJECT)
        assert await ids(store, Query("run", partition, (condition,))) == (["a"] if expected else [])

    async def test_all_conditions_must_hold(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, SUBJECT)
        with pytest.raises(ConditionFailed):
            await store.transact(partition, [Check("a", (FieldIn("one", (1,)), FieldIn("text", ("no",))))])
        assert await ids(store, Query("run", partition, (FieldIn("one", (1,)), Compare("one", ">", 1)))) == []


class TestQuery:
    async def test_scopes_and_everywhere(self, store: DocumentStore, partition: Partition) -> None:
        kind = f"kind-{uuid.uuid4().hex}"
        neighbour = Partition(partition.scope, "w2")
        stranger = Partition(f"{partition.scope}x", "w1")
        for where, name in ((partition, "a"), (neighbour, "b"), (stranger, "c")):
            await put(store, where, {"id": name, "type": kind}, {"id": f"{name}-other", "type": f"{kind}x"})
        assert await ids(store, Query(kind, partition)) == ["a"]
        assert await ids(store, Query(kind, partition.scope)) == ["a", "b"]
        assert await ids(store, Query(kind, None)) == ["a", "b", "c"]
        found = (await store.query(Query(kind, None, limit=1))).items[0]
        assert found == await store.get(partition, "a")

    @pytest.mark.parametrize("field", ["id", "created_at", "name", "deep.rank"])
    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("limit", [1, 3, 50])
    async def test_pages_in_order_lose_and_repeat_nothing(
        self, store: DocumentStore, partition: Partition, field: str, descending: bool, limit: int
    ) -> None:
        """Ties and missing fields are where a page boundary goes wrong."""
        values = ["b", None, "a", "b", "B", "é", None, "b", "", "aa"]
        documents = [
            doc(
                f"d{index}", created_at=value, **({"name": value, "deep": {"rank": value}} if value is not None else {})
            )
            for index, value in enumerate(values)
        ]
        await put(store, partition, *documents)

        def key(document: Document) -> tuple[bool, str, str]:
            value = document["id"] if field == "id" else document["created_at"]
            return value is not None, value or "", document["id"]

        expected = [document["id"] for document in sorted(documents, key=key, reverse=descending)]
        query = Query("run", partition, order_by=field, descending=descending, limit=limit)
        assert await ids(store, query) == expected

    async def test_numbers_are_ordered_as_numbers(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, *(doc(f"d{index}", n=n) for index, n in enumerate([10, 9, -1, 9.5])))
        assert await ids(store, Query("run", partition, order_by="n", limit=1)) == ["d2", "d1", "d3", "d0"]

    @pytest.mark.parametrize("descending", [False, True])
    async def test_ties_across_partitions_are_broken_by_partition_and_id(
        self, store: DocumentStore, partition: Partition, descending: bool
    ) -> None:
        kind = f"kind-{uuid.uuid4().hex}"
        for workflow in ("w1", "w2"):
            documents = [{"id": name, "type": kind, "at": "same"} for name in "ba"]
            await put(store, Partition(partition.scope, workflow), *documents)
        expected = [("w1", "a"), ("w1", "b"), ("w2", "a"), ("w2", "b")]
        for within in (partition.scope, None):
            found, token = [], None
            while True:
                query = Query(kind, within, order_by="at", descending=descending, limit=1, after=token)
                page = await store.query(query)
                found += [(document["workflow_id"], document["id"]) for document in page.items]
                if (token := page.next) is None:
                    break
            assert found == (expected[::-1] if descending else expected)

    async def test_a_page_is_stable_while_documents_come_and_go(
        self, store: DocumentStore, partition: Partition
    ) -> None:
        """Offsets would skip or repeat documents here."""
        await put(store, partition, *(doc(f"d{index}") for index in range(2, 8, 2)))
        first = await store.query(Query("run", partition, limit=2))
        assert [document["id"] for document in first.items] == ["d2", "d4"]
        await store.transact(partition, [Create(doc("d1")), Create(doc("d3")), Delete("d4"), Create(doc("d5"))])
        rest = await store.query(Query("run", partition, limit=2, after=first.next))
        assert ([document["id"] for document in rest.items], rest.next) == (["d5", "d6"], None)

    async def test_a_last_page_that_is_full_has_no_next(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a"), doc("b"))
        assert (await store.query(Query("run", partition, limit=2))).next is None
        assert (await store.query(Query("nothing", partition, limit=2))).items == []

    async def test_prefix_of_ids_at_the_edge_of_the_alphabet(self, store: DocumentStore, partition: Partition) -> None:
        """A prefix becomes a range; the character after the last one may not exist, or be half of a pair."""
        names = ["r", "r:", "r:\U0010ffff", "r:\U0010ffffx", "r;", "\ud7ff", "\ud7ffx", "\ue000", "\U0010ffff"]
        await put(store, partition, *(doc(name) for name in names))
        for prefix in ("r", "r:", "r:\U0010ffff", "\ud7ff", "\U0010ffff", ""):
            expected = sorted(name for name in names if name.startswith(prefix))
            assert await ids(store, Query("run", partition, (Prefix("id", prefix),), limit=2)) == expected

    @pytest.mark.parametrize("token", ["", "x", "bm9uc2Vuc2U=", "W10=", "é", "[" * 5000, "WyJpZCIsMCwxLDIsMyw0XQ=="])
    async def test_a_token_that_is_not_ours_is_a_value_error(
        self, store: DocumentStore, partition: Partition, token: str
    ) -> None:
        with pytest.raises(ValueError):
            await store.query(Query("run", partition, after=token))

    async def test_a_token_of_another_order_is_a_value_error(self, store: DocumentStore, partition: Partition) -> None:
        await put(store, partition, doc("a"), doc("b"))
        token = (await store.query(Query("run", partition, limit=1))).next
        with pytest.raises(ValueError):
            await store.query(Query("run", partition, order_by="created_at", after=token))
        with pytest.raises(ValueError):
            await store.query(Query("run", partition, descending=True, after=token))

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    async def test_a_limit_out_of_range_is_a_value_error(
        self, store: DocumentStore, partition: Partition, limit: int
    ) -> None:
        with pytest.raises(ValueError):
            await store.query(Query("run", partition, limit=limit))
        with pytest.raises(ValueError):
            await store.changes(partition, limit=limit)

    @pytest.mark.parametrize("field", ["", "a..b", 'a"b', "a\\b", "a') OR 1=1 --\x00"])
    async def test_a_field_name_can_not_carry_anything_else(
        self, store: DocumentStore, partition: Partition, field: str
    ) -> None:
        """Field names become part of a query's text."""
        for query in (Query("run", partition, (FieldIn(field, (1,)),)), Query("run", partition, order_by=field)):
            with pytest.raises(ValueError):
                await store.query(query)

    async def test_a_value_is_never_read_as_query_text(self, store: DocumentStore, partition: Partition) -> None:
        nasty = "' OR 1=1 -- {x} %s ?"
        await put(store, partition, doc("a"), doc("b", **{"it's {x}": nasty}))
        for condition in (FieldIn, HoldsNone):
            assert await ids(store, Query("run", partition, (condition("it's {x}", (nasty,)),))) == (
                ["b"] if condition is FieldIn else ["a"]
            )
        assert await ids(store, Query("run", partition, (Contains("it's {x}", nasty),), order_by="it's {x}")) == ["b"]
