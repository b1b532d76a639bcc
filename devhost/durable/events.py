"""History events, in the JSON shape that the Durable extension gives to the Python SDK (golden `episodes.jsonl`).

An event is kept without `IsPlayed`: that is a property of the reading, not of the event.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

Event = dict[str, Any]


class EventType(IntEnum):
    """DurableTask.Core's numbers, as far as they are used here."""

    EXECUTION_STARTED = 0
    EXECUTION_COMPLETED = 1
    EXECUTION_TERMINATED = 3
    TASK_SCHEDULED = 4
    TASK_COMPLETED = 5
    TASK_FAILED = 6
    CHILD_CREATED = 7
    CHILD_COMPLETED = 8
    CHILD_FAILED = 9
    TIMER_CREATED = 10
    TIMER_FIRED = 11
    ORCHESTRATOR_STARTED = 12
    ORCHESTRATOR_COMPLETED = 13
    EVENT_RAISED = 15
    EXECUTION_SUSPENDED = 19
    EXECUTION_RESUMED = 20


compact = json.JSONEncoder(separators=(",", ":")).encode
"""JSON without spaces; ASCII, so that lone surrogates (legal in JSON) can be stored."""


def utc_text(at: float) -> str:
    """Unix seconds as the extension writes times: RFC 3339 UTC with a fraction and `Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def utc_seconds(text: str) -> float:
    """The reverse of `utc_text`; a text without a zone is UTC, as the SDK sends it. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def text_of(event: Event, *, played: bool) -> str:
    """An event as the SDK reads it. The extension never marks OrchestratorStarted as played."""
    mark = "true" if played and event["EventType"] != EventType.ORCHESTRATOR_STARTED else "false"
    return f'{compact(event)[:-1]},"IsPlayed":{mark}}}'


def _event(kind: EventType, at: float, event_id: int = -1, **fields: Any) -> Event:
    return {"EventType": int(kind), **fields, "EventId": event_id, "Timestamp": utc_text(at)}


def orchestrator_started(at: float) -> Event:
    return _event(EventType.ORCHESTRATOR_STARTED, at)


def orchestrator_completed(at: float) -> Event:
    return _event(EventType.ORCHESTRATOR_COMPLETED, at)


def execution_started(
    at: float, name: str, *, instance_id: str, execution_id: str, input_json: str | None, parent: Event | None
) -> Event:
    """`input_json` is the JSON text of the input; `parent` a `parent_instance`."""
    return _event(
        EventType.EXECUTION_STARTED,
        at,
        OrchestrationInstance={"InstanceId": instance_id, "ExecutionId": execution_id},
        ParentInstance=parent,
        Name=name,
        Version=None,
        Input=input_json,
        Tags=None,
        Correlation=None,
        ParentTraceContext=None,
        ScheduledStartTime=None,
        Generation=None,
        GenerateNewTrace=False,
    )


def parent_instance(name: str, instance_id: str, execution_id: str, task_id: int) -> Event:
    """Who called a sub-orchestration, as its `execution_started` event tells it."""
    return {
        "Name": name,
        "OrchestrationInstance": {"InstanceId": instance_id, "ExecutionId": execution_id},
        "TaskScheduleId": task_id,
        "Version": None,
    }


def execution_completed(at: float, status: str, result_json: str | None) -> Event:
    return _event(
        EventType.EXECUTION_COMPLETED, at, OrchestrationStatus=status, Result=result_json, FailureDetails=None
    )


def execution_terminated(at: float, reason: str | None) -> Event:
    return _event(EventType.EXECUTION_TERMINATED, at, Input=reason)


def execution_suspended(at: float, reason: str | None) -> Event:
    return _event(EventType.EXECUTION_SUSPENDED, at, Reason=reason)


def execution_resumed(at: float, reason: str | None) -> Event:
    return _event(EventType.EXECUTION_RESUMED, at, Reason=reason)


def task_scheduled(at: float, task_id: int, name: str) -> Event:
    return _event(
        EventType.TASK_SCHEDULED, at, task_id, Name=name, Version="", Input=None, ParentTraceContext=None, Tags=None
    )


def task_completed(at: float, task_id: int, result_json: str) -> Event:
    return _event(EventType.TASK_COMPLETED, at, TaskScheduledId=task_id, Result=result_json)


def task_failed(at: float, task_id: int, reason: str, details: str) -> Event:
    return _event(
        EventType.TASK_FAILED, at, TaskScheduledId=task_id, Reason=reason, Details=details, FailureDetails=None
    )


def child_created(at: float, task_id: int, name: str, instance_id: str) -> Event:
    return _event(
        EventType.CHILD_CREATED,
        at,
        task_id,
        Name=name,
        Version=None,
        InstanceId=instance_id,
        Input=None,
        ClientSpanId=None,
        Tags=None,
    )


def child_completed(at: float, task_id: int, result_json: str | None) -> Event:
    return _event(EventType.CHILD_COMPLETED, at, TaskScheduledId=task_id, Result=result_json)


def child_failed(at: float, task_id: int, reason: str, details: str) -> Event:
    return _event(
        EventType.CHILD_FAILED, at, TaskScheduledId=task_id, Reason=reason, Details=details, FailureDetails=None
    )


def timer_created(at: float, timer_id: int, fire_at: float) -> Event:
    return _event(EventType.TIMER_CREATED, at, timer_id, FireAt=utc_text(fire_at))


def timer_fired(at: float, timer_id: int, fire_at: float) -> Event:
    return _event(EventType.TIMER_FIRED, at, TimerId=timer_id, FireAt=utc_text(fire_at))


def event_raised(at: float, name: str, input_json: str) -> Event:
    return _event(EventType.EVENT_RAISED, at, Name=name, Input=input_json, ParentTraceContext=None)
