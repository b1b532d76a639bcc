"""Texts that .NET reads as a TimeSpan: in schedules and in host.json."""

from __future__ import annotations

import re
from datetime import timedelta

_FORM = re.compile(
    r"(?:(?P<days>\d{1,8})(?:\.|:(?=\d+:\d+:)))?"
    r"(?P<h>\d{1,8}):(?P<m>\d{1,2})(?::(?P<s>\d{1,2})(?:\.(?P<f>\d{1,7}))?)?"
)
_DAYS = re.compile(r"\d{1,8}")


def parse_timespan(text: str) -> timedelta:
    """`hh:mm`, `hh:mm:ss`, `d.hh:mm:ss.fffffff`, or days. Raises `ValueError`.

    As in .NET, `24:00:00` is 24 *days*: what can't be hours is read as `dd:hh:mm`. Negative spans are refused.
    """
    text = text.strip()
    if _DAYS.fullmatch(text):
        return timedelta(days=int(text))
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time span (hh:mm:ss)")
    days, fraction = found["days"], found["f"] or ""
    hours, minutes, seconds = (int(found[name] or 0) for name in "hms")
    if days is None and hours > 23 and found["s"] is not None and not fraction:
        days, hours, minutes, seconds = hours, minutes, seconds, 0
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ValueError(f"{text!r} is not a time span: hours, minutes or seconds are too many")
    microseconds = int(fraction.ljust(6, "0")[:6])
    return timedelta(days=int(days or 0), hours=hours, minutes=minutes, seconds=seconds, microseconds=microseconds)
