"""JSON text of what is stored, by orjson where it can: every operation reads and writes a handful of documents.

orjson alone would not do: it writes NaN as null, and refuses integers over 64 bits, which the standard library takes.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

_HOLDS_NO_NAN = frozenset({str, int, bool, type(None)})

loads = orjson.loads


def dumps(value: object) -> str:
    """Compact JSON of a value that came from JSON: `refuse_nan` has seen it before. Raises `TypeError`, `ValueError`."""
    try:
        return orjson.dumps(value, option=_OPTIONS).decode()
    except TypeError:
        return _ENCODER.encode(value)  # integers over 64 bits and keys that aren't strings; or it refuses as well


def parsed(text: str) -> Any:
    """The value that JSON `text` from elsewhere holds, if it can be stored. Raises `ValueError`, `RecursionError`.

    Python's parser takes more than JSON has: `NaN`, numbers that are infinite, and halves of surrogate pairs.
    """
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def refuse_nan(value: object) -> None:
    """Raise `ValueError` for NaN and infinities anywhere in `value`: JSON doesn't have them."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is not JSON")
        return
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        if type(inner) not in _HOLDS_NO_NAN:
            refuse_nan(inner)


def copied(value: Any) -> Any:
    """The value as it will be read back: a member of an enumeration becomes the string that it is."""
    if isinstance(value, str):
        return str(value)
    return loads(dumps(value)) if isinstance(value, dict | list | tuple) else value
