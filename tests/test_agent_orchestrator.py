"""The agent's orchestrator, step by step: what ends it, and what it goes on after."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrators.agent import agent, tool_call

GIVEN = {"scope": "user:a", "workflow_id": "w", "run_id": "r", "epoch": 1, "path": "s01"}
CALLS = {
    "status": "turn",
    "calls": [{"path": "s01.t01.c0", "agent": False}, {"path": "s01.t01.c1", "agent": True}],
}
DONE = {"status": "completed", "error": None}


class Context:
    """As much of the Durable context as is used: each task is the tuple that asked for it."""

    instance_id = "r:pipeline:s01"

    def get_input(self) -> dict[str, Any]:
        return dict(GIVEN)

    def call_activity(self, name: str, payload: Any) -> Any:
        return ("activity", name, payload)

    def call_sub_orchestrator(self, name: str, payload: Any, instance_id: str) -> Any:
        return ("orchestrator", name, payload["path"], instance_id)

    def task_all(self, tasks: list[Any]) -> Any:
        return tasks


def play(*answers: Any) -> tuple[list[Any], Any]:
    """What the orchestrator asked for when it was answered so, and what it returned (None: it goes on)."""
    steps, asked = agent(Context()), []  # type: ignore[arg-type]
    asked.append(next(steps))
    for answer in answers:
        try:
            asked.append(steps.send(answer))
        except StopIteration as end:
            return asked, end.value
    return asked, None


def test_a_turns_calls_run_in_parallel_under_ids_of_their_own() -> None:
    """Guards the ids: the same at every replay, and another for each node of the tree."""
    asked, end = play(CALLS, [DONE, DONE], DONE)
    assert asked == [
        ("activity", "take_turn", {**GIVEN, "turn": 1}),
        [
            ("orchestrator", "tool_call", "s01.t01.c0", "r:pipeline:s01:t01.c0"),
            ("orchestrator", "agent", "s01.t01.c1", "r:pipeline:s01:t01.c1"),
        ],
        ("activity", "take_turn", {**GIVEN, "turn": 2}),
    ]
    assert end == DONE


def test_a_turn_without_calls_is_followed_by_the_next() -> None:
    """Guards a correction: there is nothing to wait for."""
    asked, end = play({"status": "turn", "calls": []}, DONE)
    assert [one[2]["turn"] for one in asked] == [1, 2]
    assert end == DONE


@pytest.mark.parametrize("said", [{"status": "failed", "error": {"code": "x"}}, {"status": "branch_cancelled"}])
def test_a_call_that_failed_or_was_cancelled_alone_does_not_end_the_agent(said: dict[str, Any]) -> None:
    """Guards that the model is told of it instead."""
    asked, end = play(CALLS, [said, DONE])
    assert asked[-1] == ("activity", "take_turn", {**GIVEN, "turn": 2})
    assert end is None


@pytest.mark.parametrize(
    "said", [{"status": "cancelled"}, {"status": "failed", "error": {"code": "activity_failed"}, "given_up": True}]
)
def test_a_cancelled_run_or_a_call_that_was_given_up_ends_the_agent(said: dict[str, Any]) -> None:
    """Guards both ends: no turn after the run's cancel, and none that would tell the model of a call without an outcome."""
    asked, end = play(CALLS, [DONE, said])
    assert len(asked) == 2
    assert end == said


@pytest.mark.parametrize("said", [DONE, {"status": "cancelled"}, {"status": "branch_cancelled"}, {"status": "failed"}])
def test_a_turn_that_is_the_last_is_the_agents_outcome(said: dict[str, Any]) -> None:
    """Guards that the activity alone decides."""
    assert play(said) == ([("activity", "take_turn", {**GIVEN, "turn": 1})], said)


def test_a_tool_call_is_one_activity() -> None:
    """Guards that its orchestration adds its retries only."""
    steps = tool_call(Context())  # type: ignore[arg-type]
    assert next(steps) == ("activity", "call_tool", GIVEN)
    with pytest.raises(StopIteration) as end:
        steps.send(DONE)
    assert end.value.value == DONE
