"""The store against a server that somebody else wrote, for the part that it can do: opening, creating, reading, querying.

What this is worth: the double's query language and the store's queries come from one project, and could share a mistake.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from shared.errors import Conflict
from shared.store.cosmos import CosmosStore
from shared.store.cosmos_client import CosmosAccount, initialise
from shared.store.port import Contains, Create, Document, Filter, Partition, Query
from tests.contract.test_store_queries import CONDITIONS, FILTERS, SUBJECT
from tests.cosmos_double.vercel import KEY, vercel_server


def can_ask(condition: Filter) -> bool:
    """Not: CONTAINS that ignores case, which it doesn't have; a place in an array by text, which is JavaScript's."""
    return not isinstance(condition, Contains) and condition.field != "list.0"


@pytest.fixture(scope="module")
def account() -> Iterator[CosmosAccount]:
    with vercel_server() as endpoint:
        made = CosmosAccount(endpoint, KEY, "truestop", "truestop")
        asyncio.run(initialise(made))
        yield made


@pytest.fixture
async def store(account: CosmosAccount) -> AsyncIterator[CosmosStore]:
    opened = CosmosStore(account)
    yield opened
    await opened.close()


@pytest.fixture
def partition() -> Partition:
    return Partition(f"user:{uuid.uuid4().hex}", "w1")


def fresh(**fields: object) -> Document:
    """A document of a type of its own: this server's queries can't be kept to a partition."""
    return {**fields, "id": str(fields.get("id", uuid.uuid4().hex)), "type": uuid.uuid4().hex}


async def test_a_document_is_created_and_read(store: CosmosStore, partition: Partition) -> None:
    made = fresh(value=[1, 1.5, True, None, "ü🙂", {}])
    [created] = await store.transact(partition, [Create(made)])
    assert created is not None and await store.get(partition, made["id"]) == created
    assert created | made == created
    with pytest.raises(Conflict) as caught:
        await store.transact(partition, [Create(made)])
    assert caught.value.op_index == 0


async def test_filters_find_the_same_there(store: CosmosStore) -> None:
    """Each filter of the contract, in another's reading of the query language."""
    here = Partition(f"user:{uuid.uuid4().hex}", uuid.uuid4().hex)
    made = fresh(**SUBJECT)
    await store.transact(here, [Create(made)])
    asked, wrong = 0, []
    for condition, expected in CONDITIONS + FILTERS:
        if can_ask(condition):
            asked += 1
            found = (await store.query(Query(made["type"], None, (condition,)))).items
            if [one["id"] for one in found] != (["a"] if expected else []):
                wrong.append(condition)
    assert wrong == []
    assert asked > 60


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_are_the_same_there(store: CosmosStore, partition: Partition, descending: bool) -> None:
    kind, values = uuid.uuid4().hex, ["b", None, "a", "b", 7, "B", None, -1, True, "b", "aa"]
    named = [(f"{kind}-{index:02}", value) for index, value in enumerate(values)]
    await store.transact(partition, [Create({"id": name, "type": kind, "at": value}) for name, value in named])

    def key(one: tuple[str, object]) -> tuple[int, str | float, str]:
        name, value = one
        if isinstance(value, str):
            return 2, value, name
        return (1, value, name) if isinstance(value, int) and not isinstance(value, bool) else (0, 0, name)

    found: list[str] = []
    after = None
    while True:
        page = await store.query(Query(kind, None, order_by="at", descending=descending, limit=2, after=after))
        found += [one["id"] for one in page.items]
        if (after := page.next) is None:
            break
    assert found == [name for name, _ in sorted(named, key=key, reverse=descending)]
