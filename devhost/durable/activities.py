"""Runs activities: each one a task on the loop, at most `limit` at once, delivered at least once.

An activity's row stays in the hub until its outcome is recorded, so a killed process's activities run again.
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

from devhost.durable import events, hub
from devhost.durable.episode import unknown_function
from devhost.durable.events import Event, compact
from devhost.durable.hub import ActivityTask
from devhost.functions import HostedFunction
from shared.errors import Unavailable
from shared.sqlite import Database

logger = logging.getLogger(__name__)

RECORD_AGAIN_SECONDS = 0.5


class ActivityRunner:
    """Runs what `submit` gives, and calls `wake` with the instances that have news from it."""

    def __init__(
        self,
        database: Database,
        functions: Mapping[str, HostedFunction],
        owner: str,
        *,
        limit: int,
        wake: Callable[[Iterable[str]], None],
        clock: Callable[[], float],
    ) -> None:
        self._database, self._functions, self._owner = database, functions, owner
        self._limit, self._wake, self._clock = limit, wake, clock
        self._queue: deque[ActivityTask] = deque()
        self._known: set[ActivityTask] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False

    def submit(self, tasks: Iterable[ActivityTask]) -> None:
        """Run `tasks`, except those that are here already."""
        for task in tasks:
            if task not in self._known:
                self._known.add(task)
                self._queue.append(task)
        self._fill()

    async def stop(self, seconds: float) -> None:
        """Cancel what runs and wait for it, at most `seconds`. What isn't recorded runs again at the next start."""
        self._stopping = True
        self._queue.clear()
        for running in self._running:
            running.cancel()
        if self._running:
            _, wedged = await asyncio.wait(self._running, timeout=seconds)
            for running in wedged:
                logger.warning("%s did not stop within %g s and is abandoned", running.get_name(), seconds)

    def _fill(self) -> None:
        while self._queue and len(self._running) < self._limit and not self._stopping:
            task = self._queue.popleft()
            running = asyncio.create_task(self._run(task), name=f"activity {task.name} of {task.instance_id}")
            self._running.add(running)
            running.add_done_callback(partial(self._ended, task))

    def _ended(self, task: ActivityTask, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._known.discard(task)
        if not running.cancelled() and running.exception() is not None:
            logger.error("activity %s could not be recorded", task.name, exc_info=running.exception())
        self._fill()

    async def _run(self, task: ActivityTask) -> None:
        event = await self._outcome(task)
        while True:
            try:
                self._wake(await self._database.write(lambda c: hub.finish_task(c, self._owner, task, event)))
                return
            except Unavailable:
                # It may have landed all the same: then the next try finds no row, so the instance is woken here.
                logger.warning("the end of activity %s can't be recorded yet", task.name, exc_info=True)
                await asyncio.sleep(RECORD_AGAIN_SECONDS)
                self._wake([task.instance_id])

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
