"""kill -9 of every process in each phase of a run, and the same host again: all ends, once, and receipts tell what was lost.

The scripted model is the shared host's, so that its log outlives the host that is killed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, ModelLog, Run, Workflow, tokens_after
from tests.support.host import Host
from tests.support.promise import IN_FLIGHT_SECONDS, assert_cancelled_whole, assert_ended_whole, assert_workflow_free
from tests.support.prompts import agent_step, call, sub_agent, turn
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.several_processes
ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
FENCE = {"TRUESTOP_FENCE_SECONDS": "1"}
DOCUMENTS = 6
INSTANCES = "/runtime/webhooks/durabletask/instances"


def stream(key: str, tokens: int, delay: str = "10ms") -> dict[str, Any]:
    """A model step."""
    return {"kind": "model", "prompt": f"[[tokens={tokens} delay={delay} key={key}]]Go"}


def settings_with_model_of(shared_url: str) -> dict[str, str]:
    """Settings of a host whose model is another host's, with a short fence."""
    return {
        **FENCE,
        "TRUESTOP_MODEL_ENDPOINT": f"{shared_url}/dev/model/v1",
        "TRUESTOP_MODEL_API_KEY": "dev",
        "TRUESTOP_MODEL": "scripted",
    }


@dataclass
class Killed:
    """The runs of a host that was killed and started again: by the phase in which the kill hit them."""

    client: httpx.Client
    runs: dict[str, Run]
    models: dict[str, ModelLog]
    answered: dict[str, float]
    starting: list[Run]


class Phases:
    """Brings runs into their phases, each as a user of its own."""

    def __init__(self, host: Host, model_client: httpx.Client) -> None:
        self.client, self._model_client = new_client(host.base_url), model_client
        self.runs: dict[str, Run] = {}
        self.models: dict[str, ModelLog] = {}
        self.answered: dict[str, float] = {}

    def begin(self, phase: str, *steps: dict[str, Any]) -> Run:
        api = Api(self.client, f"{phase}-{random.Random().randrange(10**9)}")
        self.models[phase] = ModelLog(self._model_client, api.user)
        for number in range(DOCUMENTS):
            api.upload(f"{number}.txt", b"A few words.")
        keyed = json.loads(json.dumps(steps).replace("KEY", api.user))
        self.runs[phase] = api.workflow(*keyed).start()
        return self.runs[phase]

    def cancel(self, phase: str) -> dict[str, Any]:
        answer = self.runs[phase].cancel(grace_seconds=60)
        self.answered[phase] = time.monotonic()
        assert answer.status_code in (200, 202)
        return dict(answer.json())


@pytest.fixture(scope="module")
def killed(start_host: StartHost, client: httpx.Client, base_url: str) -> Iterator[Killed]:
    """Seven phases and one kill for all of them; then the host again, and one more cancel before anything is taken over."""
    host = start_host(**settings_with_model_of(base_url))
    phases = Phases(host, client)
    starting = [Run(Api(phases.client).workflow(ECHO, ECHO), f"start-{number}") for number in range(16)]
    fan_out = {**stream("KEY", 300), "kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 3}
    wait = {"prompt": "[[status=503 times=1 key=KEY]][[tokens=3]]Go", "retries": {"max": 2, "backoff_seconds": 1.5}}
    retried = phases.begin("retry", {**stream("KEY", 3), **wait}, ECHO)
    phases.begin("stream", stream("KEY", 500), ECHO)
    phases.begin("lost", stream("KEY", 2000), ECHO)
    phases.begin("stopping", {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60, "blocking": True}}, ECHO)
    phases.begin("answered", stream("KEY", 2000), ECHO)
    phases.begin("fan_out", fan_out, ECHO)
    talk = turn(call("echo", value="before"), call("talker", input="[[key=KEY tokens=500 delay=10ms]]Talk"))
    phases.begin("agent", agent_step("KEY", talk, tools=["echo"], agents=[sub_agent("talker")]), ECHO)
    eventually_sync(lambda: retried.executions().get("s01.m", {}).get("error"))
    eventually_sync(lambda: phases.runs["lost"].executions().get("s01.m", {}).get("output_preview"))
    eventually_sync(lambda: phases.runs["stopping"].executions().get("s01.c0", {}).get("status") == "running")
    eventually_sync(lambda: phases.runs["agent"].executions().get("s01.t01.c0", {}).get("status") == "completed")
    for phase, count in (("stream", 1), ("lost", 1), ("answered", 1), ("fan_out", 2), ("agent", 1)):
        phases.models[phase].streaming(count, tokens=5)
    assert phases.cancel("stopping")["status"] == "cancelling"
    with ThreadPoolExecutor(8) as pool:
        for run in starting:
            pool.submit(run.workflow.start, run_id=run.id)  # the kill answers for those that it hits
        phases.cancel("answered")
        host.kill9()
    phases.client.close()
    host.restart()
    with new_client(host.base_url) as again:
        for run in [*phases.runs.values(), *starting]:
            run.api.client = again
        phases.cancel("lost")
        yield Killed(again, phases.runs, phases.models, phases.answered, starting)


