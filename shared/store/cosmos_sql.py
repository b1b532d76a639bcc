"""What the Cosmos DB store says in SQL: conditions as guards and filters, and a `Query` as keyset pages.

Cosmos compares by JSON type and knows a third truth value, undefined, for anything about a field that isn't there; a guard
holds only if it is true. So each condition is spelled to be true exactly when the port says that it holds, and never leans
on the negation of something undefined.

Order: Cosmos orders by several fields only with a composite index for just those fields. So a query is ordered by one
field and ties are settled here (`ordered`), which works for every field and needs no such index. Documents whose field is
neither text nor a number sort first, by partition and id: they are a segment of their own.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shared.jsontext import dumps
from shared.store.evaluate import value_at
from shared.store.limits import PARTITION_FIELDS, check_partition, field_parts
from shared.store.port import (
    MAX_PAGE,
    Compare,
    Condition,
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

VERSION = "_v"
"""Store-owned field: the transaction that wrote the document last, and the place in it. It is the port's `_etag`."""
_OPERATORS = frozenset({"<", "<=", ">", ">="})
_ALWAYS_TEXT = frozenset({"id", "type", *PARTITION_FIELDS})
Key = str | int | float | None


def literal(value: Any) -> str:
    """A scalar as SQL. JSON in ASCII is a subset of Cosmos' literals, so no text can end its own quotes."""
    return json.dumps(value, allow_nan=False)


def path(name: str) -> str:
    """A dotted field as SQL. Raises `ValueError` for what isn't a path of field names."""
    return "c" + "".join(f"[{json.dumps(part)}]" for part in field_parts(name))


def guard(conditions: Sequence[Condition], etag: str | None) -> str | None:
    """The filter predicate of a patch that may happen only if the conditions hold; None if there are none."""
    tests = [condition_sql(condition, literal) for condition in conditions]
    if etag is not None:
        tests.append(f"{path(VERSION)} = {literal(etag)}")
    return f"FROM c WHERE {' AND '.join(tests)}" if tests else None


def condition_sql(condition: Condition, value: Callable[[Scalar], str]) -> str:
    """A condition as SQL; `value` says how a scalar is spelled (a literal, or a parameter)."""
    where = path(condition.field)
    missing = f"NOT IS_DEFINED({where}) OR IS_NULL({where})"
    if isinstance(condition, HoldsNone):
        held = " OR ".join(f"ARRAY_CONTAINS({where}, {value(one)})" for one in condition.values)
        return f"({missing} OR (IS_ARRAY({where})" + (f" AND NOT ({held})" if held else "") + "))"
    tests = [missing] if None in condition.values else []
    present = [value(one) for one in condition.values if one is not None]
    if present:
        tests.append(f"{where} IN ({', '.join(present)})")
    return f"({' OR '.join(tests)})" if tests else "false"


class Statement(NamedTuple):
    """A parameterised query, as the SDK takes it."""

    query: str
    parameters: list[dict[str, Any]]


@dataclass(slots=True)
class _Builder:
    """Collects tests and their parameters."""

    tests: list[str] = field(default_factory=list)
    parameters: list[dict[str, Any]] = field(default_factory=list)

    def value(self, value: Any) -> str:
        self.parameters.append({"name": f"@p{len(self.parameters)}", "value": value})
        return str(self.parameters[-1]["name"])

    def filter(self, condition: Filter) -> None:
        if isinstance(condition, (FieldIn, HoldsNone)):
            self.tests.append(condition_sql(condition, self.value))
            return
        where = path(condition.field)
        if isinstance(condition, HoldsOne):
            self.tests.append(f"(IS_ARRAY({where}) AND ARRAY_CONTAINS({where}, {self.value(condition.value)}))")
            return
        if isinstance(condition, Compare):
            if condition.op not in _OPERATORS or sort_key(condition.value) is None:
                raise ValueError(f"can't compare: {condition}")
            kind = "IS_STRING" if isinstance(condition.value, str) else "IS_NUMBER"
            self.tests.append(f"({kind}({where}) AND {where} {condition.op} {self.value(condition.value)})")
            return
        function = "STARTSWITH" if isinstance(condition, Prefix) else "CONTAINS"
        ignoring_case = ", true" if isinstance(condition, Contains) else ""
        self.tests.append(f"(IS_STRING({where}) AND {function}({where}, {self.value(condition.value)}{ignoring_case}))")

    def beyond(self, columns: Sequence[str], place: Sequence[Key], compare: str, or_else: str) -> None:
        """Rows after `place` in the order of `columns`."""
        tests = [or_else] if or_else else []
        for last in range(len(columns)):
            equal = [f"{path(columns[i])} = {self.value(place[i])}" for i in range(last)]
            tests.append(f"({' AND '.join([*equal, f'{path(columns[last])} {compare} {self.value(place[last])}'])})")
        self.tests.append(f"({' OR '.join(tests)})")


