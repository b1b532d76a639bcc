"""Agents over HTTP: the model that the host serves asks for tools as the prompts direct it."""

from __future__ import annotations

import time

import pytest

from tests.support.api import Api, ModelLog, Run
from tests.support.promise import assert_ended_whole, assert_promise_kept, cancel
from tests.support.prompts import agent_step, call, sub_agent, turn
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.several_processes


def statuses(run: Run, *paths: str) -> list[str]:
    """The statuses of the nodes at `paths`, `absent` where there is none."""
    tree = run.executions()
    return [tree[path]["status"] if path in tree else "absent" for path in paths]


def until(run: Run, path: str, *wanted: str) -> None:
    """Wait until the node at `path` has one of these statuses."""
    eventually_sync(lambda: statuses(run, path)[0] in wanted, 20, f"{path} is {' or '.join(wanted)}")


def test_an_agent_with_a_sub_agent_works_through_its_turns(api: Api, model: ModelLog) -> None:
    """Guards the whole of it through Durable orchestrations: turns, parallel calls, a nested agent, slips of the model."""
    api.upload("notes.txt", b"The bridge opened in 1932.")
    inner = f"{turn(call('read_document', name='notes.txt'))}[[key={api.user} delay=1ms say=1932 it is]]When?"
    first = turn(call("search_documents", query="bridge"), call("checker", input=inner), call("no_such_tool"))
    checker = sub_agent("checker", tools=["read_document"])
    step = agent_step(
        api.user, first, turn(call("echo", value=7)), tools=["search_documents", "echo"], agents=[checker]
    )
    run = api.workflow(step).run()
    whole, tree = assert_ended_whole(run), run.executions()
    assert (whole["status"], whole["output_preview"]) == ("completed", "All done")
    shown = {path: (one["kind"], one["status"], one["parent"]) for path, one in tree.items()}
    assert shown == {
        "s01": ("step", "completed", None),
        "s01.t01.m": ("model_call", "completed", "s01"),
        "s01.t01.c0": ("tool_call", "completed", "s01"),
        "s01.t01.c1": ("agent", "completed", "s01"),
        "s01.t01.c1.t01.m": ("model_call", "completed", "s01.t01.c1"),
        "s01.t01.c1.t01.c0": ("tool_call", "completed", "s01.t01.c1"),
        "s01.t01.c1.t02.m": ("model_call", "completed", "s01.t01.c1"),
        "s01.t01.c2": ("tool_call", "failed", "s01"),
        "s01.t02.m": ("model_call", "completed", "s01"),
        "s01.t02.c0": ("tool_call", "completed", "s01"),
        "s01.t03.m": ("model_call", "completed", "s01"),
    }
    assert tree["s01.t01.c1"]["output_preview"] == "1932 it is"
    assert "bridge" in tree["s01.t01.c0"]["output_preview"]
    assert len(model.idle()) == 5


def test_cancelling_the_run_stops_every_call_of_an_agents_turn(api: Api, model: ModelLog) -> None:
    """Guards the promise inside agents: tools, a sub-agent's stream, and no further turn."""
    inner = f"[[key={api.user} tokens=5000 delay=5ms]]Talk"
    turns = turn(call("sleep", seconds=60), call("talker", input=inner), call("sleep", seconds=60))
    talker = sub_agent("talker")
    run = api.workflow(agent_step(api.user, turns, tools=["sleep"], agents=[talker])).start()
    model.streaming()
    until(run, "s01.t01.c0", "running")
    until(run, "s01.t01.c2", "running")
    answer, answered = cancel(run)
    assert answer.status_code == 202
    run.wait("cancelled")
    receipt, _ = assert_promise_kept(run, model, answered)
    assert sorted((one["execution_id"].partition(":")[2], one["outcome"]) for one in receipt["in_flight"]) == [
        ("s01.t01.c0", "stopped"), ("s01.t01.c1.t01.m", "stopped"), ("s01.t01.c2", "stopped"),
    ]  # fmt: skip
    assert statuses(run, "s01", "s01.t01.c1", "s01.t02.m") == ["cancelled", "cancelled", "absent"]


