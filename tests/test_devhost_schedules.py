"""NCRONTAB and TimeSpan as the host's libraries read them. Cases marked so are of NCrontab's own test suite."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from devhost.triggers.schedules import Cron, Every, parse_schedule
from devhost.triggers.timespan import parse_timespan


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NCRONTAB = [
    ("2003-01-01 00:00:00", "* * * * *", "2003-01-01 00:01:00"),
    ("2003-01-01 00:59:00", "* * * * *", "2003-01-01 01:00:00"),
    ("2003-01-01 23:59:00", "* * * * *", "2003-01-02 00:00:00"),
    ("2003-12-31 23:59:00", "* * * * *", "2004-01-01 00:00:00"),
    ("2003-02-28 23:59:00", "* * * * *", "2003-03-01 00:00:00"),
    ("2004-02-28 23:59:00", "* * * * *", "2004-02-29 00:00:00"),
    ("2003-01-01 00:00:00", "45 * * * * *", "2003-01-01 00:00:45"),
    ("2003-01-01 00:00:46", "45-47,48,49 * * * * *", "2003-01-01 00:00:47"),
    ("2003-01-01 00:00:49", "45-47,48,49 * * * * *", "2003-01-01 00:01:45"),
    ("2003-01-01 00:00:00", "2/5 * * * * *", "2003-01-01 00:00:02"),
    ("2003-01-01 00:00:57", "2/5 * * * * *", "2003-01-01 00:01:02"),
    ("2021-02-24 09:50:35", "* 0-1 10 * * *", "2021-02-24 10:00:00"),
    ("2021-02-24 09:50:35", "* 55 * * * *", "2021-02-24 09:55:00"),
    ("2003-01-01 00:49:30", "6 45-47,48,49 * * * *", "2003-01-01 01:45:06"),
    ("2003-01-01 00:57:30", "9 2/5 * * * *", "2003-01-01 01:02:09"),
    ("2003-12-20 10:00:00", " * 3/4 * * *", "2003-12-20 11:00:00"),
    ("2003-12-20 00:30:00", " * 3   * * *", "2003-12-20 03:00:00"),
    ("2003-01-07 00:00:00", "30  *  1 * *", "2003-02-01 00:30:00"),
    ("2002-03-31 23:59:59", "* * * 4 *", "2002-04-01 00:00:00"),
    ("2000-01-31 00:00:00", "0 0 15,30,31 * *", "2000-02-15 00:00:00"),
    ("2000-02-15 00:00:00", "0 0 15,30,31 * *", "2000-03-15 00:00:00"),
    ("2000-12-31 00:00:00", "0 0 15,30,31 * *", "2001-01-15 00:00:00"),
    ("2002-07-01 05:00:00", "10 * * February,April-Jun *", "2003-02-01 00:10:00"),
    ("1988-03-11 14:23:00", "* 2,4-8,15 * 6 *", "1988-06-01 02:00:00"),
    (
        "1988-03-11 14:23:00",
        "20 * * january,FeB,Mar,april,May,JuNE,July,Augu,SEPT-October,Nov,DECEM *",
        "1988-03-11 15:20",
    ),
    ("2003-06-26 10:00:00", "30 6 * * SUNDAY", "2003-06-29 06:30:00"),
    ("2003-06-02 18:15:00", "15 18 * * Mon", "2003-06-09 18:15:00"),
    ("2003-01-01 12:00:00", "45 16 1 * Mon", "2003-09-01 16:45:00"),
    ("2003-09-01 23:45:00", "45 16 1 * Mon", "2003-12-01 16:45:00"),
    ("2000-02-29 12:01:00", "1 12 29 2 *", "2004-02-29 12:01:00"),
    ("2000-01-01 14:40:00", "40 14/1 * * *", "2000-01-01 15:40:00"),
    ("9000-01-01 00:00:00", "0 0 29 Feb Mon", "9008-02-29 00:00:00"),
]


@pytest.mark.parametrize(("moment", "text", "following"), NCRONTAB)
def test_the_next_time_is_that_of_the_hosts_library(moment: str, text: str, following: str) -> None:
    """From NCrontab's suite: here other crons differ (both kinds of day must match, `2/5`, names cut short)."""
    assert parse_schedule(text).after(at(moment)) == at(following)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("* 1-3 * * *", "* 1-2,3 * * *"),
        ("* * * 1,3,5,7,9,11 *", "* * * */2 *"),
        ("10,25,40 * * * *", "10-40/15 * * * *"),
        ("* * * 1,3,8 1-2,5", "* * * Mar,Jan,Aug Fri,Mon-Tue"),
        ("* 3-9 * * *", "* 9-3 * * *"),
        ("*/5 * * * *", "0 0/5 * * * *"),
        ("* * * 1,6 *", "* * * J,Jun *"),
        ("* * * * *", "* * */0 * *"),
        ("7 * * * *", "7-7/3 * * * *"),
    ],
)
def test_two_ways_to_say_the_same(text: str, same: str) -> None:
    """Guards ranges that are turned round, the first name that fits, and a step of nought, which counts as one."""
    assert parse_schedule(text) == parse_schedule(same)


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *"),
        *(
            "* * * * 7",
            "bad * * * *",
            "* * * * mon,bad",
            "* 1,2,3,456 * * *",
            "* 1/Z * * *",
            "* 3-l2 * * *",
            "? * * * *",
        ),
        *(
            "1,,2 * * * *",
            "1- * * * *",
            "-1 * * * *",
            "/5 * * * *",
            "1/ * * * *",
            "* * L * *",
            "* * * * 5#2",
            "* mon * * *",
        ),
        *("٣ * * * *", "9999999999 * * * *", "0 0 31 Feb *", "0 0 0 30 2 *", "00:00:00", "-00:01:00", "00:00:00.5"),
    ],
)
def test_a_schedule_that_no_host_would_run_is_refused(text: str) -> None:
    """A timer that never fires, or that spins, must not start quietly."""
    with pytest.raises(ValueError, match=r"."):
        parse_schedule(text)


