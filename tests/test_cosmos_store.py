"""What is Cosmos DB's own about its store: batches, the session, pages, and the feed's tokens."""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.errors import ConditionFailed, NotFound, TooLarge
from shared.store.cosmos import CosmosStore
from shared.store.cosmos_batch import expand
from shared.store.cosmos_client import SessionTokens
from shared.store.cosmos_feed import REMEMBERED
from shared.store.cosmos_sql import literal
from shared.store.limits import check_transaction
from shared.store.port import (
    Check,
    Compare,
    Create,
    Delete,
    FieldIn,
    Op,
    Partition,
    Patch,
    Query,
    Replace,
)
from tests.cosmos_double.fixtures import account_of, cosmos, cosmos_server, doc, double, partition  # noqa: F401
from tests.cosmos_double.server import Double
from tests.cosmos_double.sql import parse_predicate

IS_ONE = (FieldIn("n", (1,)),)


@pytest.fixture
async def second(double: Double) -> AsyncIterator[CosmosStore]:
    """Another process."""
    store = CosmosStore(account_of(double))
    yield store
    await store.close()


def kinds(*ops: Op) -> list[str]:
    """The operations of the batch, and whether each has a condition."""
    texts = check_transaction(Partition("s", "w"), ops)
    return [f"{kind}{'?' if options else ''}" for kind, _, options in expand(ops, texts, "t").operations()]


class TestBatches:
    def test_a_condition_is_the_predicate_of_a_patch(self) -> None:
        """Nothing else in a batch is refused for a field's value, and reads not even for their etag."""
        assert kinds(Patch("a", set={"n": 1}, when=IS_ONE)) == ["patch?"]
        assert kinds(Check("a", IS_ONE), Check("a"), Check("a", etag="e")) == ["patch?", "read", "patch?"]
        assert kinds(Replace(doc("a"), IS_ONE), Replace(doc("a"))) == ["patch?", "replace", "replace"]
        assert kinds(Delete("a", IS_ONE), Delete("a"), Create(doc("b"))) == ["patch?", "delete", "delete", "create"]

    def test_ten_changes_and_the_version_take_two_patches(self) -> None:
        nine: dict[str, Any] = {f"f{index}": index for index in range(9)}
        assert kinds(Patch("a", set=nine, when=IS_ONE)) == ["patch?"]
        assert kinds(Patch("a", set=nine, increment={"n": 1}, when=IS_ONE)) == ["patch?", "patch"]
        assert kinds(Patch("a", append={"x": 1})) == ["patch?"]
        assert kinds(Patch("a", append={"x": 1}, when=IS_ONE)) == ["patch?", "patch?"]
        assert kinds(Patch("a", append={f"f{index}": 1 for index in range(10)})) == ["patch?", "patch?"]

    async def test_the_limit_counts_what_conditions_add(self, cosmos: CosmosStore, partition: Partition) -> None:
        """Cosmos would refuse the batch with a message that names neither."""
        await cosmos.transact(partition, [Create(doc("a", n=1))])
        fits: list[Op] = [Replace(doc("a", n=1), IS_ONE)] * 50
        await cosmos.transact(partition, fits)
        with pytest.raises(TooLarge, match="conditions"):
            await cosmos.transact(partition, [*fits, Check("a")])

    @pytest.mark.parametrize("field", ["list.0", "list.-", "object.7", "a/b", "a~b"])
    async def test_a_path_that_means_something_else_to_cosmos_is_refused(
        self, cosmos: CosmosStore, partition: Partition, field: str
    ) -> None:
        await cosmos.transact(partition, [Create(doc("a", list=[1], object={}))])
        for patch in (Patch("a", set={field: 1}), Patch("a", increment={field: 1}), Patch("a", append={field: 1})):
            with pytest.raises(ValueError, match="patched"):
                await cosmos.transact(partition, [patch])

    async def test_appending_to_an_object_adds_no_field(self, cosmos: CosmosStore, partition: Partition) -> None:
        """To Cosmos it would be a field named `-`."""
        await cosmos.transact(partition, [Create(doc("a", object={}))])
        with pytest.raises(ValueError, match="fit"):
            await cosmos.transact(partition, [Patch("a", append={"object": 1})])
        with pytest.raises(ConditionFailed):
            await cosmos.transact(partition, [Patch("a", append={"object": 1}, when=IS_ONE)])
        assert (await cosmos.get(partition, "a"))["object"] == {}

    async def test_an_append_sees_what_the_same_patch_sets(self, cosmos: CosmosStore, partition: Partition) -> None:
        await cosmos.transact(partition, [Create(doc("a"))])
        [patched] = await cosmos.transact(partition, [Patch("a", set={"list": ["x"]}, append={"list": "y"})])
        assert patched is not None and patched["list"] == ["x", "y"]

    @pytest.mark.parametrize(
        "text", ["'", '"', "\\", "\\'", '\\"', "' OR true --", "\u2028\x00\n", "🙂\ud83d"[:-1], "//"]
    )
    def test_a_literal_is_read_back_as_it_was(self, text: str) -> None:
        """A status or a name that ends its own quotes would rewrite the guard."""
        holds = parse_predicate(f'FROM c WHERE c["x"] = {literal(text)}')
        assert holds({"x": text}) is True
        assert holds({"x": text + "x"}) is False

    async def test_a_ttl_is_cosmos_own(self, cosmos: CosmosStore, double: Double, partition: Partition) -> None:
        """Documents that age out say so in `ttl`, in seconds."""
        clock = double.account.clock
        await cosmos.transact(partition, [Create(doc("a", ttl=60)), Create(doc("b"))])
        with pytest.raises(ValueError, match="fit"):
            await cosmos.transact(partition, [Create(doc("c", ttl=0))])
        [container] = double.account.databases["truestop"].values()
        container.clock = lambda: clock() + 61
        try:
            with pytest.raises(NotFound):
                await cosmos.get(partition, "a")
            assert [one["id"] for one in (await cosmos.query(Query("run", partition))).items] == ["b"]
        finally:
            container.clock = clock


