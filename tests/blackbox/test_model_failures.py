"""A model endpoint that is down, slow, rate-limiting or cut off: bounded retries, then a failed step that says why."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, ModelLog, Run
from tests.support.promise import assert_cancelled_whole, assert_ended_whole, assert_workflow_free
from tests.support.waiting import eventually_sync


def asking(prompt: str, retries: int = 2, backoff: float = 0.05, **more: Any) -> dict[str, Any]:
    """A model step."""
    return {"kind": "model", "prompt": prompt, "retries": {"max": retries, "backoff_seconds": backoff}, **more}


def failures(run: Run) -> list[str]:
    """The codes of the errors that the model call's events tell, in order."""
    return [
        event["data"]["error"]["code"]
        for event in run.events()
        if event["type"] == "execution.failed" and event["execution_id"].endswith(".m")
    ]


@pytest.mark.parametrize(
    ("trouble", "codes"),
    [
        ("status=429 retry_after=0.2 times=1", ["model_rate_limited"]),
        ("status=500 times=2", ["model_unavailable", "model_unavailable"]),
        ("cut_after=5 times=1", ["model_interrupted"]),
        ("status=503 retry_after=0 times=2", ["model_unavailable", "model_unavailable"]),
    ],
)
def test_a_passing_trouble_is_retried(api: Api, model: ModelLog, trouble: str, codes: list[str]) -> None:
    """Guards retries: the step completes with one whole answer, and the history tells each failure."""
    run = api.workflow(asking(f"[[{trouble} key={api.user}]][[tokens=9 delay=1ms]]Go")).run()
    assert assert_ended_whole(run)["status"] == "completed", run.get()["error"]
    assert failures(run) == codes
    call = run.executions()["s01.m"]
    assert (call["attempt"], len(call["output_preview"].split()), call["error"]) == (len(codes) + 1, 9, None)
    entries = model.idle()
    assert [one["how"] for one in entries[len(codes) :]] == ["done"]
    if "retry_after=0.2" in trouble:
        assert entries[1]["t"] - entries[0]["t"] >= 0.2


@pytest.mark.parametrize(
    ("trouble", "code", "said"),
    [
        ("status=500", "model_unavailable", "500"),
        ("status=429", "model_rate_limited", "429"),
        ("cut_after=3", "model_interrupted", "broke off"),
    ],
)
def test_a_lasting_trouble_fails_the_step_when_the_retries_are_used_up(
    api: Api, model: ModelLog, trouble: str, code: str, said: str
) -> None:
    """Guards bounded retries: as many requests as the step allows, then the run says why, and is not left behind."""
    run = api.workflow(asking(f"[[{trouble} delay=1ms key={api.user}]]Go")).run()
    whole = assert_ended_whole(run)
    assert (whole["status"], whole["error"]["code"]) == ("failed", code)
    assert said in whole["error"]["message"]
    assert failures(run) == [code] * 3
    assert len(model.idle()) == 3
    assert run.workflow.get()["runtime"]["last_run_error"] == whole["error"]
    assert_workflow_free(run)


@pytest.mark.parametrize(
    ("status", "code"), [(400, "model_rejected"), (401, "model_rejected"), (404, "model_rejected")]
)
def test_a_refusal_that_will_not_pass_is_not_retried(api: Api, model: ModelLog, status: int, code: str) -> None:
    """Guards against paying for hope: what is wrong with the request is wrong the next time too."""
    run = api.workflow(asking(f"[[status={status} key={api.user}]]Go")).run()
    assert (run.get()["status"], run.get()["error"]["code"]) == ("failed", code)
    assert len(model.idle()) == 1


def test_a_model_that_is_too_slow_fails_at_its_deadline(api: Api, model: ModelLog) -> None:
    """Guards deadlines: the stream is closed, what had arrived is kept, and `timeout` is not called a cancel."""
    run = api.workflow(asking(f"[[hang_after=5 delay=1ms key={api.user}]]Go", timeout_seconds=0.4)).run()
    whole = assert_ended_whole(run)
    assert (whole["status"], whole["error"]["code"], whole["cancel"]) == ("failed", "timeout", None)
    (entry,) = model.idle()
    assert entry["how"] == "closed"
    call = run.executions()["s01.m"]
    assert (call["status"], len(call["output_preview"].split())) == ("failed", 5)


def test_a_call_inside_an_item_fails_with_the_items_deadline(api: Api, model: ModelLog) -> None:
    """Guards inner operations: nobody cancelled anything, so the call is `failed` as well, and no receipt lists it later."""
    api.upload("a.txt", b"A few words.")
    step = asking(f"[[hang_after=5 delay=1ms key={api.user}]]Go", timeout_seconds=0.4, on_error="continue")
    reading = {**step, "kind": "analyze_documents", "documents": {"prefix": ""}}
    waiting = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60}}
    run = api.workflow(reading, waiting).start()
    eventually_sync(lambda: run.executions().get("s02.c0"), what="the second step began")
    tree = run.executions()
    assert (tree["s01.i001"]["status"], tree["s01.i001"]["error"]["code"]) == ("failed", "timeout")
    run.cancel()
    run.wait("cancelled")
    receipt = assert_cancelled_whole(run)
    assert [one["execution_id"] for one in receipt["in_flight"]] == [f"{run.id}:s02.c0"]
    assert [one["how"] for one in model.idle()] == ["closed"]
    assert run.executions()["s01.i001.m"]["status"] == "failed"


def test_a_model_that_is_down_fails_the_run_and_shows_in_health(start_host: StartHost) -> None:
    """Guards the first thing that goes wrong in an installation: the run names it, and so does the health page."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: nobody else takes the port, and it refuses
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        host = start_host(TRUESTOP_MODEL_ENDPOINT=endpoint, TRUESTOP_MODEL_API_KEY="secret-key", TRUESTOP_MODEL="any")
        with new_client(host.base_url) as client:
            api = Api(client)
            run = api.workflow(asking("Go", retries=1)).run()
            whole = assert_ended_whole(run)
            assert (whole["status"], whole["error"]["code"]) == ("failed", "model_unavailable")
            assert failures(run) == ["model_unavailable"] * 2
            assert_workflow_free(run)
            health = client.get("/api/health")
            assert (health.status_code, health.json()["model"], health.json()["store"]) == (503, "down", "up")
            assert "secret-key" not in host.log() + health.text
