"""Cron expressions: the moments at which they fire, in a time zone.

cronsim knows the calendar; the clock changes are settled here, by the two rules of Debian's cron:

- Minute and hour both given (`30 2 * * *`): once a day by the wall clock. A time that a change leaves out fires at the first
  moment after the gap; one that comes twice fires the first time.
- Minute or hour beginning with `*` (`*/15 * * * *`): whenever the wall clock shows such a time. One that is left out doesn't
  fire; one that comes twice fires twice.

cronsim is given wall-clock times only in the second case: with a zone it misses times, and can loop for ever, where a change
isn't by a whole hour or at one (docs/decisions/cron.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = 5
MAX_LENGTH = 200
LOOK_AHEAD = timedelta(days=364)
OFFSETS_STEP = timedelta(days=7)
"""No change of a zone's offset is undone within a week."""
_NO_PLACE = frozenset({"Factory", "localtime", "posixrules"})
"""Files of the zone database that name no place: what they mean depends on the machine."""


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NO_PLACE


def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises `ValueError`."""
    if name not in _zones():
        raise ValueError("is not a time zone; names are like Europe/Paris")
    return ZoneInfo(name)


def check_cron(text: str) -> None:
    """Raises `ValueError` for what is no cron expression of five fields, or never fires."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"is over {MAX_LENGTH} characters")
    if len(text.split()) != FIELDS:
        raise ValueError("must have five fields: minute, hour, day of month, month, day of week")
    try:
        first = next(CronSim(text, datetime.now(UTC)), None)
    except CronSimError as error:
        raise ValueError(f"is not a cron expression: {error}") from None
    if first is None:
        raise ValueError("never fires")


def fires(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The moments (UTC) at which `cron` fires in `zone`, strictly after `after`, in order."""
    minute, hour = cron.split()[:2]
    found = _whenever_shown if "*" in (minute[0], hour[0]) else _once_a_day
    return (moment for moment in found(cron, zone, after) if moment > after)


def _once_a_day(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    for local in CronSim(cron, after.astimezone(zone)):
        yield local.astimezone(UTC)


def _whenever_shown(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The moments of each of the zone's offsets, merged, as far as that offset is in force then."""
    while True:
        horizon = after + LOOK_AHEAD
        offsets = {_offset(zone, after + OFFSETS_STEP * step) for step in range(LOOK_AHEAD // OFFSETS_STEP + 1)}
        for moment, offset in heapq.merge(*(_at_offset(cron, offset, after) for offset in offsets)):
            if moment > horizon:
                break  # a zone may have got other offsets by then
            if _offset(zone, moment) == offset:
                yield moment
        else:
            return
        after = horizon


def _at_offset(cron: str, offset: timedelta, after: datetime) -> Iterator[tuple[datetime, timedelta]]:
    for wall in CronSim(cron, (after + offset).replace(tzinfo=None)):
        yield wall.replace(tzinfo=UTC) - offset, offset


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
