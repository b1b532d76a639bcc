"""Runs activities: each one a task on the loop, at most `limit` at once, delivered at least once.

An activity's row stays in the hub until its outcome is recorded, so a killed process's activities run again. What no
process had room for belongs to nobody in the hub; here it is claimed as soon as there is room.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from azure.functions import meta
from azure.functions.durable_functions import ActivityTriggerConverter

from devhost.durable import events, work
from devhost.durable.episode import unknown_function
from devhost.durable.events import Event, compact
from devhost.durable.hub import ActivityTask, News
from devhost.durable.processes import Processes
from devhost.functions import HostedFunction
from shared.errors import Unavailable
from shared.sqlite import Database

logger = logging.getLogger(__name__)

RECORD_AGAIN_SECONDS = 0.5


class ActivityRunner:
    """Runs what `submit` and `offer` give, for `processes.id`, and calls `tell` with the news that come of it."""

    def __init__(
        self,
        database: Database,
        functions: Mapping[str, HostedFunction],
        processes: Processes,
        *,
        limit: int,
        tell: Callable[[Iterable[News]], None],
        clock: Callable[[], float],
    ) -> None:
        self._database, self._functions, self._processes = database, functions, processes
        self._tell, self._clock = tell, clock
        self.limit = limit
        self.known: dict[tuple[str, int], ActivityTask] = {}
        """What is queued or running here, by execution id and task id."""
        self._queue: deque[ActivityTask] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._free = False
        self._claiming: asyncio.Task[None] | None = None
        self._stopping = False

    def submit(self, tasks: Iterable[ActivityTask]) -> None:
        """Run `tasks`, which are ours, except those that are here already."""
        for task in tasks:
            key = (task.execution_id, task.task_id)
            if key not in self.known:
                self.known[key] = task
                self._queue.append(task)
        self._fill()

    def offer(self, free: int) -> None:
        """So many activities belong to nobody: claim our share of them, as far as there is room."""
        self._free = free > 0
        share = min(self.limit - len(self.known), -(-free // self._processes.count))
        if share > 0 and self._claiming is None and not self._stopping:
            self._claiming = asyncio.create_task(self._claim(share, free - share), name="claim activities")

    async def _claim(self, share: int, left: int) -> None:
        try:
            claimed = await self._database.write(partial(work.claim, owner=self._processes.id, count=share))
        except Unavailable:
            logger.warning("no activities can be claimed yet", exc_info=True)
            return  # the next look at the hub offers them again
        finally:
            self._claiming = None
        self.submit(claimed)
        self.offer(left if len(claimed) == share else 0)

    async def stop(self, seconds: float) -> None:
        """Cancel what runs and wait for it, at most `seconds`. What isn't recorded runs again at the next start."""
        self._stopping = True
        self._queue.clear()
        if self._claiming is not None:
            self._claiming.cancel()
        for running in self._running:
            running.cancel()
        if self._running:
            _, wedged = await asyncio.wait(self._running, timeout=seconds)
            for running in wedged:
                logger.warning("%s did not stop within %g s and is abandoned", running.get_name(), seconds)

    def _fill(self) -> None:
        while self._queue and len(self._running) < self.limit and not self._stopping:
            task = self._queue.popleft()
            running = asyncio.create_task(self._run(task), name=f"activity {task.name} of {task.instance_id}")
            self._running.add(running)
            running.add_done_callback(partial(self._ended, task))

    def _ended(self, task: ActivityTask, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self.known.pop((task.execution_id, task.task_id), None)
        if not running.cancelled() and running.exception() is not None:
            logger.error("activity %s could not be recorded", task.name, exc_info=running.exception())
        self._fill()

    async def _run(self, task: ActivityTask) -> None:
        event = await self._outcome(task)
        while True:
            try:
                await self._record(task, event)
                return
            except Unavailable:
                # It may have landed all the same: then the next try finds no row, and a look at the hub finds the news.
                logger.warning("the end of activity %s can't be recorded yet", task.name, exc_info=True)
                await asyncio.sleep(RECORD_AGAIN_SECONDS)

    async def _record(self, task: ActivityTask, event: Event) -> None:
        claim_next = self._free and not self._stopping
        news, claimed = await self._database.write(
            lambda connection: work.finish_task(connection, self._processes.id, task, event, claim_next)
        )
        self._tell(news)
        self.submit(claimed)
        if claim_next and not claimed:
            self._free = False

    async def _outcome(self, task: ActivityTask) -> Event:
        """Call the function; its result or failure as an event. Raises only `CancelledError`, when we are stopping."""
        function = self._functions.get(task.name)
        if function is None:
            message = unknown_function(task.name, "activity", self._functions)
            return self._failed(task, f"Activity function '{task.name}' failed: {message}", message)
        try:
            result = _encode(await function.call(**{function.parameter: _decode(task.input_json)}))
        except BaseException as error:
            # Anything that an activity raises is its failure, a stray CancelledError or SystemExit too.
            self._check_stopping()
            logger.warning("activity %s of %s failed", task.name, task.instance_id, exc_info=error)
            text = f" {type(error).__name__}: {error}"
            return self._failed(task, f"Activity function '{task.name}' failed: {text}", text, error)
        self._check_stopping()
        return events.task_completed(self._clock(), task.task_id, result)

    def _check_stopping(self) -> None:
        # What an activity answers because this host stops is not its outcome: it runs again at the next start.
        if self._stopping:
            raise asyncio.CancelledError

    def _failed(self, task: ActivityTask, reason: str, message: str, error: BaseException | None = None) -> Event:
        stack = "".join(traceback.format_tb(error.__traceback__)) if error else ""
        inner = {"Message": f"Result: Failure\nException:{message}\nStack: {stack}"}
        details = compact({"ClassName": "System.Exception", "Message": message, "InnerException": inner})
        return events.task_failed(self._clock(), task.task_id, reason, details)


def _decode(input_json: str | None) -> Any:
    # The worker's own converter: JSON text is parsed, any other text is passed as it is.
    datum = meta.Datum(type="json", value=input_json if input_json is not None else "null")
    return ActivityTriggerConverter.decode(datum, trigger_metadata=None)


def _encode(result: Any) -> str:
    return str(ActivityTriggerConverter.encode(result, expected_type=None).value)
