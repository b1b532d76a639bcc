"""Child runs over HTTP: a cancel of the top reaches every run below it before it is answered, and each tells its part."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.api import Api, ModelLog, Run, Workflow
from tests.support.promise import assert_cancelled_whole, assert_ended_whole, assert_nothing_after
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.several_processes

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.word}}"}}


def stream(key: str) -> dict[str, Any]:
    """A model step that answers for as long as a test needs."""
    return {"kind": "model", "prompt": f"[[tokens=5000 delay=5ms key={key}]]Go"}


def child_of(workflow: Workflow, **more: Any) -> dict[str, Any]:
    """A step that runs `workflow`."""
    return {"kind": "child_run", "workflow_id": workflow.id, "input": {"word": "hello"}, **more}


def child_run(run: Run, path: str = "s01.r") -> Run:
    """The child run that the execution at `path` names, once it is there."""
    link = eventually_sync(lambda: run.executions().get(path, {}).get("child"), 20, f"{run.id} has a child at {path}")
    return Run(Workflow(run.api, link["workflow_id"]), link["run_id"])


def test_a_child_run_completes_and_hands_its_output_up(api: Api) -> None:
    """Guards the orchestration of a child: a sub-orchestration, linked both ways."""
    after = {"kind": "tool", "tool": "echo", "arguments": {"value": "<{{steps.s1.output}}>"}}
    run = api.workflow(child_of(api.workflow(ECHO)), after).run()
    assert run.get()["status"] == "completed"
    below = child_run(run)
    assert below.get()["parent"]["execution_id"] == f"{run.id}:s01.r"
    assert run.executions()["s02"]["output_preview"] == "<hello>"
    for one in (run, below):
        assert_ended_whole(one)


def test_a_cancel_of_the_top_stops_three_levels(api: Api, model: ModelLog) -> None:
    """Guards the tree: after the answer no token is sent and nothing begins at any level, and all are told."""
    leaf = api.workflow(stream(api.user), stream(api.user))
    middle = api.workflow(child_of(leaf), stream(api.user))
    run = api.workflow(child_of(middle), stream(api.user)).start()
    model.streaming(tokens=5)
    second = child_run(run)
    third = child_run(second)
    answer = run.cancel(reason="all of it")
    answered = time.monotonic()
    assert answer.status_code in (200, 202)
    assert {one.get()["status"] for one in (run, second, third)} <= {"cancelling", "cancelled"}
    for one in (run, second, third):
        one.wait("cancelled")
        assert_cancelled_whole(one)
        assert one.workflow.get()["runtime"]["status"] == "idle"
    assert [one.receipt()["source"] for one in (run, second, third)] == ["api", "parent", "parent"]
    assert len(assert_nothing_after(third, model, answered)) == 1


def test_a_child_cancelled_by_a_person_is_no_failure_of_its_parent(api: Api, model: ModelLog) -> None:
    """Guards a cancel in the middle of a tree: what is above is told and goes on."""
    after = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
    run = api.workflow(child_of(api.workflow(stream(api.user))), after).start()
    model.streaming()
    below = child_run(run)
    assert below.cancel().status_code in (200, 202)
    run.wait("completed")
    tree = run.executions()
    assert [tree[path]["status"] for path in ("s01", "s01.r", "s02")] == ["cancelled", "cancelled", "completed"]
    assert_ended_whole(below)


def test_a_child_past_its_deadline_is_cancelled_and_its_parent_fails(api: Api, model: ModelLog) -> None:
    """Guards the Durable timer beside a sub-orchestration."""
    run = api.workflow(child_of(api.workflow(stream(api.user)), timeout_seconds=1)).start()
    assert run.wait("failed")["error"]["code"] == "timeout"
    assert child_run(run).wait("cancelled")["cancel"]["source"] == "parent"
    assert all(entry["how"] == "closed" for entry in model.idle())


def test_cancel_tree_tells_every_node_deepest_first(api: Api, model: ModelLog) -> None:
    """Guards the answer's shape: each node once with what it was and is, totals that add up, also on repeat."""
    echo = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
    run = api.workflow(echo, child_of(api.workflow(echo, stream(api.user)))).start()
    model.streaming()
    below = child_run(run, "s02.r")
    tree = api.ok("POST", f"/api/runs/{run.id}/cancel-tree", (200, 202), json={"reason": "all"})
    nodes = {node["id"]: node for node in tree["nodes"]}
    expected = {run.id, below.id} | {one["id"] for each in (run, below) for one in each.executions().values()}
    assert set(nodes) == expected
    assert [node["depth"] for node in tree["nodes"]] == sorted((one["depth"] for one in tree["nodes"]), reverse=True)
    assert (nodes[run.id]["previous_status"], nodes[below.id]["kind"]) == ("running", "run")
    assert nodes[f"{below.id}:s02.m"]["status"] in ("cancelling", "cancelled")
    assert nodes[f"{below.id}:s01"]["skip_reason"] == "already completed"
    assert tree["total_nodes"] == len(nodes) == tree["cancelled_count"] + tree["skipped_count"] + tree["error_count"]
    assert tree["error_count"] == 0
    assert tree["skipped_count"] == 4
    run.wait("cancelled")
    again = api.ok("POST", f"/api/runs/{run.id}/cancel-tree", json={})
    assert (again["cancelled_count"], again["skipped_count"]) == (0, len(nodes))
    assert {node["status"] for node in again["nodes"]} == {"cancelled", "completed"}


