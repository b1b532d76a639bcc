"""The recorded orchestrator calls: what the SDK answers, and what the extension made of the answers."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import azure.functions as func
import pytest
from dateutil import parser  # type: ignore[import-untyped]

from devhost.durable.episode import STATE_LABEL, context_text
from devhost.durable.events import EventType, compact, execution_started, orchestrator_started, utc_seconds
from devhost.durable.hub import Instance, Loaded
from devhost.durable.replay import Answer, Replay, ReplayError
from devhost.durable.sdk_speed import _faster_parse
from tests.durable_host import GOLDEN, IGNORED_WARNINGS, functions_of

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]

RECORDED: list[dict[str, Any]] = [json.loads(line) for line in (GOLDEN / "episodes.jsonl").read_text().splitlines()]
ORCHESTRATORS = {function.name: function for function in functions_of()}
SCHEDULED = (EventType.TASK_SCHEDULED, EventType.CHILD_CREATED, EventType.TIMER_CREATED)
IDS = [f"{n}-{episode['orchestrator']}" for n, episode in enumerate(RECORDED)]


def state_of(episode: dict[str, Any]) -> dict[str, Any]:
    state = episode.get("state") or json.loads(episode["raised"].partition(STATE_LABEL)[2])
    assert isinstance(state, dict)
    return state


@pytest.mark.parametrize("episode", RECORDED, ids=IDS)
def test_a_recorded_context_gives_the_recorded_state(episode: dict[str, Any]) -> None:
    """Guards against an SDK that answers otherwise than the one whose behaviour was recorded."""
    function = ORCHESTRATORS[episode["orchestrator"]]
    context = func.OrchestrationContext(json.dumps(episode["context"]))
    try:
        state = json.loads(function.function(context=context))
    except Exception as error:
        assert str(error) == episode.get("raised")
    else:
        assert state == episode["state"]


def successive() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each recorded call with the next one of the same execution."""
    calls = defaultdict(list)
    for episode in RECORDED:
        started = next(event for event in episode["context"]["history"] if event["EventType"] == 0)
        calls[started["OrchestrationInstance"]["ExecutionId"]].append(episode)
    return [pair for chain in calls.values() for pair in pairwise(chain)]


@pytest.mark.parametrize(("episode", "following"), successive())
def test_our_replay_schedules_what_the_extension_scheduled(episode: dict[str, Any], following: dict[str, Any]) -> None:
    """Guards the replay: for each recorded answer, the next recorded history tells what the extension made of it."""
    history, state = episode["context"]["history"], state_of(episode)
    execution = next(event for event in history if event["EventType"] == 0)["OrchestrationInstance"]["ExecutionId"]
    answer = Answer(state["actions"][0], state["isDone"], state.get("output"), state.get("error"))
    replay = Replay(execution, answer).run(history)
    grown = following["context"]["history"][len(history) :]
    episode_end = next(n for n, event in enumerate(grown) if event["EventType"] == EventType.ORCHESTRATOR_COMPLETED)
    expected = [event for event in grown[:episode_end] if event["EventType"] in SCHEDULED]
    assert not replay.complete
    assert [(work.kind, work.task_id, work.name, work.instance_id) for work in replay.new] == [
        (event["EventType"], event["EventId"], event.get("Name", ""), event.get("InstanceId", "")) for event in expected
    ]
    fire_at = [work.fire_at for work in replay.new if work.kind == EventType.TIMER_CREATED]
    recorded = [event for event in expected if event["EventType"] == EventType.TIMER_CREATED]
    assert fire_at == pytest.approx([utc_seconds(event["FireAt"]) for event in recorded], abs=2e-6)


def last_calls() -> list[dict[str, Any]]:
    """The last recorded call of each execution that was recorded to its end."""
    last: dict[str, dict[str, Any]] = {}
    for episode in RECORDED:
        started = next(event for event in episode["context"]["history"] if event["EventType"] == 0)
        last[started["OrchestrationInstance"]["ExecutionId"]] = episode
    endless = ("unknown_activity", "via-app", "terminate")
    return [e for e in last.values() if not e["context"]["instanceId"].startswith(endless)]


@pytest.mark.parametrize("episode", last_calls())
def test_our_replay_completes_when_the_extension_did(episode: dict[str, Any]) -> None:
    """Guards against instances that end before their abandoned work has, or never."""
    history, state = episode["context"]["history"], state_of(episode)
    answer = Answer(state["actions"][0], state["isDone"], state.get("output"), state.get("error"))
    replay = Replay("x", answer).run(history)
    assert replay.complete
    assert replay.failure is None