def assert_instances_ended(killed: Killed, run: Run) -> None:
    """No orchestration of the run is left that could go on."""
    for instance in (run.id, f"{run.id}:pipeline"):

        def ended(instance: str = instance) -> bool:
            return killed.client.get(f"{INSTANCES}/{instance}").status_code in (200, 404)

        eventually_sync(ended, 10, f"instance {instance} has ended")


def assert_asked_again(model: ModelLog, answers: int) -> None:
    """Every answer was given whole once; requests beyond those were closed by a death or a fence."""
    hows = [one["how"] for one in model.idle()]
    assert (hows.count("done"), set(hows)) == (answers, {"done", "closed"})


def assert_nothing_after_cancel(killed: Killed, phase: str) -> list[dict[str, Any]]:
    """No token and no request later than the answer. Answers the requests."""
    entries = killed.models[phase].idle()
    assert [one for one in entries if one["t"] > killed.answered[phase]] == []
    assert sum(tokens_after(one, killed.answered[phase] + IN_FLIGHT_SECONDS) for one in entries) == 0
    return entries


def test_a_run_killed_in_its_stream_is_taken_over_and_completes_once(killed: Killed) -> None:
    """Guards takeover: the killed attempt's stream is closed, a second attempt answers, one end."""
    run = killed.runs["stream"]
    assert run.wait()["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    tree = run.executions()
    assert tree["s01.m"]["attempt"] >= 2
    assert len(tree["s01.m"]["output_preview"].split()) == 500
    assert_asked_again(killed.models["stream"], 1)
    assert_instances_ended(killed, run)
    assert_workflow_free(run)


def test_a_fan_out_that_was_killed_redoes_only_what_was_in_flight(killed: Killed) -> None:
    """Guards items: each completes once, and none that had completed is asked again."""
    run = killed.runs["fan_out"]
    assert run.wait()["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    items = run.items()
    assert [one["status"] for one in items] == ["completed"] * DOCUMENTS
    assert_asked_again(killed.models["fan_out"], DOCUMENTS)
    assert_instances_ended(killed, run)
    assert_workflow_free(run)


def test_an_agent_that_was_killed_repeats_only_the_call_in_flight(killed: Killed) -> None:
    """Guards turns: what had ended is read from the record, the sub-agent's stream begins anew, and the agent answers."""
    run = killed.runs["agent"]
    assert run.wait()["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    attempts = {path: one["attempt"] for path, one in run.executions().items()}
    assert attempts.pop("s01.t01.c1.t01.m") >= 2
    assert set(attempts.values()) == {1}
    assert_asked_again(killed.models["agent"], 3)
    assert_workflow_free(run)


def test_a_run_killed_while_it_waits_for_a_retry_tries_again_once(killed: Killed) -> None:
    """Guards durable timers: the wait is not lost, and not doubled."""
    run = killed.runs["retry"]
    assert run.wait()["status"] == "completed", run.get()["error"]
    assert_ended_whole(run)
    assert [one["how"] for one in killed.models["retry"].idle()] == ["error", "done"]
    assert_instances_ended(killed, run)
    assert_workflow_free(run)


def test_a_cancel_that_was_answered_before_the_kill_is_kept(killed: Killed) -> None:
    """Guards durability of the accept: whatever of the stop the kill hit, the run ends cancelled and never goes on."""
    run = killed.runs["answered"]
    run.wait("cancelled")
    receipt = assert_cancelled_whole(run)
    assert {one["outcome"] for one in receipt["in_flight"]} <= {"stopped", "lost"}
    assert len(assert_nothing_after_cancel(killed, "answered")) == 1
    assert run.executions()["s02"]["started_at"] is None
    assert_instances_ended(killed, run)
    assert_workflow_free(run)


def test_a_cancelling_run_whose_blocking_tool_died_ends_as_lost(killed: Killed) -> None:
    """Guards reaping: the tool that was waited for is gone with its process, long before the grace is over."""
    run = killed.runs["stopping"]
    run.wait("cancelled")
    receipt = assert_cancelled_whole(run)
    assert [(one["kind"], one["outcome"]) for one in receipt["in_flight"]] == [("tool_call", "lost")]
    assert run.executions()["s02"]["started_at"] is None
    assert_instances_ended(killed, run)
    assert_workflow_free(run)


def test_a_cancel_before_the_takeover_begins_nothing_again(killed: Killed) -> None:
    """Guards the order of the two: the redelivered operation finds the cancel, and the old attempt is told as lost."""
    run = killed.runs["lost"]
    run.wait("cancelled")
    receipt = assert_cancelled_whole(run)
    attempt = run.executions()["s01.m"]["attempt"]
    outcome = (
        "lost" if attempt == 1 else "stopped"
    )  # a busy machine may be later with the cancel than with the takeover
    assert [(one["kind"], one["outcome"]) for one in receipt["in_flight"]] == [("model_call", outcome)]
    assert run.executions()["s01.m"]["output_preview"] or attempt == 2
    assert [one["how"] for one in assert_nothing_after_cancel(killed, "lost")] == ["closed"] * attempt
    assert_instances_ended(killed, run)
    assert_workflow_free(run)


def test_a_start_that_the_kill_hit_is_repeated_with_its_run_id(killed: Killed) -> None:
    """Guards idempotent starts: whether it had landed or not, the repeat finds or makes that one run, and it completes."""
    known = 0
    for run in killed.starting:
        answer = run.api.request("POST", f"{run.workflow.path}/run", json={"run_id": run.id})
        assert answer.status_code in (200, 202), answer.text
        known += answer.status_code == 200
        assert answer.json()["id"] == run.id
    print(f"{known} of {len(killed.starting)} starts had landed")
    for run in killed.starting:
        assert run.wait()["status"] == "completed", run.get()["error"]
        assert_ended_whole(run)
        assert [one["id"] for one in run.api.all(f"{run.workflow.path}/runs")] == [run.id]
        assert run.workflow.get()["runtime"]["run_count"] == 1
        assert_workflow_free(run)


def test_a_host_killed_again_and_again_leaves_nothing_behind(
    start_host: StartHost, client: httpx.Client, base_url: str
) -> None:
    """Guards every place between two writes: kills and cancels at arbitrary moments, and each run ends whole, once."""
    host, random_ = start_host(**settings_with_model_of(base_url)), random.Random(7)
    runs: list[Run] = []
    cancelled: dict[str, float] = {}
    apis = [Api(client) for _ in range(8)]
    models = {api.user: ModelLog(client, api.user) for api in apis}
    for round_ in range(2):
        with new_client(host.base_url) as own:
            for api in apis:
                api.client = own
            if round_ == 0:
                for api in apis:
                    for number in range(3):
                        api.upload(f"{number}.txt", b"A few words.")
                    runs.append(Run(mixed(api, random_), "chaos"))
            for run in runs:
                run.workflow.start(status=202 if round_ == 0 else 200, run_id=run.id)
            for run in random_.sample(runs, 2):
                time.sleep(random_.random() * 0.1)  # not waiting for anything: to hit arbitrary moments
                if run.cancel().status_code in (200, 202):
                    cancelled.setdefault(run.api.user, time.monotonic())
            time.sleep(random_.random() * 0.2)
            host.kill9()
        host.restart()
    with new_client(host.base_url) as own:
        for api in apis:
            api.client = own
        for run in runs:
            run.workflow.start(status=200, run_id=run.id)
            expected = "cancelled" if run.api.user in cancelled else "completed"
            assert run.wait()["status"] == expected, run.get()["error"]
            assert_ended_whole(run)
            artifacts = len(run.api.ok("GET", f"{run.path}/artifacts")["items"])
            told = run.types().count("execution.output")
            assert artifacts == told == 1 if expected == "completed" else told <= artifacts <= 1
            requests = models[run.api.user].idle()
            if expected == "cancelled":
                assert_cancelled_whole(run)
                assert [one for one in requests if one["t"] > cancelled[run.api.user]] == []
            assert_workflow_free(run)


def test_a_host_that_slept_for_longer_than_the_fence_goes_on(
    start_host: StartHost, client: httpx.Client, base_url: str
) -> None:
    """Guards self-fencing in one process: what stopped itself is tried again, nothing fails, nothing is called a cancel."""
    host = start_host(**settings_with_model_of(base_url))
    with new_client(host.base_url) as own:
        api = Api(own)
        model = ModelLog(client, api.user)
        for number in range(4):
            api.upload(f"{number}.txt", b"A few words.")
        say = stream(api.user, 200)
        reading = {**say, "kind": "analyze_documents", "documents": {"prefix": ""}, "retries": {"max": 0}}
        runs = [api.workflow(one, ECHO).start() for one in (reading, {**say, "retries": {"max": 0}})]
        model.streaming(5, tokens=5)
        host.suspend()
        time.sleep(1.1)  # not waiting for anything: it sleeps for longer than its fence
        host.resume()
        for run in runs:
            assert run.wait()["status"] == "completed", run.get()["error"]
            assert_ended_whole(run)
            assert {one["status"] for one in run.executions().values()} == {"completed"}
            assert_workflow_free(run)


def mixed(api: Api, random_: random.Random) -> Workflow:
    """A workflow of several kinds of steps; each artifact is followed by a notification."""
    say = stream(api.user, random_.randint(2, 30))
    reading = {**say, "kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 2}
    save = {"kind": "write_artifact", "path": "a.md", "content": "x"}
    tell = {"kind": "notify", "subject": "Hello", "message": "x"}
    steps = random_.sample([say, reading, ECHO, {**say, "kind": "compare_documents", "documents": {"prefix": ""}}], 3)
    return api.workflow(*steps, save, tell)
