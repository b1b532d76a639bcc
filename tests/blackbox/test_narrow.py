"""Cancelling one execution over HTTP: its stream is closed, the run goes on, and the answer says what is still active."""

from __future__ import annotations

import time
from typing import Any

from tests.support.api import Api, ModelLog
from tests.support.promise import assert_ended_whole

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "<{{steps.s1.output}}>"}}


def stream(key: str) -> dict[str, Any]:
    """A model step that answers for as long as a test needs."""
    return {"kind": "model", "prompt": f"[[tokens=5000 delay=5ms key={key}]]Go"}


def test_one_step_is_stopped_and_the_run_goes_on(api: Api, model: ModelLog) -> None:
    """Guards the narrow cancel: the stream is closed, the next step runs, and the caller was warned how to stop all."""
    run = api.workflow(stream(api.user), ECHO).start()
    model.streaming(tokens=5)
    answer = api.ok("POST", f"{run.path}/executions/s01/cancel", 202, json={"reason": "not this one"})
    answered = time.monotonic()
    assert (answer["scope"], answer["run_id"], answer["execution_id"]) == ("execution", run.id, f"{run.id}:s01")
    assert (answer["remaining_active_in_run"], answer["active"]) == (0, [])
    assert answer["suggested_endpoint"] == f"{run.path}/cancel" in answer["warning"]
    run.wait("completed")
    (entry,) = model.idle()
    assert (entry["how"], entry["ended_t"] - answered < 0.5) == ("closed", True)
    tree = run.executions()
    assert [tree[path]["status"] for path in ("s01", "s01.m", "s02")] == ["cancelled", "cancelled", "completed"]
    assert tree["s01"]["cancel"]["reason"] == "not this one"
    assert tree["s02"]["output_preview"] == "<>"
    assert run.types().count("execution.cancelling") == 1
    assert_ended_whole(run)


def test_what_goes_on_beside_it_is_counted(api: Api, model: ModelLog) -> None:
    """Guards `remaining_active_in_run`: of two items at work one is cancelled, the other is named; repeating is safe."""
    for name in ("a", "b"):
        api.upload(f"in/{name}.txt", b"text")
    step = {
        "kind": "analyze_documents",
        "documents": {"prefix": "in/"},
        "parallel": 2,
        "prompt": stream(api.user)["prompt"],
    }
    run = api.workflow(step).start()
    model.streaming(count=2)
    for _ in range(2):
        answer = api.ok("POST", f"{run.path}/executions/s01.i001/cancel", 202, json={})
        assert {one["id"] for one in answer["active"]} == {f"{run.id}:s01.i002", f"{run.id}:s01.i002.m"}
        assert answer["remaining_active_in_run"] == 2
    assert run.get()["status"] == "running"
    run.cancel()
    run.wait("cancelled")


def test_what_is_not_there_or_has_ended_is_told_apart(api: Api) -> None:
    """Guards the answers to bad input: unknown and malformed paths are not found, an ended run is a conflict."""
    run = api.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}).run()
    for path in ("s02", "s01.x9", "nonsense", "S01", "s01..m", "%2e%2e"):
        assert api.request("POST", f"{run.path}/executions/{path}/cancel", json={}).status_code == 404, path
    ended = api.ok("POST", f"{run.path}/executions/s01/cancel", 409, json={})
    assert (ended["code"], ended["state"]) == ("run_already_finished", "completed")
    assert api.request("POST", f"{run.path}/executions/s01/cancel", json={"force": True}).status_code == 422
    other = Api(api.client)
    assert other.request("POST", f"{run.path}/executions/s01/cancel", json={}).status_code == 404
