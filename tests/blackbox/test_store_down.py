"""The document store is away: nobody is told what isn't true; once it is back every run ends, once, and nothing is locked.

The store is the Cosmos DB double behind a gate; the host reaches it with the official SDK.
"""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.cosmos_double.fixtures import cosmos_server  # noqa: F401
from tests.cosmos_double.server import Double
from tests.support.api import WORKFLOWS, Api, ModelLog, Run
from tests.support.gate import Gate
from tests.support.host import Host
from tests.support.promise import assert_cancelled_whole, assert_ended_whole, assert_promise_kept, assert_workflow_free
from tests.support.waiting import eventually_sync

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
BLOCKING = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 1.5, "blocking": True}}
AWAY = {"status": "down", "store": "down", "queue": "up", "blobs": "up", "model": "up"}


def stream(key: str, tokens: int, delay: str = "10ms") -> dict[str, Any]:
    """A model step."""
    return {"kind": "model", "prompt": f"[[tokens={tokens} delay={delay} key={key}]]Go"}


@pytest.fixture(scope="module")
def gate(cosmos_server: Double) -> Iterator[Gate]:
    """What stands between the hosts and the store."""
    with Gate(cosmos_server.port).running() as one:
        yield one


def settings_of(gate: Gate, double: Double) -> dict[str, str]:
    """The settings of a host whose store is there."""
    return {
        "TRUESTOP_STORE": "cosmos",
        "TRUESTOP_COSMOS_ENDPOINT": f"http://127.0.0.1:{gate.port}/",
        "TRUESTOP_COSMOS_KEY": double.key,
        "TRUESTOP_FENCE_SECONDS": "1",
    }


