"""Timer triggers, one invocation of a function at a time, on schedules that outlive the host.

After each invocation the time of the next is stored. A host that finds that time in the past when it begins makes up for
all slots that were missed with one invocation, told `past_due`; so does the next leader when this one died at work.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from azure.functions import TimerRequest, meta
from azure.functions.timer import TimerRequestConverter

from devhost.bindings import BadBinding, check_annotation, resolved
from devhost.functions import HostedFunction
from devhost.triggers.calls import Caller, log
from devhost.triggers.leader import Leadership
from devhost.triggers.schedules import Schedule, parse_schedule
from shared.sqlite import Database

KIND = "timerTrigger"
SCHEMA = """
CREATE TABLE IF NOT EXISTS trigger_schedules (
    function TEXT PRIMARY KEY, last REAL, next REAL NOT NULL, updated REAL NOT NULL
) WITHOUT ROWID
"""
LONGEST_SLEEP_SECONDS = 30.0
"""A machine that slept must notice that its clock has gone on."""
_NEVER = "0001-01-01T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class Status:
    """When a timer last fired (None: never, on this schedule), fires next, and from when `next` was counted."""

    last: datetime | None
    next: datetime
    updated: datetime


def status_at_start(stored: Status | None, schedule: Schedule, now: datetime) -> Status:
    """The status with which a host begins. It is past due if its `next` is before `now`.

    A schedule that was changed since is counted anew, and is past due only from its next time on.
    """
    if stored is None:
        return Status(None, schedule.after(now), now)
    counted_from = stored.last or stored.updated
    expected = schedule.after(counted_from)
    if expected == stored.next:
        return stored
    if expected < now:
        return Status(None, schedule.after(now), now)
    return Status(None, expected, counted_from)


def read_status(database: Database, function: str) -> Status | None:
    """What is stored of a timer. Raises `Unavailable`."""
    rows = database.fetch("SELECT last, next, updated FROM trigger_schedules WHERE function = ?", (function,))
    if not rows:
        return None
    last, following, updated = rows[0]
    return Status(None if last is None else _time(last), _time(following), _time(updated))


def timer_request(status: Status | None, past_due: bool) -> TimerRequest:
    """What the function receives, made by the worker's own converter of what the host sends."""
    told = None
    if status is not None:
        told = {
            "Last": status.last.isoformat() if status.last else _NEVER,
            "Next": status.next.isoformat(),
            "LastUpdated": status.updated.isoformat(),
        }
    sent = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": told, "IsPastDue": past_due}
    request: TimerRequest = TimerRequestConverter.decode(meta.Datum(json.dumps(sent), "json"), trigger_metadata=None)
    return request


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class Timer:
    """The listener of one timer function."""

    def __init__(
        self,
        caller: Caller,
        database: Database,
        leadership: Leadership,
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """Raises `BadBinding`."""
        self.caller = caller
        self._database, self._leadership, self._now, self._sleep = database, leadership, now, sleep
        function = caller.function
        trigger: Any = function.trigger
        check_annotation(function, TimerRequestConverter.check_input_type_annotation)
        self._schedule = _schedule(function, trigger.schedule)
        self._run_on_startup = bool(trigger.run_on_startup)
        self._monitored = trigger.use_monitor is not False and not self._schedule.frequent

    async def run(self) -> None:
        """Fire until cancelled. Raises `NotLeader`, `Unavailable`."""
        now = self._now()
        stored = read_status(self._database, self.caller.function.name) if self._monitored else None
        status = status_at_start(stored, self._schedule, now)
        if status != stored:
            await self._store(status)
        if status.next < now:
            log.warning("function %s is past due: it was to run at %s", self.caller.function.name, status.next)
            status = await self._fire(status, past_due=True)
        elif self._run_on_startup:
            status = await self._fire(status)
        while True:
            await self._wait_until(status.next)
            status = await self._fire(status)

    async def by_hand(self, _input: str | None) -> None:
        """Run the function now, whatever the schedule says; that goes on as it was."""
        stored = read_status(self._database, self.caller.function.name) if self._monitored else None
        await self.caller(timer_request(stored, past_due=False))

    async def _fire(self, status: Status, *, past_due: bool = False) -> Status:
        began = self._now()
        await self.caller(timer_request(status if self._monitored else None, past_due))
        after = Status(began, self._schedule.after(began), began)
        await self._store(after)
        return after

    async def _store(self, status: Status) -> None:
        if not self._monitored:
            return
        last = status.last.timestamp() if status.last else None
        row = (self.caller.function.name, last, status.next.timestamp(), status.updated.timestamp())

        def store(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO trigger_schedules VALUES (?, ?, ?, ?)", row)

        await self._leadership.write(store)

    async def _wait_until(self, moment: datetime) -> None:
        while (left := (moment - self._now()).total_seconds()) > 0:
            await self._sleep(min(left, LONGEST_SLEEP_SECONDS))


def _schedule(function: HostedFunction, text: str) -> Schedule:
    expression = resolved(function, text)
    try:
        return parse_schedule(expression)
    except ValueError as error:
        raise BadBinding(function.name, f"schedule {expression!r} can't be used: {error}") from error


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
