"""A `Query` as SQL for the SQLite store: filters, order, and the page token.

Fields are read from the JSON text, except for the few that have an indexed column. Types are compared too, since
SQLite's JSON functions read `true` as 1. The sort key of a document without the field (or with one that is neither text
nor a number) is NULL, which sorts first.
"""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

from shared.jsontext import dumps
from shared.store.evaluate import value_at
from shared.store.limits import check_partition, field_parts
from shared.store.port import (
    MAX_PAGE,
    Compare,
    Contains,
    Document,
    FieldIn,
    Filter,
    HoldsNone,
    HoldsOne,
    Partition,
    Prefix,
    Query,
    Scalar,
)

Sortable = str | int | float | None

COLUMNS = frozenset({"id", "type", "scope", "workflow_id", "status", "created_at"})
"""Fields with a column: the value if it is text or a number, else NULL."""
_LAST_CHARACTER = "\U0010ffff"
_OPERATORS = frozenset({"<", "<=", ">", ">="})


def sortable(value: object) -> Sortable:
    """The value as its column or sort key has it: text and numbers, anything else None."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)  # as SQLite reads it from JSON
    return value


class Statement(NamedTuple):
    """SQL and what is bound to its question marks."""

    sql: str
    values: list[Sortable]


def compile_query(query: Query) -> Statement:
    """A statement that answers one row: the documents, joined by commas, and their sequence numbers, alike.

    One row more than the page is asked for, to see whether another page follows. (One row in all, as each row that
    is fetched in a thread costs a hand-over of the GIL.)
    """
    if not 1 <= query.limit <= MAX_PAGE:
        raise ValueError(f"limit is 1 to {MAX_PAGE}, not {query.limit}")
    by_id = any(isinstance(condition, FieldIn) and condition.field == "id" for condition in query.where)
    # A plus keeps a column out of SQLite's choice of an index: a document sought by id is found by that, wherever it is.
    free = "+" if by_id and not isinstance(query.within, Partition) else ""
    where = [f"{free}type = ?"]
    bound: list[Sortable] = [query.type]
    tie = ["scope", "workflow_id", "id"]
    if query.within is not None:
        scope = (query.within,) if isinstance(query.within, str) else query.within
        if isinstance(query.within, Partition):
            check_partition(query.within)
        for value in scope:
            where.append(f"{free}{tie.pop(0)} = ?")
            bound.append(value)
    for condition in query.where:
        sql, more = _filter(condition)
        where.append(sql)
        bound += more
    key = _Field(query.order_by).key
    if query.after is not None:
        sql, more = _after(key, tie, query)
        where.append(sql)
        bound += more
    direction = " DESC" if query.descending else ""
    order = ", ".join(f"{column}{direction}" for column in dict.fromkeys([key, *tie]))
    bound.append(query.limit + 1)
    inner = f"SELECT body, seq FROM store_documents WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"  # noqa: S608
    return Statement(f"SELECT group_concat(body, ','), group_concat(seq) FROM ({inner})", bound)  # noqa: S608


def page_token(query: Query, last: Document) -> str:
    """The token for the page after the one that ends with `last`."""
    place = [sortable(value_at(last, query.order_by)), last["scope"], last["workflow_id"], last["id"]]
    return base64.urlsafe_b64encode(dumps([query.type, query.order_by, query.descending, *place]).encode()).decode()


class _Field:
    """How SQL reads a field: its JSON type, value, and sort key. Its name was checked, so it may be in the SQL."""

    def __init__(self, field: str) -> None:
        parts = field_parts(field)
        path = "$" + "".join(f'."{part}"' for part in parts).replace("'", "''")
        self.path = f"'{path}'"
        self.type = f"json_type(body, {self.path})"
        self.value = f"json_extract(body, {self.path})"
        self.key = f"CASE WHEN {self.type} IN ('text', 'integer', 'real') THEN {self.value} END"
        self.column = field if field in COLUMNS else None
        if self.column:
            self.key = field

    def text(self, test: str) -> str:
        """`test`, which says {x} for the field, if that is text."""
        if self.column:
            return f"(typeof({self.column}) = 'text' AND {test.format(x=self.column)})"
        return f"({self.type} = 'text' AND {test.format(x=self.value)})"

    def number(self, test: str) -> str:
        """Likewise, if it is a number."""
        if self.column:
            return f"(typeof({self.column}) IN ('integer', 'real') AND {test.format(x=self.column)})"
        return f"({self.type} IN ('integer', 'real') AND {test.format(x=self.value)})"


def _filter(condition: Filter) -> tuple[str, list[Sortable]]:
    field = _Field(condition.field)
    if isinstance(condition, FieldIn):
        return _field_in(field, condition.values)
    if isinstance(condition, HoldsNone):
        held, values = _one_of("held.type", "held.atom", condition.values)
        each = f"SELECT 1 FROM json_each(body, {field.path}) AS held WHERE {held}"  # noqa: S608
        return (
            f"(COALESCE({field.type}, 'null') = 'null' OR ({field.type} = 'array' AND NOT EXISTS ({each})))",
            values,
        )
    if isinstance(condition, HoldsOne):
        each = f"SELECT 1 FROM json_each(body, {field.path}) AS held WHERE held.type = 'text' AND held.atom = ?"  # noqa: S608
        return f"({field.type} = 'array' AND EXISTS ({each}))", [condition.value]
    if isinstance(condition, Compare):
        return _compare(field, condition)
    if isinstance(condition, Prefix):
        if field.column == "id":
            return _id_range(condition.value)
        return field.text("substr({x}, 1, ?) = ?"), [len(condition.value), condition.value]
    assert isinstance(condition, Contains)
    # SQLite lowers ASCII only; the Python function knows the rest but costs a call a row.
    lower = "lower" if condition.value.isascii() else "unicode_lower"
    return field.text(f"instr({lower}({{x}}), ?) > 0"), [condition.value.lower()]


def _field_in(field: _Field, values: tuple[Scalar, ...]) -> tuple[str, list[Sortable]]:
    if field.column and all(sortable(value) is not None for value in values):
        marks = ", ".join("?" * len(values))
        return f"{field.column} IN ({marks})", [sortable(value) for value in values]
    return _one_of(f"COALESCE({field.type}, 'null')", field.value, values)


def _one_of(type_: str, value_: str, values: tuple[Scalar, ...]) -> tuple[str, list[Sortable]]:
    scalars = [key for value in values if (key := sortable(value)) is not None]
    names = {None: "null", True: "true", False: "false"}
    tests = [f"{type_} = '{names[v]}'" for v in values if v is None or isinstance(v, bool)]
    if scalars:
        marks = ", ".join("?" * len(scalars))
        tests.append(f"({type_} IN ('text', 'integer', 'real') AND {value_} IN ({marks}))")
    return (f"({' OR '.join(tests)})" if tests else "0"), [*scalars]


def _compare(field: _Field, condition: Compare) -> tuple[str, list[Sortable]]:
    value = sortable(condition.value)
    if condition.op not in _OPERATORS or value is None:
        raise ValueError(f"can't compare: {condition}")
    test = f"{{x}} {condition.op} ?"
    return (field.text(test) if isinstance(value, str) else field.number(test)), [value]


def _id_range(prefix: str) -> tuple[str, list[Sortable]]:
    """Ids that begin with `prefix`, as a range that the index can use."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return "substr(id, 1, ?) = ?", [len(prefix), prefix]
    last = ord(stem[-1]) + 1
    end = stem[:-1] + chr(0xE000 if last == 0xD800 else last)
    return "(id >= ? AND id < ?)", [prefix, end]


def _after(key: str, tie: list[str], query: Query) -> tuple[str, list[Sortable]]:
    place = _read_token(query)
    value, rest = place[0], place[-len(tie) :]
    compare = "<" if query.descending else ">"
    rows, marks = f"({', '.join(tie)})", ", ".join("?" * len(tie))
    if value is not None:
        beyond = f"({key}, {', '.join(tie)}) {compare} (?, {marks})"
        return (f"({beyond} OR {key} IS NULL)" if query.descending else beyond), [value, *rest]
    same = f"({key} IS NULL AND {rows} {compare} ({marks}))"
    return (same if query.descending else f"({same} OR {key} IS NOT NULL)"), rest


def _read_token(query: Query) -> list[Sortable]:
    try:
        token = json.loads(base64.b64decode(query.after or "", altchars=b"-_", validate=True))
        kind, order_by, descending, key, *place = token
    except (ValueError, TypeError, RecursionError):
        raise ValueError("not a page token of this store") from None
    asked = (query.type, query.order_by, query.descending)
    fits = (kind, order_by, descending) == asked and (key is None or sortable(key) == key)
    if not fits or len(place) != 3 or not all(isinstance(part, str) for part in place):
        raise ValueError("not a page token of this query")
    return [key, *place]