def test_every_answer_is_the_first_match_after_the_moment() -> None:
    """Against a search of every second, over random schedules: guards carries from field to field."""
    chance = random.Random(4)
    for _ in range(60):
        fields = [
            tuple(sorted(chance.sample(range(least, most + 1), chance.randint(1, 6))))
            for least, most in ((0, 59), (0, 59), (0, 23))
        ]
        days = tuple(sorted(chance.sample(range(1, 29), 12)))
        schedule = Cron(*fields, days, tuple(range(1, 13)), tuple(sorted(chance.sample(range(7), 5))))
        moment = at("2026-01-01") + timedelta(
            seconds=chance.randrange(365 * 86_400), microseconds=chance.randrange(10**6)
        )
        found = schedule.after(moment)
        assert found > moment
        wanted = moment.replace(microsecond=0) + timedelta(seconds=1)
        while not matches(schedule, wanted):
            wanted += timedelta(seconds=1) if wanted.day in days else timedelta(days=1) - since_midnight(wanted)
        assert found == wanted


def matches(schedule: Cron, moment: datetime) -> bool:
    time = moment.second in schedule.seconds and moment.minute in schedule.minutes and moment.hour in schedule.hours
    return time and moment.day in schedule.days and (moment.weekday() + 1) % 7 in schedule.weekdays


def since_midnight(moment: datetime) -> timedelta:
    return timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second)


def test_only_more_than_one_time_a_minute_is_frequent() -> None:
    """The host keeps no status of a frequent timer, so its missed slots are nobody's loss."""
    found = {text: parse_schedule(text).frequent for text in ("*/10 * * * * *", "0 * * * * *", "*/10 1 * * * *")}
    assert found == {"*/10 * * * * *": True, "0 * * * * *": False, "*/10 1 * * * *": False}
    assert parse_schedule("00:00:59") == Every(timedelta(seconds=59))
    assert parse_schedule("00:00:59").frequent
    assert not parse_schedule("00:01:00").frequent


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("00:30:00", timedelta(minutes=30)),
        ("1:2", timedelta(hours=1, minutes=2)),
        ("6", timedelta(days=6)),
        ("6.12:14:45.3448", timedelta(days=6, hours=12, minutes=14, seconds=45, microseconds=344_800)),
        ("6:12:14:45", timedelta(days=6, hours=12, minutes=14, seconds=45)),
        ("24:00:00", timedelta(days=24)),
        ("25:10:05", timedelta(days=25, hours=10, minutes=5)),
        ("00:00:00.1234567", timedelta(microseconds=123_456)),
    ],
)
def test_a_time_span_is_read_as_dotnet_reads_it(text: str, meant: timedelta) -> None:
    """`24:00:00` is 24 days there, which surprises everyone once."""
    assert parse_timespan(text) == meant


@pytest.mark.parametrize(
    "text", ["", "x", "1:", "24:00", "00:60:00", "00:00:60", "1.24:00:00", "-1", "1 2", "00:00:00."]
)
def test_what_is_no_time_span_is_refused(text: str) -> None:
    """Guards host.json and schedules against a span that means something else."""
    with pytest.raises(ValueError, match="is not a time span"):
        parse_timespan(text)
