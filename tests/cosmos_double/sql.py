"""The query language, as far as it is needed: a parser, and an evaluator with Cosmos' third truth value, undefined."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Value = Any
Expression = Callable[[Mapping[str, Any]], Value]


class Undefined:
    """What a missing property, or a comparison of two types, is."""


UNDEFINED = Undefined()


class BadQuery(Exception):
    """A query that the double doesn't understand, or that Cosmos refuses."""


@dataclass(frozen=True, slots=True)
class OrderBy:
    """`ORDER BY path`."""

    path: tuple[str, ...]
    descending: bool


@dataclass(frozen=True, slots=True)
class Select:
    """A parsed query. `columns` None: whole documents."""

    columns: tuple[tuple[str, ...], ...] | None
    value: bool
    top: int | None
    where: Expression | None
    order: OrderBy | None
    offset: int | None
    limit: int | None

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether the document is in the result."""
        return self.where is None or self.where(document) is True

    def project(self, document: Mapping[str, Any]) -> Value:
        """What the result has of the document."""
        if self.columns is None:
            return dict(document)
        if self.value:
            return follow(document, self.columns[0])
        found = {path[-1]: follow(document, path) for path in self.columns}
        return {name: value for name, value in found.items() if value is not UNDEFINED}


def parse_query(text: str, parameters: Mapping[str, Value]) -> Select:
    """A whole query. Raises `BadQuery`."""
    return _Parser(text, parameters).query()


def parse_predicate(text: str) -> Expression:
    """The condition of a patch: `FROM c WHERE …`. Raises `BadQuery`."""
    return _Parser(text, {}).predicate()


def follow(value: Any, path: tuple[str, ...]) -> Value:
    """The value at a path."""
    for name in path:
        value = value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED
    return value


def kind(value: Value) -> int:
    """The place of a value's type in the order of types."""
    for place, types in enumerate(((Undefined,), (type(None),), (bool,), (int, float), (str,), (list,), (dict,))):
        if isinstance(value, types):
            return place
    raise TypeError(value)


def sort_key(value: Value) -> tuple[int, Any]:
    """Orders values of all types."""
    return kind(value), json.dumps(value) if isinstance(value, (list, dict)) else 0 if kind(value) < 2 else value


def equal(one: Value, other: Value) -> Value:
    """`=`: undefined between types."""
    if one is UNDEFINED or other is UNDEFINED or kind(one) != kind(other):
        return UNDEFINED
    if isinstance(one, (list, dict)):
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    return one == other


def _less(one: Value, other: Value) -> Value:
    comparable = kind(one) == kind(other) and isinstance(one, (bool, int, float, str))
    return one < other if comparable else UNDEFINED


def _not(value: Value) -> Value:
    return not value if isinstance(value, bool) else UNDEFINED


def _and(one: Value, other: Value) -> Value:
    if one is False or other is False:
        return False
    return True if one is True and other is True else UNDEFINED


def _or(one: Value, other: Value) -> Value:
    if one is True or other is True:
        return True
    return False if one is False and other is False else UNDEFINED


_COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    "=": equal,
    "!=": lambda a, b: _not(equal(a, b)),
    "<": _less,
    ">": lambda a, b: _less(b, a),
    "<=": lambda a, b: _or(_less(a, b), equal(a, b)) if kind(a) == kind(b) and kind(a) < 5 else UNDEFINED,
    ">=": lambda a, b: _or(_less(b, a), equal(a, b)) if kind(a) == kind(b) and kind(a) < 5 else UNDEFINED,
}


def _array_contains(array: Value, value: Value) -> Value:
    return any(equal(item, value) is True for item in array) if isinstance(array, list) else UNDEFINED


def _starts_with(text: Value, prefix: Value) -> Value:
    return text.startswith(prefix) if isinstance(text, str) and isinstance(prefix, str) else UNDEFINED


def _contains(text: Value, part: Value, ignoring_case: Value = False) -> Value:
    if not isinstance(text, str) or not isinstance(part, str):
        return UNDEFINED
    return part.lower() in text.lower() if ignoring_case else part in text


_FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[..., Value]]] = {
    "IS_DEFINED": ((1,), lambda value: value is not UNDEFINED),
    "IS_NULL": ((1,), lambda value: value is None),
    "IS_NUMBER": ((1,), lambda value: kind(value) == 3),
    "IS_STRING": ((1,), lambda value: isinstance(value, str)),
    "IS_BOOL": ((1,), lambda value: isinstance(value, bool)),
    "IS_ARRAY": ((1,), lambda value: isinstance(value, list)),
    "IS_OBJECT": ((1,), lambda value: isinstance(value, dict)),
    "ARRAY_CONTAINS": ((2,), _array_contains),
    "STARTSWITH": ((2,), _starts_with),
    "CONTAINS": ((2, 3), _contains),
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<parameter>@\w+)|(?P<mark><=|>=|!=|[=<>()\[\],.*]))""",
    re.ASCII,
)
_LITERALS: dict[str, Value] = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}


class _Parser:
    """Recursive descent. Keywords are known in any case; the collection's alias is whatever FROM says."""

    def __init__(self, text: str, parameters: Mapping[str, Value]) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.place, self.parameters, self.alias = 0, parameters, "c"
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise BadQuery(f"can't read {text[position : position + 30]!r}")
            assert match.lastgroup is not None
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def query(self) -> Select:
        self.need("SELECT")
        top = self.number() if self.take("TOP") else None
        value = self.take("VALUE")
        columns: tuple[tuple[str, ...], ...] | None = None
        if not self.take("*"):
            found = [self.path()]
            while not value and self.take(","):
                found.append(self.path())
            columns = tuple(found)
        where = self.source()
        order = None
        if self.take("ORDER"):
            self.need("BY")
            path = self.path()
            order = OrderBy(path, self.take("DESC"))
            self.take("ASC")
            if self.take(","):
                raise BadQuery(
                    "The order by query does not have a corresponding composite index that it can be served from."
                )
        offset = self.number() if self.take("OFFSET") else None
        limit = None
        if offset is not None:
            self.need("LIMIT")
            limit = self.number()
        self.end()
        return Select(columns, value, top, where, order, offset, limit)

    def predicate(self) -> Expression:
        where = self.source()
        self.end()
        if where is None:
            raise BadQuery("a condition needs WHERE")
        return where

    def source(self) -> Expression | None:
        self.need("FROM")
        self.alias = self.next("name")
        return self.any_of() if self.take("WHERE") else None

    def any_of(self) -> Expression:
        tests = [self.all_of()]
        while self.take("OR"):
            tests.append(self.all_of())
        return _folded(tests, _or)

    def all_of(self) -> Expression:
        tests = [self.test()]
        while self.take("AND"):
            tests.append(self.test())
        return _folded(tests, _and)

    def test(self) -> Expression:
        if self.take("NOT"):
            inner = self.test()
            return lambda document: _not(inner(document))
        left = self.operand()
        if self.take("IN"):
            self.need("(")
            options = self.arguments()
            equals = [_compared(left, option, equal) for option in options]
            return _folded(equals, _or)
        token = self.peek()
        if token[0] == "mark" and token[1] in _COMPARE:
            self.place += 1
            return _compared(left, self.operand(), _COMPARE[token[1]])
        return left

    def operand(self) -> Expression:
        group, text = self.peek()
        if self.take("("):
            inner = self.any_of()
            self.need(")")
            return inner
        if group == "name" and text == self.alias:
            path = self.path()
            return lambda document: follow(document, path)
        self.place += 1
        if group == "parameter" and text in self.parameters:
            return _constant(self.parameters[text])
        if group == "text":
            return _constant(_unquoted(text))
        if group == "number":
            return _constant(json.loads(text))
        if group == "name" and text.lower() in _LITERALS:
            return _constant(_LITERALS[text.lower()])
        if group == "name" and text.upper() in _FUNCTIONS:
            counts, function = _FUNCTIONS[text.upper()]
            self.need("(")
            arguments = self.arguments()
            if len(arguments) not in counts:
                raise BadQuery(f"{text} takes {counts} arguments")
            return lambda document: function(*(argument(document) for argument in arguments))
        raise BadQuery(f"unexpected {text!r}")

    def arguments(self) -> list[Expression]:
        found = [self.any_of()]
        while self.take(","):
            found.append(self.any_of())
        self.need(")")
        return found

    def path(self) -> tuple[str, ...]:
        if self.next("name") != self.alias:
            raise BadQuery("a path begins with the collection")
        names: list[str] = []
        while True:
            if self.take("."):
                names.append(self.next("name"))
            elif self.take("["):
                names.append(_unquoted(self.next("text")))
                self.need("]")
            else:
                break
        if not names:
            raise BadQuery("a whole document is no operand here")
        return tuple(names)

    def number(self) -> int:
        return int(self.next("number"))

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "the end")

    def next(self, group: str) -> str:
        found, text = self.peek()
        if found != group:
            raise BadQuery(f"expected a {group}, not {text!r}")
        self.place += 1
        return text

    def take(self, word: str) -> bool:
        group, text = self.peek()
        if group in ("name", "mark") and text.upper() == word:
            self.place += 1
            return True
        return False

    def need(self, word: str) -> None:
        if not self.take(word):
            raise BadQuery(f"expected {word}, not {self.peek()[1]!r}")

    def end(self) -> None:
        if self.place != len(self.tokens):
            raise BadQuery(f"unexpected {self.peek()[1]!r}")


def _constant(value: Value) -> Expression:
    return lambda _: value


def _compared(left: Expression, right: Expression, compare: Callable[[Value, Value], Value]) -> Expression:
    return lambda document: compare(left(document), right(document))


def _folded(tests: list[Expression], join: Callable[[Value, Value], Value]) -> Expression:
    if len(tests) == 1:
        return tests[0]

    def evaluate(document: Mapping[str, Any]) -> Value:
        result = tests[0](document)
        for test in tests[1:]:
            result = join(result, test(document))
        return result

    return evaluate


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\", "/": "/"}


def _unquoted(text: str) -> str:
    def meant(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] not in _ESCAPED:
            raise BadQuery(f"bad text {text}")
        return _ESCAPED[match[2]]

    halves = _ESCAPE.sub(meant, text[1:-1])
    return halves.encode("utf-16", "surrogatepass").decode("utf-16")  # join what was escaped as two halves
