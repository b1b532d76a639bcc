"""The slots of a schedule: pure functions of a trigger, its anchor, and moments in UTC.

Slots of an interval are counted from the anchor (when the trigger was set), so that they don't drift with late starts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile

from shared.cron import fires, zone_of
from shared.triggers import AnyTrigger, ScheduleTrigger

LOOK_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=31), timedelta(days=366))
"""How far back the latest slots are sought, one after the other, so that a minutely schedule isn't counted for years."""
GAPS_CHECKED = 200
"""Slots of a cron expression in whose gaps the shortest is sought, and how far ahead."""
GAPS_AHEAD = timedelta(days=366)
_MOMENT = timedelta(microseconds=1)


def slots_after(trigger: ScheduleTrigger, anchor: datetime, after: datetime) -> Iterator[datetime]:
    """The slots (UTC) strictly after `after`, in order. Endless for an interval."""
    if trigger.cron is not None:
        yield from fires(trigger.cron, zone_of(trigger.time_zone or "UTC"), after)
        return
    assert trigger.every is not None  # the shape was validated
    interval = trigger.every.interval
    slot = anchor + max(1, (after - anchor) // interval + 1) * interval
    while True:
        yield slot
        slot += interval


def next_slot(trigger: AnyTrigger, anchor: datetime, after: datetime) -> datetime | None:
    """The first slot strictly after `after`; None when there is none."""
    if not isinstance(trigger, ScheduleTrigger):
        return None
    return next(slots_after(trigger, anchor, after), None)


def latest_slots(
    trigger: ScheduleTrigger, anchor: datetime, first: datetime, until: datetime, most: int
) -> list[datetime]:
    """The last slots, at most `most`, of those from `first` to `until` (both included), in order."""
    for start in (*(until - span for span in LOOK_BACK), first):
        begin = max(start, first)
        slots = slots_after(trigger, anchor, begin - _MOMENT)
        latest = deque(takewhile(lambda slot: slot <= until, slots), most)
        if len(latest) == most or begin == first:
            break
    return list(latest)


def shortest_gap(trigger: ScheduleTrigger) -> timedelta:
    """The shortest time between two of its next slots as far as they are looked at."""
    if trigger.every is not None:
        return trigger.every.interval
    moment = datetime.now(UTC)
    slots = slots_after(trigger, moment, moment)
    coming = takewhile(lambda slot: slot < moment + GAPS_AHEAD, islice(slots, GAPS_CHECKED))
    return min((later - earlier for earlier, later in pairwise(coming)), default=timedelta.max)
