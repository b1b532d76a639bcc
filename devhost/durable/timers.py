"""Durable timers: a heap in memory of those that are due soon. Whoever runs it sleeps until the earliest is due.

The hub holds all of them, and is looked into far more often than `HORIZON_SECONDS`: so a timer that is due later need not
be here, and it fires although the process that set it has died. Several processes may fire one timer: the first does.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterable

from devhost.durable import hub
from devhost.durable.hub import News, Timer
from shared.errors import Unavailable
from shared.sqlite import Database

logger = logging.getLogger(__name__)

HORIZON_SECONDS = 2.0


class Timers:
    """Fires what `add` gives, and calls `tell` with the news that come of it.

    A timer that was cancelled or fired already has no row any more: firing it again does nothing.
    """

    def __init__(
        self, database: Database, *, tell: Callable[[Iterable[News]], None], clock: Callable[[], float]
    ) -> None:
        self._database, self._tell, self._clock = database, tell, clock
        self._heap: list[tuple[float, str, int, Timer]] = []
        self._known: set[Timer] = set()
        self._changed = asyncio.Event()

    def add(self, timers: Iterable[Timer]) -> None:
        """Fire those of `timers` that are due soon when they are, except those that are here already."""
        horizon = self._clock() + HORIZON_SECONDS
        for timer in timers:
            if timer.fire_at > horizon or timer in self._known:
                continue
            self._known.add(timer)
            heapq.heappush(self._heap, (timer.fire_at, timer.execution_id, timer.timer_id, timer))
            if self._heap[0][3] is timer:
                self._changed.set()

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            self._changed.clear()
            due = self._take_due()
            if due:
                await self._fire(due)
                continue
            delay = self._heap[0][0] - self._clock() if self._heap else None
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                pass  # something is due

    def _take_due(self) -> list[Timer]:
        now, due = self._clock(), []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[3])
        return due

    async def _fire(self, due: list[Timer]) -> None:
        try:
            self._tell(await self._database.write(lambda connection: hub.fire(connection, due, self._clock())))
        except Unavailable:
            logger.warning("%d timers can't be fired yet", len(due), exc_info=True)
        self._known.difference_update(due)  # one whose row is still there is given to us again