def test_our_contexts_have_the_fields_of_the_recorded_ones() -> None:
    """Guards against a field that the SDK reads and we forget."""
    instance = Instance("i", "e", "sequence", "Pending", '{"a":1}', None, None, 0.0, 0.0)
    started = execution_started(0.0, "sequence", instance_id="i", execution_id="e", input_json='{"a":1}', parent=None)
    ours = json.loads(context_text(Loaded(instance), [orchestrator_started(0.0), started]))
    recorded = next(e["context"] for e in RECORDED if e["orchestrator"] == "echoes")
    assert ours.keys() == recorded.keys()
    assert [event.keys() for event in ours["history"]] == [event.keys() for event in recorded["history"]]
    constant = ("upperSchemaVersion", "upperSchemaVersionNew", "maximumShortTimerDuration")
    assert {key: ours[key] for key in constant} == {key: recorded[key] for key in constant}
    assert ours["input"] == {"a": 1}


def action(kind: int, name: str = "work", **more: Any) -> dict[str, Any]:
    return {"actionType": kind, "functionName": name, "input": "1", **more}


def history(*events: dict[str, Any]) -> list[dict[str, Any]]:
    started = execution_started(0.0, "o", instance_id="i", execution_id="e", input_json=None, parent=None)
    return [orchestrator_started(0.0), started, *events]


@pytest.mark.parametrize(
    ("kind", "what"), [(4, "continue_as_new"), (7, "call_entity"), (8, "call_http"), (9, "signal_entity"), (99, "99")]
)
def test_what_is_not_supported_fails_by_name(kind: int, what: str) -> None:
    """Guards against an orchestration that hangs because its host ignores what it asks for."""
    replay = Replay("e", Answer([action(kind)])).run(history())
    assert replay.complete
    assert replay.failure is not None
    assert what in replay.failure


def test_an_answer_that_does_not_fit_the_history_is_refused() -> None:
    """Guards against results that reach the wrong call after an orchestrator's code was changed under its instances."""
    scheduled = {"EventType": 4, "EventId": 0, "Name": "work"}
    for actions in ([], [action(0, "other")], [action(2)]):
        with pytest.raises(ReplayError, match="Non-Deterministic"):
            Replay("e", Answer(actions)).run(history(scheduled))


def test_the_newest_wait_gets_an_event_and_buffered_events_come_in_order() -> None:
    """Guards the order in which the extension hands events out, on which races in a loop depend."""
    wait = {"actionType": 6, "externalEventName": "go"}
    race = {"actionType": 11, "compoundActions": [wait, action(0, "work")]}
    raised = {"EventType": 15, "Name": "go"}
    scheduled = {"EventType": 4, "EventId": 0, "Name": "work"}
    done = {"EventType": 5, "TaskScheduledId": 0}
    replay = Replay("e", Answer([race, wait, action(0, "last")], is_done=True))
    replay.run(history(scheduled, done, raised))
    assert [work.name for work in replay.new] == ["last"]


def test_while_suspended_nothing_is_scheduled_and_resuming_catches_up() -> None:
    """Guards against a suspended instance that goes on, or that forgets what came meanwhile."""
    scheduled = {"EventType": 4, "EventId": 0, "Name": "a"}
    suspended, done = {"EventType": 19}, {"EventType": 5, "TaskScheduledId": 0}
    answer = Answer([action(0, "a"), action(0, "b")])
    assert Replay("e", answer).run(history(scheduled, suspended, done)).new == []
    resumed = Replay("e", answer).run(history(scheduled, suspended, done, {"EventType": 20}))
    assert [work.name for work in resumed.new] == ["b"]
    assert Replay("e", answer).run(history(suspended)).new == []
    assert [work.name for work in Replay("e", answer).run(history(suspended, {"EventType": 20})).new] == ["a"]


def test_the_faster_sdk_reads_times_as_before() -> None:
    """Guards the one thing that devhost changes in the SDK: the same times, of the same type, only faster."""
    recorded = {event["Timestamp"] for episode in RECORDED for event in episode["context"]["history"]}
    ours = [orchestrator_started(at)["Timestamp"] for at in (0.0, 1_795_226_588.8419487, 4e9)]
    faster = _faster_parse(parser.parse)
    for text in [*recorded, *ours, "2026-11-20 21:47:08Z", "20261120T214708.003685+0100"]:
        assert repr(faster(text)) == repr(parser.parse(text))


def test_compact_json_survives_lone_surrogates() -> None:
    """Guards against a payload that JSON allows and SQLite can't store."""
    assert json.loads(compact("\ud800")) == "\ud800"
    compact("\ud800").encode()