def health(client: httpx.Client) -> tuple[int, dict[str, Any]]:
    """What `/api/health` answers."""
    answer = client.get("/api/health")
    return answer.status_code, answer.json()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status and code of an answer, which must be whole problem details that say when to try again."""
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert (problem["status"], problem["type"]) == (answer.status_code, f"urn:truestop:error:{problem['code']}")
    return answer.status_code, problem["code"]


@dataclass
class Outage:
    """The runs that an outage hit, by what they did then; and what was answered while it lasted."""

    runs: dict[str, Run]
    models: dict[str, ModelLog]
    answers: dict[str, httpx.Response]
    health: tuple[int, dict[str, Any]]
    answered: float
    host: Host


@pytest.fixture(scope="module")
def outage(start_host: StartHost, gate: Gate, cosmos_server: Double) -> Iterator[Outage]:
    """One outage of three seconds for all tests of what goes on: longer than the fence."""
    host = start_host(**settings_of(gate, cosmos_server))
    with new_client(host.base_url) as client:
        runs, models = {}, {}

        def begin(what: str, *steps: dict[str, Any]) -> Run:
            api = Api(client)
            models[what] = ModelLog(client, api.user)
            keyed = [
                {**one, "prompt": one["prompt"].replace("KEY", api.user)} if "prompt" in one else one for one in steps
            ]
            runs[what] = api.workflow(*keyed).start()
            return runs[what]

        busy = {"prompt": "[[status=503 times=1 key=KEY]][[tokens=3]]Go", "retries": {"max": 1, "backoff_seconds": 1}}
        begin("stream", stream("KEY", 100), ECHO)
        begin("unheard", stream("KEY", 5000), ECHO)
        begin("stopping", BLOCKING, ECHO)
        begin("ending", BLOCKING, ECHO)
        retried = begin("retry", {**stream("KEY", 3), **busy}, ECHO)
        for what in ("stopping", "ending"):
            eventually_sync(lambda what=what: runs[what].executions().get("s01.c0", {}).get("status") == "running")
        for what in ("stream", "unheard"):
            models[what].streaming(tokens=5)
        eventually_sync(lambda: retried.executions().get("s01.m", {}).get("error"))
        answers = {"stopping": runs["stopping"].cancel(grace_seconds=60)}
        answered = time.monotonic()
        gate.shut()
        answers["health"] = client.get("/api/health")
        answers["unheard"] = runs["unheard"].cancel()
        answers["start"] = runs["stream"].api.request(
            "POST", f"{runs['stream'].workflow.path}/run", json={"run_id": "again"}
        )
        answers["create"] = runs["stream"].api.request(
            "POST", WORKFLOWS, json={"name": "x", "steps": [{**ECHO, "name": "a"}]}
        )
        answers["read"] = runs["stream"].api.request("GET", runs["stream"].path)
        down = health(client)
        models["unheard"].idle()  # it has fenced itself
        time.sleep(max(0.0, answered + 3 - time.monotonic()))  # not waiting for anything: that is how long it lasts
        gate.open()
        yield Outage(runs, models, answers, down, answered, host)


def test_while_the_store_is_away_nothing_is_claimed(outage: Outage) -> None:
    """Guards true answers: 503 with the stable code, for a cancel too; health names the part and the setting, no address."""
    assert outage.answers["stopping"].status_code == 202
    for what in ("unheard", "start", "create", "read"):
        assert refusal(outage.answers[what]) == (503, "store_unavailable"), what
    assert outage.health == (503, {**AWAY, "look_at": {"store": ["TRUESTOP_COSMOS_ENDPOINT"]}})
    assert "TRUESTOP_COSMOS_ENDPOINT) can't be reached" in outage.host.log()


def test_a_stream_that_fenced_itself_is_tried_again(outage: Outage) -> None:
    """Guards self-fencing: without the store nobody knows of a cancel, so the work stops, and later goes on."""
    run = outage.runs["stream"]
    assert run.wait(seconds=40)["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    assert [one["how"] for one in outage.models["stream"].idle()][-1] == "done"
    assert_workflow_free(run)


def test_work_that_ended_meanwhile_counts(outage: Outage) -> None:
    """Guards patience: a tool that ended while nobody could write it down is not lost, and its run goes on."""
    run = outage.runs["ending"]
    assert run.wait(seconds=40)["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    assert_workflow_free(run)


def test_a_retry_that_came_due_meanwhile_is_made_once(outage: Outage) -> None:
    """Guards what the orchestrator does when an activity can't tell anything: it asks again."""
    run = outage.runs["retry"]
    assert run.wait(seconds=40)["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    assert [one["how"] for one in outage.models["retry"].idle()] == ["error", "done"]
    assert_workflow_free(run)


def test_a_cancel_that_was_answered_before_is_kept(outage: Outage) -> None:
    """Guards the promise across an outage: what was in flight ends, nothing begins after it, the lock is free."""
    run = outage.runs["stopping"]
    run.wait("cancelled", seconds=40)
    receipt, _ = assert_promise_kept(run, None, outage.answered, acknowledged=None)
    assert [one["kind"] for one in receipt["in_flight"]] == ["tool_call"]
    assert run.executions()["s02"]["started_at"] is None


def test_a_cancel_that_was_refused_can_be_asked_again(outage: Outage) -> None:
    """Guards 503 as an answer: nothing was accepted, the run is as it was, and the next cancel is a whole one."""
    run = outage.runs["unheard"]
    answer = eventually_sync(lambda: one if (one := run.cancel()).status_code != 503 else None, 20)
    assert answer.status_code in (200, 202)
    run.wait("cancelled", seconds=40)
    assert_cancelled_whole(run)
    assert run.types().count("run.cancelling") == 1
    assert_workflow_free(run)


def test_the_service_is_itself_again_and_has_logged_no_fault_of_its_own(outage: Outage) -> None:
    """Guards recovery without a restart, and a log in which an outage doesn't look like a bug."""
    client = outage.runs["stream"].api.client
    assert eventually_sync(lambda: health(client)[0] == 200)
    assert Api(client).workflow(ECHO).run().get()["status"] == "completed"
    assert "Traceback" not in outage.host.log(), outage.host.log()[-6000:]


def test_a_host_starts_without_its_store_and_works_once_it_is_there(
    start_host: StartHost, gate: Gate, cosmos_server: Double
) -> None:
    """Guards the start: the app is there to say what is missing, and needs no restart."""
    gate.shut()
    try:
        host = start_host(**settings_of(gate, cosmos_server))
        with new_client(host.base_url) as client:
            assert health(client) == (503, {**AWAY, "look_at": {"store": ["TRUESTOP_COSMOS_ENDPOINT"]}})
            assert refusal(Api(client).request("GET", WORKFLOWS)) == (503, "store_unavailable")
            gate.open()
            assert eventually_sync(lambda: health(client)[0] == 200)
            assert Api(client).workflow(ECHO).run().get()["status"] == "completed"
    finally:
        gate.shut()
        gate.open()
