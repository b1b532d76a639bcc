"""How the management API shows instances and their histories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from devhost.durable.events import Event, EventType, utc_seconds, utc_text
from devhost.durable.hub import Instance

_NAMES = {
    EventType.EXECUTION_STARTED: "ExecutionStarted",
    EventType.EXECUTION_COMPLETED: "ExecutionCompleted",
    EventType.EXECUTION_TERMINATED: "ExecutionTerminated",
    EventType.TASK_COMPLETED: "TaskCompleted",
    EventType.TASK_FAILED: "TaskFailed",
    EventType.CHILD_COMPLETED: "SubOrchestrationInstanceCompleted",
    EventType.CHILD_FAILED: "SubOrchestrationInstanceFailed",
    EventType.TIMER_FIRED: "TimerFired",
    EventType.EVENT_RAISED: "EventRaised",
    EventType.EXECUTION_SUSPENDED: "ExecutionSuspended",
    EventType.EXECUTION_RESUMED: "ExecutionResumed",
}
"""What is shown. Scheduling events are folded into what they led to."""
_SCHEDULING = (EventType.TASK_SCHEDULED, EventType.CHILD_CREATED, EventType.TIMER_CREATED)
_HIDDEN = {
    "EventType",
    "EventId",
    "IsPlayed",
    "Timestamp",
    "OrchestrationInstance",
    "ParentInstance",
    "Version",
    "Tags",
}
_HIDDEN |= {"Name", "TaskScheduledId", "TimerId", "Result"}


def status(instance: Instance, *, show_input: bool) -> dict[str, Any]:
    """What is answered about one instance."""
    return {
        "name": instance.name,
        "instanceId": instance.id,
        "runtimeStatus": instance.status,
        "input": _value(instance.input_json) if show_input else None,
        "customStatus": _value(instance.custom_status_json),
        "output": _value(instance.output_json),
        "createdTime": _whole_seconds(instance.created_at),
        "lastUpdatedTime": _whole_seconds(instance.updated_at),
    }


def matching(instances: Iterable[Instance], query: Mapping[str, str]) -> list[Instance]:
    """Those that the API's filters in `query` let pass. Raises ValueError for a time that is none."""
    since = utc_seconds(query["createdTimeFrom"]) if query.get("createdTimeFrom") else float("-inf")
    until = utc_seconds(query["createdTimeTo"]) if query.get("createdTimeTo") else float("inf")
    statuses = {name for name in query.get("runtimeStatus", "").split(",") if name}
    prefix = query.get("instanceIdPrefix", "")
    return [
        instance
        for instance in instances
        if since <= instance.created_at <= until
        and (not statuses or instance.status in statuses)
        and instance.id.startswith(prefix)
    ]


def history(listed: Sequence[Event], *, show_output: bool) -> list[dict[str, Any]]:
    """A history as people read it: what happened, with the names and times of what was asked for."""
    scheduled = {event["EventId"]: event for event in listed if event["EventType"] in _SCHEDULING}
    return [_shown(event, scheduled, show_output) for event in listed if EventType(event["EventType"]) in _NAMES]


def _shown(event: Event, scheduled: Mapping[int, Event], show_output: bool) -> dict[str, Any]:
    kind = EventType(event["EventType"])
    shown: dict[str, Any] = {"EventType": _NAMES[kind]}
    shown |= {key: value for key, value in event.items() if key not in _HIDDEN}
    if "Result" in event and show_output:
        shown["Result"] = _value(event["Result"])
    shown["Timestamp"] = event["Timestamp"]
    asked_id: Any = event.get("TaskScheduledId", event.get("TimerId"))
    asked = scheduled.get(asked_id)
    if asked is not None:
        shown["ScheduledTime"] = asked["Timestamp"].removesuffix("Z") + "+00:00"
    if asked is not None and "Name" in asked:
        shown |= {"FunctionName": asked["Name"], "Input": None}
    elif kind == EventType.EXECUTION_STARTED:
        shown["FunctionName"] = event["Name"]
    elif "Name" in event:
        shown["Name"] = event["Name"]
    return shown


def _value(json_text: str | None) -> Any:
    return None if json_text is None else json.loads(json_text)


def _whole_seconds(at: float) -> str:
    return utc_text(at).partition(".")[0] + "Z"
