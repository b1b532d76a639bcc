"""Cron expressions across clock changes, against an oracle that looks at every minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from shared.cron import check_cron, fires, zone_of

MINUTE = timedelta(minutes=1)
CHANGES = [
    ("Europe/Paris", "2026-03-29T01:00"),
    ("Europe/Paris", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Europe/Dublin", "2026-03-29T01:00"),  # winter is its "daylight saving", with a negative shift
    ("Australia/Adelaide", "2026-04-04T16:30"),  # half an hour off, shifts by an hour
    ("Australia/Adelaide", "2026-10-03T16:30"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),  # shifts by half an hour
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Pacific/Chatham", "2026-04-04T14:00"),  # 45 minutes off: changes at 2:45
    ("Pacific/Chatham", "2026-09-26T14:00"),
    ("America/St_Johns", "2010-03-14T03:31"),  # changed at one minute past midnight
    ("America/St_Johns", "2010-11-07T02:31"),
    ("America/Havana", "2026-03-08T05:00"),  # midnight doesn't exist
    ("America/Havana", "2026-11-01T05:00"),  # midnight comes twice
    ("Antarctica/Troll", "2026-03-29T01:00"),  # shifts by two hours
    ("Africa/Casablanca", "2026-02-15T02:00"),  # off for a month only
    ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day was left out
    ("Asia/Kolkata", "2026-03-29T01:00"),  # none at all
]
EXPRESSIONS = [
    "30 2 * * *",
    "0 0 * * *",
    "15 */2 * * *",
    "0 * * * *",
    "*/10 3 * * *",
    "*/10 2 * * *",
    "* 2 * * *",
    "5 1-4 * * *",
    "0,30 0,2 * * *",
    "10,40 1,2,3 * * 0",
    "*/20 0,1 * * *",
    "15 * * * 0",
]


def zoned(expression: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """What `fires` says, strictly between two moments."""
    return list(takewhile(lambda moment: moment < end, fires(expression, ZoneInfo(zone), begin)))


def minutes(begin: datetime, end: datetime) -> Iterator[datetime]:
    while begin < end:
        yield begin
        begin += MINUTE


def oracle(expression: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """The documented rules, minute by minute; of cronsim only whether a wall-clock time matches."""
    calendar, place = CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)), ZoneInfo(zone)

    def matches(wall: datetime) -> bool:
        by_clock = wall.minute in calendar.minutes and wall.hour in calendar.hours
        return by_clock and wall.month in calendar.months and calendar.match_day(wall.date())

    if "*" in (expression[0], expression.split()[1][0]):
        return [
            moment for moment in minutes(begin + MINUTE, end) if matches(moment.astimezone(place).replace(tzinfo=None))
        ]
    found = set()
    first, last = (moment.astimezone(place).replace(tzinfo=None) for moment in (begin, end))
    for wall in minutes(first - timedelta(days=2), last + timedelta(days=2)):
        if matches(wall):
            shown = wall
            while (moment := shown.replace(tzinfo=place).astimezone(UTC)).astimezone(place).replace(
                tzinfo=None
            ) != shown:
                shown += MINUTE  # it doesn't exist: the first that does
            found.add(moment)
    return sorted(moment for moment in found if begin < moment < end)


@pytest.mark.parametrize(("zone", "change"), CHANGES, ids=lambda value: value)
def test_a_clock_change_neither_loses_nor_doubles_a_time(zone: str, change: str) -> None:
    """Guards both rules in all kinds of zones, where cron libraries miss times, double them, or loop for ever."""
    moment = datetime.fromisoformat(change).replace(tzinfo=UTC)
    begin, end = moment - timedelta(hours=15), moment + timedelta(hours=15)
    for expression in EXPRESSIONS:
        assert zoned(expression, zone, begin, end) == oracle(expression, zone, begin, end), expression


@pytest.mark.parametrize(("zone", "change"), CHANGES, ids=lambda value: value)
def test_where_one_starts_to_look_makes_no_difference(zone: str, change: str) -> None:
    """Guards that a host that starts within the repeated hour goes on where another one stopped."""
    moment = datetime.fromisoformat(change).replace(tzinfo=UTC)
    end = moment + timedelta(hours=30)
    for expression in EXPRESSIONS:
        whole = zoned(expression, zone, moment - timedelta(hours=3), end)
        for begin in (moment + timedelta(minutes=offset) for offset in range(-150, 151, 10)):
            assert zoned(expression, zone, begin, end) == [one for one in whole if one > begin], (expression, begin)


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham", "UTC"])
def test_a_daily_time_comes_once_a_day_for_years(zone: str) -> None:
    """Guards ten years: each local day has its run, at the wall-clock time unless that is left out."""
    begin, place = datetime(2020, 1, 1, tzinfo=UTC), ZoneInfo(zone)
    found = zoned("30 2 * * *", zone, begin, begin + timedelta(days=3653))
    days = [moment.astimezone(place).date() for moment in found]
    assert all(later - earlier == timedelta(days=1) for earlier, later in pairwise(days))
    odd = [local for moment in found if (local := moment.astimezone(place)).strftime("%H:%M") != "02:30"]
    assert len(odd) == (10 if zone in ("Europe/Paris", "America/New_York") else 0), odd
    assert {local.strftime("%H:%M") for local in odd} <= {"03:00"}


def test_a_zone_that_gave_up_its_clock_changes_is_followed() -> None:
    """Guards that offsets are not taken from one year for all: Mexico has had none since 2022."""
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    found = zoned("0 */12 * * *", "America/Mexico_City", begin, begin + timedelta(days=3653))
    assert {moment.astimezone(ZoneInfo("America/Mexico_City")).hour for moment in found} == {0, 12}
    assert len(found) == 2 * 3653


def test_what_fires_rarely_is_found() -> None:
    """Guards the leap day, in a zone."""
    first = next(fires("0 12 29 2 *", ZoneInfo("Europe/Paris"), datetime(2025, 1, 1, tzinfo=UTC)))
    assert first == datetime(2028, 2, 29, 11, tzinfo=UTC)
    sunday = next(fires("*/30 12 29 2 */7", ZoneInfo("Europe/Paris"), datetime(2033, 1, 1, tzinfo=UTC)))
    assert sunday == datetime(2060, 2, 29, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * *",  # with seconds
        "@daily",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 */30 2 1#5",
        "² * * * *",
        "9" * 5000 + " * * * *",
        "* * * * *, ",
    ],
    ids=lambda cron: cron[:20],
)
def test_what_is_no_cron_expression_or_never_fires_is_refused(cron: str) -> None:
    """Guards against a schedule that is accepted and never runs, and against input that breaks the parser."""
    with pytest.raises(ValueError, match=r"must have|is not a cron|never fires|is over"):
        check_cron(cron)


@pytest.mark.parametrize(
    "name", ["", "Europe/Nowhere", "europe/paris", "../../etc/passwd", "/etc/localtime", "localtime", "\0"]
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    """Guards against names that mean nothing, or another thing on another machine."""
    with pytest.raises(ValueError, match="is not a time zone"):
        zone_of(name)
