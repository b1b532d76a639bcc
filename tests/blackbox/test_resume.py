"""Resuming over HTTP: the finished part isn't asked of the model again."""

from __future__ import annotations

from typing import Any

from tests.support.api import Api, ModelLog, Run
from tests.support.promise import assert_ended_whole
from tests.support.waiting import eventually_sync


def stream(key: str, tokens: int) -> dict[str, Any]:
    """A model step that answers in `tokens` words."""
    return {"kind": "model", "prompt": f"[[tokens={tokens} delay=5ms key={key}]]Go"}


def resumed(run: Run, status: int = 202, **body: Any) -> Run:
    """The run that resumes `run`."""
    return Run(run.workflow, run.api.ok("POST", f"{run.path}/resume", status, json=body)["id"])


def test_a_cancelled_run_is_resumed_without_its_finished_part(api: Api, model: ModelLog) -> None:
    """Guards the route and the orchestration of a resumed run: one request for the first step in both runs together."""
    echo = {"kind": "tool", "tool": "echo", "arguments": {"value": "<{{steps.s1.output}}>"}}
    sleep = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 2}}
    run = api.workflow(stream(api.user, 3), sleep, echo).start()
    run.wait("running")
    assert run.api.ok("POST", f"{run.path}/resume", 409, json={})["code"] == "run_active"
    eventually_sync(lambda: run.executions()["s02"]["status"] == "running", 20, "the second step runs")
    run.cancel()
    run.wait("cancelled")
    again = resumed(run, items="cancelled", run_id="second")
    assert again.wait("completed")["resumed_from"] == run.id
    assert_ended_whole(again)
    assert len(model.idle()) == 1
    tree = again.executions()
    assert (tree["s01.m"]["reused_from"], tree["s02"]["reused_from"]) == (f"{run.id}:s01.m", None)
    assert tree["s03"]["output_preview"] == f"<{tree['s01']['output_preview']}>"
    assert resumed(run, 200, items="cancelled", run_id="second").id == "second"
    assert api.ok("POST", f"{again.path}/resume", 409, json={})["code"] == "nothing_to_resume"


def test_a_resume_refuses_bad_input(api: Api) -> None:
    """Guards the body: unknown values and fields, and steps that aren't there; nobody else may resume."""
    run = api.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}).run()
    for body in ({"items": "all"}, {"items": None}, {"from_step": 1}, {"more": 1}, {"wait": -1}, {"from_step": "none"}):
        assert api.request("POST", f"{run.path}/resume", json=body).status_code == 422, body
    assert Api(api.client).request("POST", f"{run.path}/resume", json={}).status_code == 404
