"""Every `DocumentStore` against a model of it: a dict, and the port's text read literally."""

from __future__ import annotations

import copy
import uuid
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ConditionFailed, Conflict, NotFound
from shared.store.port import (
    Check,
    Compare,
    Contains,
    Create,
    Delete,
    Document,
    DocumentStore,
    FieldIn,
    Filter,
    HoldsNone,
    HoldsOne,
    Op,
    Partition,
    Patch,
    Prefix,
    Query,
    Replace,
)

Model = dict[str, Document]
SHARED_STORE = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MISSING = object()

scalars = st.sampled_from([None, True, False, 0, 1, 1.0, 2, -1.5, "", "0", "1", "a", "ab", "B", "é"])
ids = st.sampled_from(["a", "b", "a:1"])
fields = st.sampled_from(["status", "created_at", "n", "deep.x"])
values = scalars | st.lists(scalars, max_size=3)
conditions = st.builds(FieldIn, fields, st.lists(scalars, max_size=3).map(tuple)) | st.builds(
    HoldsNone, fields, st.lists(scalars, max_size=2).map(tuple)
)
guards = st.just(()) | st.tuples(conditions)
bodies = st.fixed_dictionaries(
    {"type": st.sampled_from(["run", "event"])},
    optional={
        "status": values,
        "created_at": values,
        "n": values,
        "deep": st.fixed_dictionaries({}, optional={"x": values}),
    },
)
documents = st.builds(lambda name, body: {"id": name, **body}, ids, bodies)
patches = st.builds(
    Patch,
    ids,
    set=st.dictionaries(fields, values, max_size=2),
    increment=st.dictionaries(st.sampled_from(["n", "count"]), st.integers(-2, 2), max_size=1),
    append=st.dictionaries(st.sampled_from(["created_at"]), scalars, max_size=1),
    when=guards,
)
ops: st.SearchStrategy[Op] = st.one_of(
    st.builds(Create, documents),
    st.builds(Replace, documents, guards),
    patches,
    st.builds(Delete, ids, guards),
    st.builds(Check, ids, guards),
)
numbers_or_text = st.sampled_from([0, 1, 1.5, -1, "", "a", "b", "B"])
filters: st.SearchStrategy[Filter] = st.one_of(
    conditions,
    st.builds(HoldsOne, fields, st.sampled_from(["", "0", "a", "é"])),
    st.builds(Compare, fields | st.just("id"), st.sampled_from(["<", "<=", ">", ">="]), numbers_or_text),
    st.builds(Prefix, fields | st.just("id"), st.sampled_from(["", "a", "A", "é"])),
    st.builds(Contains, fields, st.sampled_from(["", "b", "É", "0"])),
)


def at(document: Document, path: str) -> Any:
    value: Any = document
    for part in path.split("."):
        value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
    return None if value is MISSING else value


def kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def same(one: Any, other: Any) -> bool:
    return kind(one) == kind(other) and one == other


def satisfied(condition: Filter, document: Document) -> bool:
    value = at(document, condition.field)
    if isinstance(condition, FieldIn):
        return any(same(value, candidate) for candidate in condition.values)
    if isinstance(condition, HoldsNone):
        if value is None:
            return True
        return isinstance(value, list) and not any(same(x, y) for x in value for y in condition.values)
    if isinstance(condition, HoldsOne):
        return isinstance(value, list) and any(same(x, condition.value) for x in value)
    if isinstance(condition, Compare):
        if kind(value) != kind(condition.value):
            return False
        return {
            "<": value < condition.value,
            "<=": value <= condition.value,
            ">": value > condition.value,
            ">=": value >= condition.value,
        }[condition.op]
    if not isinstance(value, str):
        return False
    return (
        value.startswith(condition.value) if isinstance(condition, Prefix) else condition.value.lower() in value.lower()
    )


def step(model: Model, op: Op, index: int) -> Document | None:
    name = op.document["id"] if isinstance(op, (Create, Replace)) else op.id
    if isinstance(op, Create):
        if name in model:
            raise Conflict(name, index)
        model[name] = copy.deepcopy(op.document)
        return model[name]
    if name not in model:
        raise NotFound(name, index)
    if not all(satisfied(condition, model[name]) for condition in op.when):
        raise ConditionFailed(name, index)
    if isinstance(op, Delete):
        del model[name]
        return None
    if isinstance(op, Replace):
        model[name] = copy.deepcopy(op.document)
    if isinstance(op, Patch):
        model[name] = patched(copy.deepcopy(model[name]), op)
    return model[name]


