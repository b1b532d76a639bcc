"""Identifiers and times.

ULIDs are made here rather than by a library because events need them to rise strictly within a process, also within one
millisecond; the libraries at hand promise order only between milliseconds.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS = tuple(range(120, -1, -10))
_lock = threading.Lock()
_last = 0


def new_ulid() -> str:
    """A ULID in lower case: 26 characters that sort by time, strictly rising in this process."""
    global _last  # noqa: PLW0603 - the last one made is what makes the next one larger
    moment = time.time_ns() // 1_000_000
    with _lock:
        _last = _last + 1 if moment <= _last >> 80 else moment << 80 | secrets.randbits(80)
        value = _last
    return _encoded(value)


def _encoded(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def derived_ulid(moment: datetime, text: str) -> str:
    """A ULID of `moment` whose random part is derived from `text`: the same for the same two, and unlike any other."""
    milliseconds = int(moment.timestamp() * 1000)
    chance = int.from_bytes(hashlib.sha256(text.encode()).digest()[:10])
    return _encoded(milliseconds << 80 | chance)


def now() -> str:
    """The time, RFC 3339 UTC with milliseconds: `2026-11-21T09:30:00.123Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def to_text(moment: datetime) -> str:
    """`moment` as RFC 3339 UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The moment that `to_text` wrote."""
    return datetime.fromisoformat(text)
