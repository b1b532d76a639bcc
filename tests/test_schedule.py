"""Slots of a schedule: pure functions, checked against plain enumeration."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

import pytest

from shared.schedule import latest_slots, next_slot, shortest_gap, slots_after
from shared.triggers import ManualTrigger, ScheduleTrigger, parse_trigger

ANCHOR = datetime(2026, 3, 1, 9, 30, 7, 123_000, tzinfo=UTC)


def every(value: int, unit: str) -> ScheduleTrigger:
    """An interval's trigger."""
    trigger = parse_trigger({"kind": "schedule", "every": {"value": value, "unit": unit}})
    assert isinstance(trigger, ScheduleTrigger)
    return trigger


def cron(text: str, time_zone: str | None = None) -> ScheduleTrigger:
    """A cron trigger."""
    trigger = parse_trigger({"kind": "schedule", "cron": text, **({"time_zone": time_zone} if time_zone else {})})
    assert isinstance(trigger, ScheduleTrigger)
    return trigger


TRIGGERS = [
    every(10, "seconds"),
    every(7, "minutes"),
    every(36, "hours"),
    every(2, "days"),
    cron("* * * * *"),
    cron("*/20 * * * *", "Australia/Lord_Howe"),
    cron("30 2 * * 1-5", "Europe/Paris"),
    cron("0 0 1 */3 *"),
    cron("0 0 29 2 *"),
]


def test_an_interval_is_counted_from_its_anchor_whenever_one_looks() -> None:
    """Guards against drift: a late look, or a thousand of them, changes no slot. A day is 24 hours across clock changes."""
    for trigger, step in ((every(90, "seconds"), 90), (every(1, "days"), 86_400)):
        for seconds in (0, 1, step - 1, step, step + 1, 1000 * step + 17):
            slot = next_slot(trigger, ANCHOR, ANCHOR + timedelta(seconds=seconds))
            assert slot == ANCHOR + timedelta(seconds=(seconds // step + 1) * step)


def test_an_interval_has_no_slot_at_or_before_its_anchor() -> None:
    """Guards that a workflow doesn't start by being saved, nor when a clock was set back."""
    for before in (timedelta(0), timedelta(seconds=1), timedelta(days=3)):
        assert next_slot(every(1, "hours"), ANCHOR, ANCHOR - before) == ANCHOR + timedelta(hours=1)


def test_a_trigger_of_another_kind_has_no_slots() -> None:
    """Guards the call for any workflow."""
    assert next_slot(ManualTrigger(), ANCHOR, ANCHOR) is None


@pytest.mark.parametrize("trigger", TRIGGERS, ids=str)
def test_the_latest_slots_are_the_end_of_all_slots(trigger: ScheduleTrigger) -> None:
    """Guards the windows in which they are sought, both ends included."""
    random_ = random.Random(1)
    for _ in range(20):
        slots = list(islice(slots_after(trigger, ANCHOR, ANCHOR), random_.randint(1, 400)))
        first, until = slots[random_.randrange(len(slots))], slots[-1]
        most = random_.randint(1, 20)
        inside = [slot for slot in slots if first <= slot <= until]
        assert latest_slots(trigger, ANCHOR, first, until, most) == inside[-most:]
        assert latest_slots(trigger, ANCHOR, first, until - timedelta(milliseconds=1), most) == inside[:-1][-most:]


def test_years_of_missed_minutes_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the time that an app needs after a long rest: an hour's slots are looked at, not ten million."""
    looked = 0

    def counted(trigger: ScheduleTrigger, anchor: datetime, after: datetime) -> object:
        nonlocal looked
        for slot in slots_after(trigger, anchor, after):
            looked += 1
            yield slot

    monkeypatch.setattr("shared.schedule.slots_after", counted)
    until = ANCHOR + timedelta(days=20 * 365)
    assert len(latest_slots(cron("* * * * *"), ANCHOR, ANCHOR, until, 10)) == 10
    assert looked <= 62


def test_a_schedule_that_will_not_come_again_has_no_slots() -> None:
    """Guards a definition that was valid when it was saved."""
    never = ScheduleTrigger.model_construct(kind="schedule", every=None, cron="0 0 */30 2 1#5", time_zone=None)
    assert next_slot(never, ANCHOR, ANCHOR) is None
    assert latest_slots(never, ANCHOR, ANCHOR, ANCHOR + timedelta(days=9), 5) == []


def test_the_shortest_gap_is_found() -> None:
    """Guards the limit that the settings put on schedules, also for expressions whose slots lie centuries apart."""
    assert shortest_gap(every(3, "hours")) == timedelta(hours=3)
    assert shortest_gap(cron("0,59 */6 * * *")) == timedelta(minutes=59)
    assert shortest_gap(cron("59 23 * * *")) >= timedelta(hours=23)
    assert shortest_gap(cron("0 0 29 2 */7")) > timedelta(days=366)
    assert sum(1 for _ in takewhile(lambda slot: slot.year < 2030, slots_after(cron("0 0 1 1 *"), ANCHOR, ANCHOR))) == 3
