"""What host.json says of queues and blobs, read as the host reads it: names in any case, its defaults for the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from devhost.triggers.timespan import parse_timespan

SHORTEST_POLL = timedelta(milliseconds=100)
MAX_BATCH = 32
_DEVELOPMENT_POLL = timedelta(seconds=2)
"""The host's own default where AZURE_FUNCTIONS_ENVIRONMENT is Development, as it is here."""
_LONGEST = timedelta(days=7)
_ENCODINGS = {"base64": True, "none": False}


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Section `extensions.queues`. `new_batch_threshold` None: half a batch for each core."""

    batch_size: int = 16
    new_batch_threshold: int | None = None
    max_dequeue_count: int = 5
    visibility_timeout: timedelta = timedelta(0)
    max_polling_interval: timedelta = _DEVELOPMENT_POLL
    encoded: bool = True

    @property
    def threshold(self) -> int:
        """With at most so many messages at work, the next batch is fetched."""
        if self.new_batch_threshold is not None:
            return self.new_batch_threshold
        return self.batch_size // 2 * (os.cpu_count() or 1)


DEFAULT_QUEUES = QueueOptions()
_BLOBS_A_CORE = 8


def queue_options(section: Mapping[str, Any]) -> QueueOptions:
    """Raises `ValueError` that says what is wrong."""
    given = _by_lower_name(section)
    found: dict[str, Any] = {}
    for key, name, least, most in (
        ("batch_size", "batchsize", 1, MAX_BATCH),
        ("new_batch_threshold", "newbatchthreshold", 0, 1000),
        ("max_dequeue_count", "maxdequeuecount", 1, 1000),
    ):
        if name in given:
            found[key] = _number(*given[name], least, most)
    for key, name, shortest in (
        ("visibility_timeout", "visibilitytimeout", timedelta(0)),
        ("max_polling_interval", "maxpollinginterval", SHORTEST_POLL),
    ):
        if name in given:
            found[key] = _span(*given[name], shortest)
    if "messageencoding" in given:
        name, value = given["messageencoding"]
        if not isinstance(value, str) or value.lower() not in _ENCODINGS:
            raise ValueError(f"{name} must be base64 or none, not {value!r}")
        found["encoded"] = _ENCODINGS[value.lower()]
    return QueueOptions(**found)


def blob_options(section: Mapping[str, Any]) -> QueueOptions:
    """Section `extensions.blobs` as options of the queue between scan and function. Raises `ValueError`."""
    given = _by_lower_name(section)
    at_once, tries = _BLOBS_A_CORE * (os.cpu_count() or 1), DEFAULT_QUEUES.max_dequeue_count
    if "maxdegreeofparallelism" in given:
        at_once = _number(*given["maxdegreeofparallelism"], 1, 1000)
    if "poisonblobthreshold" in given:
        tries = _number(*given["poisonblobthreshold"], 1, 1000)
    batch = min(MAX_BATCH, at_once // 2 + 1)
    return QueueOptions(batch_size=batch, new_batch_threshold=at_once - batch, max_dequeue_count=tries)


def _by_lower_name(section: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    return {name.lower(): (name, value) for name, value in section.items()}


def _number(name: str, value: Any, least: int, most: int) -> int:
    """A number, or the text of one: to the host all that host.json holds is text."""
    text = "" if isinstance(value, bool) else str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
        raise ValueError(f"{name} must be a number from {least} to {most}, not {value!r}")
    return int(text)


def _span(name: str, value: Any, shortest: timedelta) -> timedelta:
    try:
        span = parse_timespan(str(value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not shortest <= span <= _LONGEST:
        raise ValueError(f"{name} must be from {shortest} to {_LONGEST}, not {value!r}")
    return span


DEFAULT_BLOBS = blob_options({})
