"""When a timer fires: NCRONTAB expressions and constant intervals, read as the host's own libraries read them.

NCRONTAB is not what other systems call cron: days of the month *and* of the week must match, names may be cut short
(`j` is January), a range may be turned round, and there is a field of seconds. Times are UTC, as in Azure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from devhost.triggers.timespan import parse_timespan

_SECOND = timedelta(seconds=1)
_HORIZON_DAYS = 41 * 366
"""No date lies further off: a 29 February on a given weekday comes after at most 40 years."""
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november")
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


@dataclass(frozen=True, slots=True)
class _Field:
    what: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many values there are."""
        return self.most - self.least + 1

    def parse(self, text: str) -> tuple[int, ...]:
        """The values that `text` allows, in order. Raises `ValueError`."""
        values: set[int] = set()
        for item in text.split(","):
            values.update(self._item(item))
        return tuple(sorted(values))

    def _item(self, item: str) -> range:
        span, slash, step_text = item.partition("/")
        step = max(self._number(step_text), 1) if slash else 1
        if span == "*":
            return range(self.least, self.most + 1, step)
        first, dash, last = span.partition("-")
        start = self._value(first)
        end = self._value(last) if dash else self.most if slash else start
        start, end = min(start, end), max(start, end)
        return range(start, end + 1, step)

    def _value(self, text: str) -> int:
        if text[:1].isdigit() or not text:
            number = self._number(text)
        else:
            matching = (index for index, name in enumerate(self.names) if name.startswith(text.lower()))
            number = next(matching, -1) + self.least if self.names else -1
        if not self.least <= number <= self.most:
            raise ValueError(f"{text!r} is not a {self.what} ({self.least} to {self.most})")
        return number

    def _number(self, text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise ValueError(f"{text!r} in the field of {self.what}s is not a number")
        return int(text)


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, (*_MONTHS, "december")),
    _Field("weekday", 0, 6, _WEEKDAYS),
)


class Schedule(Protocol):
    """When a timer fires."""

    @property
    def frequent(self) -> bool:
        """Whether it fires more than once a minute; the host keeps no status of such a timer."""
        ...

    def after(self, moment: datetime) -> datetime:
        """The first time after `moment`; both aware."""
        ...


@dataclass(frozen=True, slots=True)
class Cron:
    """An NCRONTAB schedule, by the values that each field allows."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]

    @property
    def frequent(self) -> bool:
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        every_minute = all(len(values) == one.size for values, one in zip(fields, _FIELDS[1:], strict=True))
        return every_minute and len(self.seconds) > 1

    def after(self, moment: datetime) -> datetime:
        start = moment.astimezone(UTC).replace(microsecond=0) + _SECOND
        earliest = (start.hour, start.minute, start.second)
        for day in self._days_from(start.date()):
            found = self._time_from(earliest if day == start.date() else (0, 0, 0))
            if found is not None:
                return datetime(day.year, day.month, day.day, *found, tzinfo=UTC)
        raise ValueError("the schedule has no date that exists")

    def _days_from(self, first: date) -> Iterator[date]:
        for offset in range(_HORIZON_DAYS):
            day = first + timedelta(days=offset)
            if day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays:
                yield day

    def _time_from(self, earliest: tuple[int, int, int]) -> tuple[int, int, int] | None:
        times = (
            (hour, minute, second)
            for hour in self.hours
            if hour >= earliest[0]
            for minute in self.minutes
            if (hour, minute) >= earliest[:2]
            for second in self.seconds
            if (hour, minute, second) >= earliest
        )
        return next(times, None)


@dataclass(frozen=True, slots=True)
class Every:
    """A constant interval from one invocation to the next."""

    interval: timedelta

    @property
    def frequent(self) -> bool:
        return self.interval < timedelta(minutes=1)

    def after(self, moment: datetime) -> datetime:
        return moment + self.interval


def parse_schedule(text: str) -> Schedule:
    """An NCRONTAB expression of five or six fields, or a TimeSpan. Raises `ValueError`."""
    parts = text.split()
    if len(parts) not in (5, 6):
        return _every(text)
    if len(parts) == 5:
        parts.insert(0, "0")
    schedule = Cron(*(field.parse(part) for field, part in zip(_FIELDS, parts, strict=True)))
    schedule.after(datetime(2000, 1, 1, tzinfo=UTC))
    return schedule


def _every(text: str) -> Every:
    try:
        interval = parse_timespan(text)
    except ValueError:
        raise ValueError("a schedule has five or six fields, or is a time span (hh:mm:ss)") from None
    if interval < _SECOND:
        raise ValueError("an interval is at least one second")
    return Every(interval)
