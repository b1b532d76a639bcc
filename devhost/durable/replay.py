"""What the extension makes of an orchestrator's answer: which work to schedule now, and whether the instance is done.

The SDK answers *all* actions since the start. The extension replays them against the history: it invokes an action,
awaits it, and only then invokes the next one. That an event does not wake a step that came earlier, that an abandoned
activity keeps its instance Running, that a wait takes buffered events first in, first out: all of it follows from this
replay, so it is done here in the same way (read in OutOfProcOrchestrationShim and TaskOrchestrationExecutor; recorded
in golden).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from devhost.durable.events import Event, EventType, utc_seconds

Action = dict[str, Any]

UNSUPPORTED = {
    4: "continue_as_new",
    7: "call_entity",
    8: "call_http",
    9: "signal_entity",
    10: "signal_entity",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An orchestrator's state. `error` is its exception's text; `output` and `custom_status` are JSON values."""

    actions: list[Action]
    is_done: bool = False
    output: Any = None
    error: str | None = None
    custom_status: Any = None


@dataclass(frozen=True, slots=True)
class Work:
    """Something to schedule: an activity (TASK_SCHEDULED), a child (CHILD_CREATED) or a timer (TIMER_CREATED).

    `instance_id` is a child's; `fire_at`, in Unix seconds, a timer's.
    """

    kind: EventType
    task_id: int
    name: str = ""
    input_json: str | None = None
    instance_id: str = ""
    fire_at: float = 0.0


class ReplayError(Exception):
    """The answer can't be replayed: it asks for what is not supported, or doesn't fit the history."""


class _Task:
    """A task as the extension sees it: it ends once, well or badly, and then tells who waits."""

    __slots__ = ("_then", "done", "failed")

    def __init__(self) -> None:
        self.done = self.failed = False
        self._then: list[Callable[[bool], None]] = []

    def settle(self, failed: bool = False) -> None:
        if not self.done:
            self.done, self.failed = True, failed
            for callback in self._then:
                callback(failed)

    def then(self, callback: Callable[[bool], None]) -> None:
        if self.done:
            callback(self.failed)
        else:
            self._then.append(callback)