class TestSession:
    async def test_reads_see_the_writes_before_them(
        self, cosmos: CosmosStore, second: CosmosStore, double: Double, partition: Partition
    ) -> None:
        """The SDK forgets the session token of a batch; the children of a cancelled run would be missed."""
        await cosmos.transact(partition, [Create(doc("a", n=1))])
        assert (await second.get(partition, "a"))["n"] == 1
        double.trouble.stale = True
        await cosmos.transact(partition, [Patch("a", set={"n": 2}), Create(doc("b"))])
        assert (await second.get(partition, "a"))["n"] == 1  # nothing told it
        assert (await cosmos.get(partition, "a"))["n"] == 2
        assert len((await cosmos.query(Query("run", partition))).items) == 2
        assert len((await cosmos.query(Query("run", partition.scope))).items) == 2
        assert len((await cosmos.changes(partition)).items) == 2

    async def test_a_refused_batch_also_moves_the_session(
        self, cosmos: CosmosStore, second: CosmosStore, double: Double, partition: Partition
    ) -> None:
        """Who was refused looks again at once, and must see why."""
        await cosmos.transact(partition, [Create(doc("a", n=1))])
        double.trouble.stale = True
        await second.transact(partition, [Patch("a", set={"n": 2})])
        with pytest.raises(ConditionFailed):
            await cosmos.transact(partition, [Check("a", IS_ONE)])
        assert (await cosmos.get(partition, "a"))["n"] == 2

    def test_the_newest_token_of_each_range_is_kept(self) -> None:
        tokens = SessionTokens()
        assert tokens.text is None
        for text in ("0:1#5#3=4", "1:1#9", "0:1#4#3=9", "0:1#7#3=6,1:1#8", "", "2:-1#12", "0:0#99"):
            tokens.note({"x-ms-session-token": text})
        assert tokens.text == "0:1#7#3=6,1:1#9,2:-1#12"