def patched(document: Document, patch: Patch) -> Document:
    for path, value in patch.set.items():
        *above, last = path.split(".")
        parent = document
        for part in above:
            if part not in parent:
                raise ValueError
            parent = parent[part]
        parent[last] = copy.deepcopy(value)
    for path, amount in patch.increment.items():
        if kind(document.get(path, 0)) != "number":
            raise ValueError
        document[path] = document.get(path, 0) + amount
    for path, value in patch.append.items():
        if not isinstance(document.get(path), list):
            raise ValueError
        document[path].append(value)
    return document


def transact(model: Model, batch: list[Op]) -> list[Document | None]:
    trial = copy.deepcopy(model)
    results = [copy.deepcopy(step(trial, op, index)) for index, op in enumerate(batch)]
    model.clear()
    model.update(trial)
    return results


def outcome(error: Exception) -> tuple[type[Exception], object]:
    return type(error), getattr(error, "op_index", None)


def plain(document: Document | None) -> str | None:
    """Comparable, with true told from 1 (but not 1 from 1.0, which a store may turn into each other)."""
    if document is None:
        return None

    def spelled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spelled(value[key]) for key in sorted(value)}
        if isinstance(value, list):
            return [spelled(item) for item in value]
        return float(value) if kind(value) == "number" else value

    return repr(spelled({k: v for k, v in document.items() if k not in ("_etag", "scope", "workflow_id")}))


def fresh() -> Partition:
    return Partition(f"user:{uuid.uuid4().hex}", "w1")


async def contents(store: DocumentStore, partition: Partition) -> list[str | None]:
    pages = [await store.query(Query(type_, partition, limit=100)) for type_ in ("event", "run")]
    return sorted(str(plain(document)) for page in pages for document in page.items)


@SHARED_STORE
@given(batches=st.lists(st.lists(ops, min_size=1, max_size=6), max_size=5))
async def test_transactions_do_what_the_model_does(store: DocumentStore, batches: list[list[Op]]) -> None:
    """Results, the error with its index, and what is there afterwards, for any sequence of transactions."""
    partition, model = fresh(), Model()
    for batch in batches:
        expected: Any
        actual: Any
        try:
            expected = [plain(result) for result in transact(model, batch)]
        except (ConditionFailed, Conflict, NotFound, ValueError) as error:
            expected = outcome(error)
        try:
            actual = [plain(result) for result in await store.transact(partition, batch)]
        except (ConditionFailed, Conflict, NotFound, ValueError) as error:
            actual = outcome(error)
        assert actual == expected
    assert await contents(store, partition) == sorted(str(plain(document)) for document in model.values())


@SHARED_STORE
@given(stored=st.lists(bodies, max_size=8), where=st.lists(filters, max_size=2), data=st.data())
async def test_queries_find_what_the_model_finds(
    store: DocumentStore, stored: list[Document], where: list[Filter], data: st.DataObject
) -> None:
    """Filters, order, ties and page boundaries, for any mixture of types in a field."""
    partition = fresh()
    documents = [{"id": f"a{index}", **body} for index, body in enumerate(stored)]
    await store.transact(partition, [Create(document) for document in documents])
    order_by, descending = data.draw(fields | st.just("id")), data.draw(st.booleans())

    def key(document: Document) -> tuple[int, Any, str]:
        value = at(document, order_by)
        rank = {"number": 1, "str": 2}.get(kind(value), 0)
        return rank, value if rank else 0, document["id"]

    matching = [d for d in documents if d["type"] == "run" and all(satisfied(condition, d) for condition in where)]
    expected = [document["id"] for document in sorted(matching, key=key, reverse=descending)]
    found: list[str] = []
    token, limit = None, data.draw(st.integers(1, 4))
    while True:
        page = await store.query(Query("run", partition, tuple(where), order_by, descending, limit, token))
        found += [document["id"] for document in page.items]
        if (token := page.next) is None:
            break
    assert found == expected