def test_the_names_of_other_tools_do_the_same(api: Api, model: ModelLog) -> None:
    """Guards the aliases: they find the run by its id, cancel it, and answer as those tools' users know."""
    workflow = api.workflow(stream(api.user))
    for path, status in (
        ("runs/{}/stop", "stopped"),
        ("runs/{}/cancel", "cancelled"),
        (f"workflows/{workflow.id}/runs/{{}}/cancel", "cancelled"),
    ):
        run = workflow.start()
        run.wait("running")
        answer = api.ok("POST", "/api/" + path.format(run.id), (200, 202), json={"reason": "x"})
        assert answer.get("runId", answer.get("run_id")) == run.id
        run.wait("cancelled")
        assert run.receipt()["reason"] == "x"
        again = api.ok("POST", "/api/" + path.format(run.id), json={})
        assert again["status"] == status
    run = workflow.start()
    model.streaming()
    answer = api.ok("POST", f"/api/executions/{run.id}:s01/cancel", 202, json={})
    assert (answer["scope"], answer["run_id"]) == ("execution", run.id)
    run.wait("completed")


def test_the_aliases_show_nothing_of_others(api: Api) -> None:
    """Guards rights and bad input: another's run, an unknown one and a malformed id are all not found."""
    run = api.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}).run()
    other = Api(api.client)
    for path in ("runs/{}/stop", "runs/{}/cancel", "runs/{}/cancel-tree", "executions/{}:s01/cancel"):
        assert other.request("POST", "/api/" + path.format(run.id), json={}).status_code == 404
        assert api.request("POST", "/api/" + path.format(run.id), json={}).json()["code"] == "run_already_finished"
        for wrong in ("unknown", "-", "%2e%2e", "a" * 65):
            assert api.request("POST", "/api/" + path.format(wrong), json={}).status_code == 404, wrong


def test_an_id_that_two_workflows_have_is_refused_without_the_workflow(api: Api) -> None:
    """Guards ids that callers chose: no alias picks one of two."""
    step = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 30}}
    first, second = api.workflow(step).start(run_id="mine"), api.workflow(step).start(run_id="mine")
    refused = api.ok("POST", "/api/runs/mine/cancel", 409, json={})
    assert refused["code"] == "run_id_ambiguous"
    for run in (first, second):
        api.ok("POST", f"/api/workflows/{run.workflow.id}/runs/mine/cancel", (200, 202), json={})
        run.wait("cancelled")


def test_an_agent_runs_a_workflow_and_a_cancel_reaches_it(api: Api, model: ModelLog) -> None:
    """Guards the tool `run_workflow` through Durable orchestrations: its child is stopped with the agent's run."""
    child = api.workflow(stream(api.user))
    turn = f'[[tool=run_workflow arguments={{"workflow_id":"{child.id}"}}]]'
    step = {"kind": "agent", "instructions": "Work.", "input": f"{turn}[[delay=1ms]]Go", "tools": ["run_workflow"]}
    run = api.workflow(step).start()
    model.streaming()
    below = child_run(run, "s01.t01.c0.r")
    run.cancel()
    for one in (run, below):
        one.wait("cancelled")
        assert_cancelled_whole(one)
    assert below.receipt()["source"] == "parent"