class TestQueries:
    @pytest.mark.parametrize("page_size", [1, 2])
    async def test_short_and_empty_pages_are_not_the_end(
        self, cosmos: CosmosStore, double: Double, partition: Partition, page_size: int
    ) -> None:
        """Cosmos may end a page at any moment, for its own reasons."""
        await cosmos.transact(partition, [Create(doc(f"d{index}", at=index // 3)) for index in range(9)])
        double.trouble.page_size = page_size
        for order_by in ("id", "at"):
            page = await cosmos.query(Query("run", partition, order_by=order_by, limit=7))
            assert [one["id"] for one in page.items] == [f"d{index}" for index in range(7)]
            rest = await cosmos.query(Query("run", partition, order_by=order_by, limit=7, after=page.next))
            assert ([one["id"] for one in rest.items], rest.next) == (["d7", "d8"], None)

    @pytest.mark.parametrize("descending", [False, True])
    async def test_ties_and_types_are_in_order_across_pages(
        self, cosmos: CosmosStore, partition: Partition, descending: bool
    ) -> None:
        """Cosmos orders by one field only; more ties than a page holds come in any order, here the wrong one."""
        values: list[Any] = [*["same"] * 5, 2, 2, 2, 10, True, None, [], "other"]
        await cosmos.transact(partition, [Create(doc(f"d{20 - i}", at=value)) for i, value in enumerate(values)])

        def key(pair: tuple[int, Any]) -> tuple[int, Any, str]:
            value = pair[1]
            kind = 2 if isinstance(value, str) else 1 if type(value) is int else 0
            return kind, value if kind else 0, f"d{20 - pair[0]}"

        expected = [f"d{20 - i}" for i, _ in sorted(enumerate(values), key=key, reverse=descending)]
        for limit in (1, 2, 4):
            found: list[str] = []
            after = None
            while True:
                query = Query("run", partition, order_by="at", descending=descending, limit=limit, after=after)
                page = await cosmos.query(query)
                found += [one["id"] for one in page.items]
                if (after := page.next) is None:
                    break
            assert found == expected

    async def test_a_page_costs_one_request(self, cosmos: CosmosStore, double: Double, partition: Partition) -> None:
        await cosmos.transact(partition, [Create(doc(f"d{index}", at=index)) for index in range(9)])
        double.trouble.clear()
        await cosmos.query(Query("run", partition, limit=4))
        await cosmos.query(Query("run", partition, order_by="at", descending=True, limit=4))
        assert double.trouble.seen["query"] == 2

    async def test_documents_say_nothing_of_the_store(self, cosmos: CosmosStore, partition: Partition) -> None:
        await cosmos.transact(partition, [Create(doc("a"))])
        [found] = (await cosmos.query(Query("run", partition, (Compare("id", ">=", "a"),)))).items
        assert {name for name in found if name.startswith("_")} == {"_etag"}
        assert found == await cosmos.get(partition, "a") == (await cosmos.changes(partition)).items[0]


class TestFeed:
    async def test_guards_are_not_in_the_feed(self, cosmos: CosmosStore, partition: Partition) -> None:
        """Each heartbeat checks its run: every live view would get the run anew, unchanged."""
        await cosmos.transact(partition, [Create(doc("a", n=1)), Create(doc("b"))])
        token = (await cosmos.changes(partition)).token
        for index in range(3):
            await cosmos.transact(partition, [Check("a", IS_ONE), Patch("b", set={"at": index})])
            news = await cosmos.changes(partition, token)
            assert [one["id"] for one in news.items] == ["b"]
            token = news.token
        await cosmos.transact(partition, [Patch("a", set={"n": 2})])
        await cosmos.transact(partition, [Check("a", (FieldIn("n", (2,)),))])
        assert [one["id"] for one in (await cosmos.changes(partition, token)).items] == ["a"]

    async def test_a_large_transaction_comes_in_parts(self, cosmos: CosmosStore, partition: Partition) -> None:
        """Cosmos never cuts one in two, whatever the limit; the port's callers size their buffers by it."""
        await cosmos.transact(partition, [Create(doc(f"d{index:02}")) for index in range(REMEMBERED * 2)])
        seen, token = [], None
        for _ in range(REMEMBERED * 2 // 10 + 1):
            news = await cosmos.changes(partition, token, limit=10)
            assert len(news.items) <= 10
            seen += [one["id"] for one in news.items]
            token = news.token
        assert seen == [f"d{index:02}" for index in range(REMEMBERED * 2)]
        assert (await cosmos.changes(partition, token)).items == []

    async def test_feeds_read_at_once_do_not_mix(self, cosmos: CosmosStore) -> None:
        """The SDK passes a page's token through a field that all requests of a client share."""
        partitions = [Partition(f"user:{uuid.uuid4().hex}", "w1") for _ in range(6)]

        async def follow(partition: Partition) -> list[str]:
            seen: list[str] = []
            token = None
            for index in range(8):
                await cosmos.transact(partition, [Create(doc(f"d{index}"))])
                news = await cosmos.changes(partition, token)
                seen += [one["id"] for one in news.items]
                token = news.token
                await cosmos.get(partition, "d0")
            return seen

        assert await asyncio.gather(*map(follow, partitions)) == [[f"d{index}" for index in range(8)]] * 6

    async def test_a_token_stays_short(self, cosmos: CosmosStore, partition: Partition) -> None:
        """It travels in the `Last-Event-ID` header."""
        for start in range(0, 200, 50):
            await cosmos.transact(partition, [Create(doc(f"d{index}")) for index in range(start, start + 50)])
        assert len((await cosmos.changes(partition, limit=1000)).token) < 2000

    async def test_a_token_opens_no_other_partition(self, cosmos: CosmosStore, partition: Partition) -> None:
        """Tokens come from browsers; the SDK follows whatever range is in one."""
        other = Partition(f"user:{uuid.uuid4().hex}", "w1")
        await cosmos.transact(other, [Create(doc("secret"))])
        token = (await cosmos.changes(other)).token
        await cosmos.transact(other, [Create(doc("later secret"))])
        assert (await cosmos.changes(partition, token)).items == []
        continuation, seen = json.loads(base64.urlsafe_b64decode(token))
        state = json.loads(base64.b64decode(continuation))
        state["continuation"]["continuation"][0]["range"] |= {"min": "", "max": "FF"}
        state["continuation"]["continuation"][0]["token"] = '"0"'
        forged = base64.urlsafe_b64encode(
            json.dumps([base64.b64encode(json.dumps(state).encode()).decode(), seen]).encode()
        ).decode()
        assert (await cosmos.changes(partition, forged)).items == []

    @pytest.mark.parametrize("inner", [{}, [], 7, {"v": "v2"}, {"v": "v2", "rid": "x", "mode": "LatestVersion"}])
    async def test_a_token_that_the_sdk_can_not_read_is_a_value_error(
        self, cosmos: CosmosStore, partition: Partition, inner: object
    ) -> None:
        continuation = base64.b64encode(json.dumps(inner).encode()).decode()
        token = base64.urlsafe_b64encode(json.dumps([continuation, ""]).encode()).decode()
        with pytest.raises(ValueError, match="token"):
            await cosmos.changes(partition, token)