class Replay:
    """Replays `answer` against a history, event by event. Afterwards:

    `new` is the work to schedule, in order; `cancelled` the timers that need not fire; `failure` why the instance
    fails, or None; `complete` whether it ends now.
    """

    def __init__(self, execution_id: str, answer: Answer) -> None:
        self.failure: str | None = None
        self.cancelled: set[int] = set()
        self._execution_id, self._answer = execution_id, answer
        self._new: dict[int, Work] = {}
        self._set_aside: dict[int, Work] = {}
        self._open: dict[int, _Task] = {}
        self._waits: dict[str, list[_Task]] = {}
        self._buffered: dict[str, int] = {}
        self._position = self._next_id = 0
        self._replayed = False
        self._now = 0.0
        self._suspended: deque[Event] | None = None

    def run(self, history: Iterable[Event]) -> Replay:
        """Process `history`. Raises `ReplayError` if it was made by other actions than the answer has."""
        for event in history:
            if event["EventType"] == EventType.ORCHESTRATOR_STARTED:
                self._now = utc_seconds(event["Timestamp"])
            else:
                self._process(event)
        return self

    @property
    def new(self) -> list[Work]:
        return list(self._new.values())

    @property
    def complete(self) -> bool:
        ended = self._answer.is_done or self._answer.error is not None or self.failure is not None
        return self._replayed and ended and not self._open

    def _process(self, event: Event) -> None:
        kind = event["EventType"]
        if self._suspended is not None and kind != EventType.EXECUTION_RESUMED:
            if kind != EventType.EXECUTION_SUSPENDED:
                self._suspended.append(event)
        elif kind in (EventType.TASK_COMPLETED, EventType.CHILD_COMPLETED):
            self._settle(event["TaskScheduledId"], failed=False)
        elif kind in (EventType.TASK_FAILED, EventType.CHILD_FAILED):
            self._settle(event["TaskScheduledId"], failed=True)
        elif kind == EventType.TIMER_FIRED:
            self._settle(event["TimerId"], failed=False)
        elif kind in (EventType.TASK_SCHEDULED, EventType.CHILD_CREATED, EventType.TIMER_CREATED):
            self._match(event)
        elif kind == EventType.EVENT_RAISED:
            self._raise_event(event["Name"])
        elif kind == EventType.EXECUTION_STARTED:
            self._advance(False)
        elif kind == EventType.EXECUTION_SUSPENDED:
            self._suspended = deque()
            self._set_aside, self._new = self._new, {}
        elif kind == EventType.EXECUTION_RESUMED:
            self._resume()

    def _resume(self) -> None:
        waiting, self._suspended = self._suspended or (), None
        self._new = self._set_aside | self._new
        self._set_aside = {}
        for event in waiting:
            self._process(event)

    def _settle(self, task_id: int, failed: bool) -> None:
        task = self._open.pop(task_id, None)
        if task is not None:  # else delivered twice, or a timer that was cancelled
            task.settle(failed)

    def _match(self, event: Event) -> None:
        kind, task_id, name = EventType(event["EventType"]), event["EventId"], event.get("Name", "")
        work = self._new.pop(task_id, None)
        if work is None or work.kind != kind or work.name != name:
            now = "nothing" if work is None else f"{work.kind.name} {work.name!r}"
            raise ReplayError(
                f"Non-Deterministic workflow detected: an earlier execution scheduled {kind.name} {name!r} as number "
                f"{task_id}, this one {now}. Was the orchestrator's code changed while this instance was running?"
            )

    def _advance(self, _failed: bool) -> None:
        while self._position < len(self._answer.actions):
            action = self._answer.actions[self._position]
            self._position += 1
            try:
                task = self._invoke(action)
            except ReplayError as error:
                self.failure = str(error)
                break
            if not task.done:
                task.then(self._advance)
                return
        self._replayed = True

    def _invoke(self, action: Action) -> _Task:
        match action["actionType"]:
            case 0 | 2:
                return self._schedule(action)
            case 1 | 3:
                return self._with_retry(action)
            case 5:
                return self._timer(utc_seconds(action["fireAt"]), bool(action.get("isCanceled")))
            case 6:
                return self._wait(action["externalEventName"])
            case 11 | 12 as kind:
                return self._compound(kind == 12, action["compoundActions"])
            case unsupported:
                what = UNSUPPORTED.get(unsupported, f"action type {unsupported!r}")
                raise ReplayError(f"{what} is not supported by devhost")

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _start(self, work: Work) -> _Task:
        task = _Task()
        self._new[work.task_id] = work
        self._open[work.task_id] = task
        return task

    def _schedule(self, action: Action) -> _Task:
        task_id, name, given = self._take_id(), action["functionName"], action.get("input")
        if action["actionType"] in (0, 1):
            return self._start(Work(EventType.TASK_SCHEDULED, task_id, name, given))
        child = action.get("instanceId") or f"{self._execution_id}:{task_id}"
        return self._start(Work(EventType.CHILD_CREATED, task_id, name, given, instance_id=child))

    def _timer(self, fire_at: float, cancelled: bool) -> _Task:
        task_id = self._take_id()
        task = self._start(Work(EventType.TIMER_CREATED, task_id, fire_at=fire_at))
        if cancelled:
            del self._open[task_id]
            self.cancelled.add(task_id)
            task.settle(failed=True)
        return task

    def _with_retry(self, action: Action) -> _Task:
        options, result = action["retryOptions"], _Task()
        delay = options["firstRetryIntervalInMilliseconds"] / 1000
        left = options["maxNumberOfAttempts"]

        def attempt() -> None:
            nonlocal left
            left -= 1
            self._schedule(action).then(ended)

        def ended(failed: bool) -> None:
            if not failed:
                result.settle()
                return
            # The last failure takes a timer as well, due at once: DurableTask keeps it for old histories' sake, and the
            # SDK counts on it.
            timer = self._timer(self._now + (delay if left > 0 else 0), cancelled=False)
            timer.then(lambda _: attempt() if left > 0 else result.settle(failed=True))

        attempt()
        return result

    def _compound(self, wait_for_all: bool, actions: list[Action]) -> _Task:
        if not actions and not wait_for_all:
            raise ReplayError("task_any needs at least one task")
        result, tasks = _Task(), [self._invoke(action) for action in actions]
        left, failures = len(tasks), False

        def ended(failed: bool) -> None:
            nonlocal left, failures
            left, failures = left - 1, failures or failed
            if left == 0 or not wait_for_all:
                result.settle(failures and wait_for_all)

        for task in tasks:
            task.then(ended)
        if not tasks:
            result.settle()
        return result

    def _wait(self, name: str) -> _Task:
        task = _Task()
        self._waits.setdefault(name, []).append(task)
        if self._buffered.get(name):
            self._buffered[name] -= 1
            self._raise_event(name)
        return task

    def _raise_event(self, name: str) -> None:
        # The newest wait gets the event: in a loop of races the older ones are abandoned. What the event says doesn't
        # matter here; the SDK reads it from the history.
        if self._waits.get(name):
            self._waits[name].pop().settle()
        else:
            self._buffered[name] = self._buffered.get(name, 0) + 1
