"""Conditions and patches on a document in memory: what they mean, for stores that don't have them built in."""

from __future__ import annotations

from typing import Any

from shared.jsontext import copied
from shared.store.limits import field_parts
from shared.store.port import Condition, Document, FieldIn, Patch, Scalar


def value_at(document: Document, field: str) -> Any:
    """The value at a dotted path, None where there is none."""
    value: Any = document
    for part in field_parts(field):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def holds(condition: Condition, document: Document) -> bool:
    """Whether a condition holds. Scalars compare by JSON type: true is not 1, but 1 is 1.0."""
    value = value_at(document, condition.field)
    if isinstance(condition, FieldIn):
        return _is_one_of(value, condition.values)
    if value is None:
        return True
    return isinstance(value, list) and not any(_is_one_of(item, condition.values) for item in value)


def apply_patch(document: Document, patch: Patch) -> None:
    """Change `document` in place, sharing nothing with the patch.

    Raises `ValueError`, perhaps half-way, where a change doesn't fit what is there.
    """
    for field, value in patch.set.items():
        parent, name = _parent(document, field)
        parent[name] = copied(value)
    for field, amount in patch.increment.items():
        parent, name = _parent(document, field)
        before = parent.get(name, 0)
        if not _is_number(before) or not _is_number(amount):
            raise ValueError(f"can't add {amount!r} to field {field!r} of document {patch.id!r}: it is {before!r:.100}")
        parent[name] = before + amount
    for field, value in patch.append.items():
        parent, name = _parent(document, field)
        array = parent.get(name)
        if not isinstance(array, list):
            raise ValueError(f"can't append to field {field!r} of document {patch.id!r}: it is {array!r:.100}")
        array.append(copied(value))


def _parent(document: Document, field: str) -> tuple[dict[str, Any], str]:
    *above, name = field_parts(field)
    parent: Any = document
    for part in above:
        parent = parent.get(part)
        if not isinstance(parent, dict):
            raise ValueError(f"field {field!r} of document {document['id']!r} has no object {part!r} above it")
    return parent, name


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_one_of(value: Any, candidates: tuple[Scalar, ...]) -> bool:
    if isinstance(value, (dict, list)):
        return False
    boolean = isinstance(value, bool)
    return any(value == candidate and isinstance(candidate, bool) is boolean for candidate in candidates)
