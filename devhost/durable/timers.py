"""Durable timers: a heap in memory of what the hub holds. Whoever runs it sleeps until the earliest is due."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterable

from devhost.durable import hub
from devhost.durable.hub import Timer
from shared.errors import Unavailable
from shared.sqlite import Database

logger = logging.getLogger(__name__)

LONGEST_SLEEP_SECONDS = 60.0
"""The clock may be set, and a laptop may have slept: so look again, while there is a timer at all."""
FIRE_AGAIN_SECONDS = 0.5


class Timers:
    """Fires what `add` gives, and calls `wake` with the instances that have news from it.

    A timer that was cancelled or fired already has no row any more: firing it again does nothing.
    """

    def __init__(
        self, database: Database, *, wake: Callable[[Iterable[str]], None], clock: Callable[[], float]
    ) -> None:
        self._database, self._wake, self._clock = database, wake, clock
        self._heap: list[tuple[float, str, int, Timer]] = []
        self._changed = asyncio.Event()

    def add(self, timers: Iterable[Timer]) -> None:
        """Fire `timers` when they are due."""
        for timer in timers:
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
            delay = min(self._heap[0][0] - self._clock(), LONGEST_SLEEP_SECONDS) if self._heap else None
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                pass  # something is due, or it is time to look at the clock

    def _take_due(self) -> list[Timer]:
        now, due = self._clock(), []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[3])
        return due

    async def _fire(self, due: list[Timer]) -> None:
        try:
            self._wake(await self._database.write(lambda connection: hub.fire(connection, due, self._clock())))
        except Unavailable:
            logger.warning("%d timers can't be fired yet", len(due), exc_info=True)
            await asyncio.sleep(FIRE_AGAIN_SECONDS)
            self.add(due)
            self._wake({timer.instance_id for timer in due})  # it may have landed all the same
