"""Route templates as the Functions host reads them (ASP.NET's), so that what is served here is served there.

Literals ignore case, a trailing slash doesn't count, an encoded slash (`%2F`) stays encoded in what a parameter
captures, and among the routes that match a request the first *by function name* wins, not the most specific.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")
Check = Callable[[str], bool]

_PARAMETER = re.compile(r"\{(\*{0,2})([A-Za-z_]\w*)((?::.*)?)\}", re.DOTALL)
_CONSTRAINT = re.compile(r":([a-z]+)(?:\(((?:[^()\\]|\\.|\([^()]*\))*)\))?")
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)


class RouteError(ValueError):
    """A route template that can't be served. The message says what is wrong with it."""

    def __init__(self, template: str, reason: str) -> None:
        super().__init__(template, reason)
        self.template, self.reason = template, reason

    def __str__(self) -> str:
        return f"route {self.template!r}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Route(Generic[T]):
    name: str
    methods: frozenset[str] | None
    template: Template
    target: T


class Router(Generic[T]):
    """Finds what serves a request. `T` is whatever the caller registers."""

    def __init__(self) -> None:
        self._routes: list[_Route[T]] = []

    def add(self, name: str, methods: Iterable[str] | None, template: str, target: T) -> None:
        """Register a function's route; no methods means all. Raises `RouteError`."""
        allowed = frozenset(method.upper() for method in methods or ()) or None
        self._routes.append(_Route(name, allowed, Template(template), target))
        self._routes.sort(key=lambda route: (route.name.upper(), route.name))

    def match(self, method: str, raw_path: str) -> tuple[T, dict[str, str]] | None:
        """What serves `method` on the still percent-encoded path, with its route parameters; None: answer 404."""
        path = decode_path(raw_path)
        for route in self._routes:
            if route.methods is not None and method not in route.methods:
                continue
            parameters = route.template.match(path)
            if parameters is not None:
                return route.target, parameters
        return None


class Template:
    """One compiled route template, such as `api/runs/{id:int}/{*rest}`."""

    def __init__(self, template: str) -> None:
        self._checks: list[tuple[str, tuple[Check, ...]]] = []
        pattern = ""
        optional = 0
        segments = [segment for segment in _split(template.strip("/")) if segment]
        for position, segment in enumerate(segments):
            slash = "/" if position else ""
            if "{" not in segment and "}" not in segment:
                if optional:
                    raise RouteError(template, "a literal can't follow an optional parameter")
                pattern += slash + re.escape(segment)
                continue
            stars, name, may_miss, checks = _parameter(template, segment)
            if name in dict(self._checks):
                raise RouteError(template, f"parameter {name!r} occurs twice")
            self._checks.append((name, checks))
            if stars and position != len(segments) - 1:
                raise RouteError(template, "a catch-all must come last")
            if optional and not (may_miss or stars):
                raise RouteError(template, f"parameter {name!r} can't follow an optional one")
            if stars:
                pattern += f"(?:{slash}(.*))?"
            elif may_miss:
                pattern += f"(?:{slash}([^/]+)"
                optional += 1
            else:
                pattern += f"{slash}([^/]+)"
        self._pattern = re.compile(f"/{pattern}{')?' * optional}/?", re.IGNORECASE | re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters that `path` (see `decode_path`) gives; absent ones are left out. None: it doesn't match."""
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        parameters: dict[str, str] = {}
        for (name, checks), value in zip(self._checks, found.groups(), strict=True):
            if not value:
                continue
            if not all(check(value) for check in checks):
                return None
            parameters[name] = value
        return parameters


def decode_path(raw_path: str) -> str:
    """Percent-decode a path as Kestrel does: all but encoded slashes, which would change its segments."""
    if "%" not in raw_path:
        return raw_path
    return unquote(_ENCODED_SLASH.sub("%252F", raw_path))


def _split(template: str) -> list[str]:
    """Split at slashes, except inside braces (a constraint's argument may hold one)."""
    segments, depth = [""], 0
    for character in template:
        depth += (character == "{") - (character == "}")
        if character == "/" and depth == 0:
            segments.append("")
        else:
            segments[-1] += character
    return segments


def _parameter(template: str, segment: str) -> tuple[bool, str, bool, tuple[Check, ...]]:
    inner = segment
    may_miss = segment.endswith("?}")
    if may_miss:
        inner = segment[:-2] + "}"
    found = _PARAMETER.fullmatch(inner)
    if found is None:
        raise RouteError(template, f"{segment!r} is not supported: a segment is a literal or one parameter")
    stars, name, constraints = found.groups()
    checks = []
    position = 0
    while position < len(constraints):
        constraint = _CONSTRAINT.match(constraints, position)
        if constraint is None:
            raise RouteError(template, f"can't read the constraints of {segment!r}")
        checks.append(_check(template, constraint.group(1), constraint.group(2)))
        position = constraint.end()
    return bool(stars), name, may_miss, tuple(checks)


def _check(template: str, name: str, argument: str | None) -> Check:
    try:
        if argument is None:
            return _PLAIN[name]
        if name == "regex":
            pattern = re.compile(argument.replace("{{", "{").replace("}}", "}"), re.IGNORECASE)
            return lambda value: pattern.search(value) is not None
        return _ranged(name, [int(part) for part in argument.split(",")])
    except (KeyError, ValueError, re.error) as error:
        shown = name if argument is None else f"{name}({argument})"
        raise RouteError(template, f"constraint {shown!r} is not supported by devhost") from error


def _ranged(name: str, numbers: list[int]) -> Check:
    if name == "length":
        return lambda value: numbers[0] <= len(value) <= numbers[-1]
    if name == "range":
        low, high = numbers
        return lambda value: _whole(value, 64) and low <= int(value) <= high
    (limit,) = numbers
    checks: dict[str, Check] = {
        "minlength": lambda value: len(value) >= limit,
        "maxlength": lambda value: len(value) <= limit,
        "min": lambda value: _whole(value, 64) and int(value) >= limit,
        "max": lambda value: _whole(value, 64) and int(value) <= limit,
    }
    return checks[name]


def _whole(value: str, bits: int) -> bool:
    if re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value) is None:
        return False
    limit: int = 2 ** (bits - 1)
    return -limit <= int(value) < limit


def _guid(value: str) -> bool:
    try:
        uuid.UUID(value)
    except ValueError:
        return False
    return True


_PLAIN: dict[str, Check] = {
    "int": lambda value: _whole(value, 32),
    "long": lambda value: _whole(value, 64),
    "bool": lambda value: value.lower() in ("true", "false"),
    "guid": _guid,
    "alpha": lambda value: re.fullmatch(r"[A-Za-z]*", value) is not None,
    "required": lambda value: bool(value.strip()),
}