def test_one_cancelled_call_is_told_to_the_model_and_the_agent_goes_on(api: Api) -> None:
    """Guards narrow cancels inside agents: the siblings and the run are unharmed."""
    step = agent_step(api.user, turn(call("sleep", seconds=60), call("echo", value="kept")), tools=["sleep", "echo"])
    run = api.workflow(step).start()
    until(run, "s01.t01.c0", "running")
    until(run, "s01.t01.c1", "completed")
    assert api.request("POST", f"{run.path}/executions/s01.t01.c0/cancel", json={}).status_code == 202
    assert run.wait()["status"] == "completed"
    assert_ended_whole(run)
    assert statuses(run, "s01", "s01.t01.c0", "s01.t01.c1", "s01.t02.m") == [
        "completed", "cancelled", "completed", "completed",
    ]  # fmt: skip


def test_cancelling_a_sub_agent_ends_only_that(api: Api) -> None:
    """Guards a narrow cancel of an agent: what is below it stops, nothing of it begins again, its caller goes on."""
    inner = f"[[key={api.user}-inner tokens=5000 delay=5ms]]Talk"
    talker = sub_agent("talker")
    run = api.workflow(agent_step(api.user, turn(call("talker", input=inner)), agents=[talker])).start()
    until(run, "s01.t01.c0.t01.m", "running")
    assert api.request("POST", f"{run.path}/executions/s01.t01.c0/cancel", json={}).status_code == 202
    assert run.wait()["status"] == "completed"
    assert_ended_whole(run)
    assert statuses(run, "s01", "s01.t01.c0", "s01.t01.c0.t01.m", "s01.t01.c0.t02.m", "s01.t02.m") == [
        "completed", "cancelled", "cancelled", "absent", "completed",
    ]  # fmt: skip


def test_cancelling_an_agents_model_call_cancels_the_agent_and_the_run_goes_on(api: Api, model: ModelLog) -> None:
    """Guards the one call that an agent can't do without; `on_cancelled` then says what becomes of the run."""
    talk = {"kind": "agent", "instructions": "Talk.", "input": f"[[key={api.user} tokens=5000 delay=5ms]]Talk"}
    echo = {"kind": "tool", "tool": "echo", "arguments": {"value": "after"}}
    run = api.workflow(talk, echo).start()
    model.streaming()
    assert api.request("POST", f"{run.path}/executions/s01.t01.m/cancel", json={}).status_code == 202
    assert run.wait()["status"] == "completed"
    assert_ended_whole(run)
    assert statuses(run, "s01", "s01.t01.m", "s01.t02.m", "s02") == ["cancelled", "cancelled", "absent", "completed"]


def test_an_agents_text_shows_while_it_grows(api: Api, model: ModelLog) -> None:
    """Guards the live view of a sub-agent's turn: what was sent a second ago (twice what is promised) can be read."""
    inner = f"[[key={api.user} tokens=400 delay=10ms]]Talk"
    run = api.workflow(agent_step(api.user, turn(call("talker", input=inner)), agents=[sub_agent("talker")])).start()
    looks = 0

    def look() -> bool:
        nonlocal looks
        now, entries = time.monotonic(), [one for one in model.entries() if one["how"] == "open" and one["sent"] > 0]
        talk = run.executions().get("s01.t01.c0.t01.m", {})
        seen = len((talk.get("output_preview") or "").split())
        for entry in entries:
            assert sum(entry["t"] + offset < now - 1.0 for offset in entry["tokens"]) <= seen
            looks += seen > 0
        return any(entry["sent"] > 150 for entry in entries)

    eventually_sync(look, 20, "150 tokens were sent")
    assert looks > 3
    run.cancel()
    run.wait("cancelled")
