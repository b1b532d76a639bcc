"""One call of an orchestrator: the context that the SDK gets, its answer, and what they change. No I/O, no clock.

Whatever the orchestrator does (raise, answer rubbish, not exist) becomes a state of its instance, never an exception.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import azure.functions as func

from devhost.durable import events
from devhost.durable.events import Event, EventType, compact
from devhost.durable.hub import ENDED, Episode, Instance, Loaded, Message
from devhost.durable.replay import Answer, Replay, Work
from devhost.functions import HostedFunction

logger = logging.getLogger(__name__)

STATE_LABEL = "\n\n$OutOfProcData$:"
SETTINGS = (
    '"upperSchemaVersion":1,"upperSchemaVersionNew":3,"longRunningTimerIntervalDuration":"3.00:00:00",'
    '"maximumShortTimerDuration":"6.00:00:00","defaultHttpAsyncRequestSleepTimeMillseconds":30000'
)


class _Rubbish(Exception):
    """The orchestrator's answer is not a state. The message says why."""


def run_episode(
    loaded: Loaded, messages: Sequence[Message], orchestrators: Mapping[str, HostedFunction], at: float
) -> tuple[Episode, list[Event]]:
    """Call the orchestrator of `loaded` with `messages` as its news, at time `at`. Answers the changes and events."""
    instance = loaded.instance
    news = [events.orchestrator_started(at), *(message.event for message in messages)]
    outcome = _Outcome(instance)
    terminated = next((event for event in news if event["EventType"] == EventType.EXECUTION_TERMINATED), None)
    if terminated is not None:
        outcome.end("Terminated", compact(terminated["Input"]), terminated["Input"] or "", "")
    else:
        outcome.status = _running_status(instance.status, news)
        _ask_and_replay(loaded, news, orchestrators, outcome)
    news += [_scheduled(at, work) for work in outcome.work]
    if outcome.status in ENDED:
        news.append(events.execution_completed(at, outcome.status, outcome.output_json))
    news.append(events.orchestrator_completed(at))
    episode = Episode(
        instance=instance,
        number=loaded.episodes,
        at=at,
        consumed=[message.id for message in messages],
        events_text=",".join(events.text_of(event, played=True) for event in news),
        status=outcome.status,
        output_json=outcome.output_json,
        custom_status_json=outcome.custom_status_json,
        work=outcome.work,
        cancelled_timers=frozenset(outcome.cancelled),
        for_parent=outcome.for_parent(at),
    )
    return episode, news


class _Outcome:
    """What an episode makes of its instance, while it is being worked out."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.status = instance, instance.status
        self.output_json: str | None = None
        self.custom_status_json = instance.custom_status_json
        self.work: list[Work] = []
        self.cancelled: set[int] = set()
        self._reason = self._details = ""

    def end(self, status: str, output_json: str | None, reason: str = "", details: str = "") -> None:
        self.status, self.output_json = status, output_json
        self._reason, self._details = reason, details

    def fail(self, message: str, details: str = "") -> None:
        text = f"Orchestrator function '{self.instance.name}' failed: {message}"
        logger.warning("instance %s failed: %s", self.instance.id, text)
        self.work = []
        self.end("Failed", compact(text), text, details or f"Message: {message}")

    def for_parent(self, at: float) -> Event | None:
        parent = self.instance.parent
        if parent is None or self.status not in ENDED:
            return None
        if self.status == "Completed":
            return events.child_completed(at, parent.task_id, self.output_json)
        return events.child_failed(at, parent.task_id, self._reason, self._details)


def _running_status(before: str, news: Sequence[Event]) -> str:
    status = "Suspended" if before == "Suspended" else "Running"
    for event in news:
        if event["EventType"] == EventType.EXECUTION_SUSPENDED:
            status = "Suspended"
        elif event["EventType"] == EventType.EXECUTION_RESUMED:
            status = "Running"
    return status


def _ask_and_replay(
    loaded: Loaded, news: Sequence[Event], orchestrators: Mapping[str, HostedFunction], outcome: _Outcome
) -> None:
    function = orchestrators.get(outcome.instance.name)
    if function is None:
        outcome.fail(unknown_function(outcome.instance.name, "orchestrator", orchestrators))
        return
    try:
        answer, details = _ask(function, context_text(loaded, news))
        replay = Replay(outcome.instance.execution_id, answer).run(chain(loaded.history, news))
    except Exception as error:
        # Ours (_Rubbish, ReplayError), the orchestrator's own, or a malformed action: for the instance it is all one.
        outcome.fail(str(error) or type(error).__name__, traceback.format_exc())
        return
    outcome.custom_status_json = None if answer.custom_status is None else compact(answer.custom_status)
    outcome.work, outcome.cancelled = replay.new, replay.cancelled
    if replay.complete:
        failure = replay.failure or answer.error
        if failure is not None:
            outcome.fail(failure, f"Message: {failure}, StackTrace: {details}")
        else:
            outcome.end("Completed", None if answer.output is None else compact(answer.output))


def unknown_function(name: str, kind: str, known: Mapping[str, HostedFunction]) -> str:
    """The extension's words for a function of `kind` ("activity", "orchestrator") that isn't there."""
    listed = "', '".join(known)
    info = f"The following are the known {kind} functions: '{listed}'." if known else f"No {kind} functions are known!"
    return f"The function '{name}' doesn't exist, is disabled, or is not an {kind} function. Additional info: {info}"


def context_text(loaded: Loaded, news: Sequence[Event]) -> str:
    """The JSON that the orchestrator gets: the history so far as played, then `news`."""
    instance = loaded.instance
    new_text = ",".join(events.text_of(event, played=False) for event in news)
    history = f"{loaded.text},{new_text}" if loaded.text else new_text
    parent = compact(instance.parent.instance_id) if instance.parent else "null"
    return (
        f'{{"history":[{history}],"input":{instance.input_json or "null"},"instanceId":{compact(instance.id)},'
        f'"isReplaying":{"true" if loaded.episodes else "false"},"parentInstanceId":{parent},{SETTINGS}}}'
    )


def _ask(function: HostedFunction, context: str) -> tuple[Answer, str]:
    """The orchestrator's answer, and the stack of the exception it raised, if any.

    It runs here, on the loop, not in the thread pool: it may not block, and the hand-over would cost more than it does.
    """
    try:
        state = function.function(**{function.parameter: func.OrchestrationContext(context)})
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _, label, state = str(error).partition(STATE_LABEL)
        if not label:
            raise _Rubbish(str(error) or type(error).__name__) from error
        return _parse(state), "".join(traceback.format_exception(error.__cause__ or error))
    return _parse(state), ""


def _parse(state: Any) -> Answer:
    try:
        fields = json.loads(state)
        version, actions = fields.get("schemaVersion"), fields["actions"]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _Rubbish("Out of proc orchestrators must return a valid JSON schema") from error
    if version not in (1, 2) or len(actions) != 1:
        raise _Rubbish(
            f"the answer has schema version {version!r} and {len(actions)} lists of actions; 1 or 2, and 1 needed"
        )
    return Answer(
        actions[0], bool(fields.get("isDone")), fields.get("output"), fields.get("error"), fields.get("customStatus")
    )


def _scheduled(at: float, work: Work) -> Event:
    if work.kind == EventType.TASK_SCHEDULED:
        return events.task_scheduled(at, work.task_id, work.name)
    if work.kind == EventType.CHILD_CREATED:
        return events.child_created(at, work.task_id, work.name, work.instance_id)
    return events.timer_created(at, work.task_id, work.fire_at)
