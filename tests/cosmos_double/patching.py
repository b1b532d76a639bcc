"""Partial document update: the operations of a patch, as documented."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cosmos_double.sql import parse_predicate

MAX_OPERATIONS = 10
_SYSTEM = frozenset({"id", "_rid", "_self", "_etag", "_ts", "_attachments"})


class BadPatch(Exception):
    """Status 400."""


def patched(
    document: Mapping[str, Any], operations: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> dict[str, Any]:
    """The document after the operations. `keys`: its partition key's fields, which can't be patched."""
    if not 1 <= len(operations) <= MAX_OPERATIONS:
        raise BadPatch(f"a patch has 1 to {MAX_OPERATIONS} operations, not {len(operations)}")
    result = copy.deepcopy(dict(document))
    for one in operations:
        _apply(result, one, {*_SYSTEM, *keys})
    return result


def allowed(document: Mapping[str, Any], condition: str | None) -> bool:
    """Whether the patch's condition holds."""
    return condition is None or parse_predicate(condition)(document) is True


def _apply(root: dict[str, Any], operation: Mapping[str, Any], fixed: set[str]) -> None:
    kind, path = operation.get("op"), operation.get("path", "")
    if not path.startswith("/") or path == "/":
        raise BadPatch(f"bad path {path!r}")
    names = [name.replace("~1", "/").replace("~0", "~") for name in path[1:].split("/")]
    if names[0] in fixed:
        raise BadPatch(f"{path} can't be patched")
    parent: Any = root
    for name in names[:-1]:
        parent = _child(parent, name)
        if not isinstance(parent, (dict, list)):
            raise BadPatch(f"{path}: there is no object or array {name!r}")
    if isinstance(parent, list):
        _in_array(parent, names[-1], kind, operation)
    else:
        _in_object(parent, names[-1], kind, operation)


def _child(parent: Any, name: str) -> Any:
    if isinstance(parent, list):
        return parent[int(name)] if name.isdigit() and int(name) < len(parent) else None
    return parent.get(name)


def _in_object(parent: dict[str, Any], name: str, kind: Any, operation: Mapping[str, Any]) -> None:
    if kind in ("set", "add"):
        parent[name] = operation["value"]
    elif kind == "incr":
        before, by = parent.get(name, 0), operation["value"]
        if isinstance(before, bool) or not isinstance(before, (int, float)) or not isinstance(by, (int, float)):
            raise BadPatch(f"{name!r} is no number")
        parent[name] = before + by
    elif kind in ("replace", "remove"):
        if name not in parent:
            raise BadPatch(f"there is no {name!r}")
        if kind == "remove":
            del parent[name]
        else:
            parent[name] = operation["value"]
    else:
        raise BadPatch(f"unknown operation {kind!r}")


def _in_array(parent: list[Any], name: str, kind: Any, operation: Mapping[str, Any]) -> None:
    if name == "-" and kind == "add":
        parent.append(operation["value"])
        return
    if not name.isdigit() or int(name) > len(parent) - (kind != "add"):
        raise BadPatch(f"there is no place {name!r} in the array")
    place = int(name)
    if kind == "add":
        parent.insert(place, operation["value"])
    elif kind in ("set", "replace"):
        parent[place] = operation["value"]
    elif kind == "remove":
        del parent[place]
    elif kind == "incr" and isinstance(parent[place], (int, float)) and not isinstance(parent[place], bool):
        parent[place] += operation["value"]
    else:
        raise BadPatch(f"can't {kind!r} there")