class Segment(NamedTuple):
    """One part of a query's order: the documents that have a sort key, or those that have none."""

    statement: Statement
    columns: tuple[str, ...]
    """What orders it. The statement orders by the first, `ordered` by all."""


def segments(query: Query) -> Iterator[Segment]:
    """The statements that answer a page of the query, in order; each goes on where the one before ends.

    Raises `ValueError` for a limit out of range, a token that isn't this query's, a bad field name or comparison.
    """
    if not 1 <= query.limit <= MAX_PAGE:
        raise ValueError(f"limit is 1 to {MAX_PAGE}, not {query.limit}")
    if isinstance(query.within, Partition):
        check_partition(query.within)
    fixed = 2 if isinstance(query.within, Partition) else 0 if query.within is None else 1
    tie = (*PARTITION_FIELDS[fixed:], "id")
    keyed = (query.order_by, *(name for name in tie if name != query.order_by))
    place = None if query.after is None else _read_token(query)
    kinds = [True] if query.order_by in _ALWAYS_TEXT else [query.descending, not query.descending]
    if place is not None:
        kinds = kinds[kinds.index(place[query.order_by] is not None) :]
    for has_key in kinds:
        yield _statement(query, keyed if has_key else tie, has_key, place)
        place = None


def _statement(query: Query, columns: tuple[str, ...], has_key: bool, place: dict[str, Key] | None) -> Segment:
    build = _Builder()
    build.tests.append(f"{path('type')} = {build.value(query.type)}")
    for condition in query.where:
        build.filter(condition)
    where = path(query.order_by)
    if query.order_by not in _ALWAYS_TEXT:
        sortable = f"(IS_NUMBER({where}) OR IS_STRING({where}))"
        build.tests.append(sortable if has_key else f"NOT {sortable}")
    if place is not None:
        or_else = ""
        if has_key and query.order_by not in _ALWAYS_TEXT:  # numbers come before text, and never compare with it
            text = isinstance(place[query.order_by], str)
            or_else = f"IS_NUMBER({where})" if text and query.descending else ""
            or_else = f"IS_STRING({where})" if not text and not query.descending else or_else
        build.beyond(columns, [place[name] for name in columns], "<" if query.descending else ">", or_else)
    direction = "DESC" if query.descending else "ASC"
    sql = f"SELECT * FROM c WHERE {' AND '.join(build.tests)} ORDER BY {path(columns[0])} {direction}"  # noqa: S608
    return Segment(Statement(sql, build.parameters), columns)


def sort_key(value: Any) -> Key:
    """The value if documents can be ordered by it, else None."""
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def tied(columns: Sequence[str], one: Document, other: Document) -> bool:
    """Whether only `ordered` can tell which of two rows comes first."""
    return len(columns) > 1 and bool(value_at(one, columns[0]) == value_at(other, columns[0]))


def ordered(rows: list[Document], columns: Sequence[str], descending: bool) -> list[Document]:
    """Rows as their statement ordered them, with ties settled."""
    groups = itertools.groupby(rows, key=lambda row: value_at(row, columns[0]))
    settled = (
        sorted(group, key=lambda row: [value_at(row, name) for name in columns[1:]], reverse=descending)
        for _, group in groups
    )
    return list(itertools.chain.from_iterable(settled))


def page_token(query: Query, last: Document) -> str:
    """The token for the page after the one that ends with `last`."""
    place = [sort_key(value_at(last, query.order_by)), last["scope"], last["workflow_id"], last["id"]]
    return base64.urlsafe_b64encode(dumps([query.type, query.order_by, query.descending, *place]).encode()).decode()


def _read_token(query: Query) -> dict[str, Key]:
    try:
        token = json.loads(base64.b64decode(query.after or "", altchars=b"-_", validate=True))
        kind, order_by, descending, key, *place = token
    except (ValueError, TypeError, RecursionError):
        raise ValueError("not a page token of this store") from None
    asked = (query.type, query.order_by, query.descending)
    fits = (kind, order_by, descending) == asked and (key is None or sort_key(key) == key)
    if not fits or len(place) != 3 or not all(isinstance(part, str) for part in place):
        raise ValueError("not a page token of this query")
    if key is None and order_by in _ALWAYS_TEXT:
        raise ValueError("not a page token of this query")
    return dict(zip((*PARTITION_FIELDS, "id"), place, strict=True)) | {order_by: key}
