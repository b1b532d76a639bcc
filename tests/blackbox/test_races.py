"""Seeded races over HTTP: cancels at random moments of random runs, of several users at once, against the model's log.

`TRUESTOP_TEST_RACES` asks for more of them, `TRUESTOP_TEST_SEED` for others; a failure names its seed.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import new_client
from tests.support.api import Api, ModelLog, Workflow
from tests.support.promise import (
    assert_cancelled_whole,
    assert_ended_whole,
    assert_nothing_after,
    assert_promise_kept,
    cancel,
)
from tests.support.prompts import agent_step, call, sub_agent, turn

pytestmark = pytest.mark.several_processes
RACES = int(os.environ.get("TRUESTOP_TEST_RACES", "60"))
SEED = int(os.environ.get("TRUESTOP_TEST_SEED", "1"))
USERS = 6


def random_steps(random_: random.Random, key: str) -> list[dict[str, Any]]:
    """One to five steps of kinds that race differently."""
    say = f"[[tokens={random_.randint(1, 12)} delay={random_.randint(1, 6)}ms key={key}]]"
    fan_out = {"kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": random_.randint(1, 4)}
    kinds: list[dict[str, Any]] = [
        {"kind": "tool", "tool": "echo", "arguments": {"value": 1}},
        {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 0.02}},
        {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 0.03, "blocking": True}},
        {"kind": "model", "prompt": f"{say}Go"},
        {"kind": "model", "prompt": f"[[status=503 times=1]]{say}Try {random_.random()}"},
        {"kind": "write_artifact", "path": "a.md", "content": "x"},
        {**fan_out, "prompt": f"{say}{{{{document.text}}}}"},
        {"kind": "compare_documents", "documents": {"prefix": ""}, "prompt": f"{say}What differs?"},
    ]
    first = turn(call("sleep", seconds=0.02), call("helper", input=f"{say}Help"), call("echo", value=1))
    second = turn(call("sleep", seconds=0.03, blocking=True), call("write_artifact", path="b.md", content="x"))
    tools = ["sleep", "echo", "write_artifact"]
    kinds.append(agent_step(key, first, second, tools=tools, agents=[sub_agent("helper")]))
    retries = {"max": 2, "backoff_seconds": 0.02}
    return [{**random_.choice(kinds), "retries": retries} for _ in range(random_.randint(1, 5))]


def race(api: Api, model: ModelLog, random_: random.Random) -> str:
    """One run, cancelled at a random moment. Answers how it ended."""
    workflow = api.workflow(*random_steps(random_, api.user))
    run = workflow.start()
    time.sleep(random_.random() ** 2 * 0.3)  # not waiting for anything: the cancel is to hit an arbitrary moment
    answer, answered = cancel(run, force=random_.random() < 0.1)
    if answer.status_code == 409:
        assert assert_ended_whole(run)["status"] == "completed"
        return "completed"
    assert answer.status_code in (200, 202)
    run.wait("cancelled")
    assert_nothing_after(run, model, answered)
    receipt = assert_cancelled_whole(run, acknowledged=None)
    assert receipt["acknowledged"] is not receipt["forced"]
    if random_.random() < 0.2:
        assert_promise_kept(run, model, answered, acknowledged=None)
    return "cancelled"


def races_of_a_user(base_url: str, processes: int, seeds: list[int]) -> list[str]:
    """One race after the other, as a user of its own."""
    ends = []
    with new_client(base_url) as client:
        api = Api(client)
        for number in range(5):
            api.upload(f"{number}.txt", b"A few words.")
        for seed in seeds:
            random_ = random.Random(seed)
            try:
                ends.append(race(api, ModelLog(client, api.user, processes), random_))
            except BaseException:
                print(f"seed {seed} failed; TRUESTOP_TEST_SEED={seed} TRUESTOP_TEST_RACES=1 runs it alone")
                raise
    return ends


def test_nothing_begins_or_arrives_after_the_answer(base_url: str, processes: int) -> None:
    """Guards the promise itself: no model call, no token and no step after a cancel was answered, whenever it came."""
    with ThreadPoolExecutor(USERS) as pool:
        shares = [list(range(SEED + user, SEED + RACES, USERS)) for user in range(min(USERS, RACES))]
        ends = Counter(
            end
            for share in pool.map(lambda seeds: races_of_a_user(base_url, processes, seeds), shares)
            for end in share
        )
    assert ends.total() == RACES
    assert RACES < 20 or ends["cancelled"] > RACES / 3


def test_a_cancelled_run_cannot_be_told_from_its_neighbours_work(client: httpx.Client) -> None:
    """Guards isolation: cancelling one user's run leaves those of others, with the same ids, alone."""
    apis = [Api(client) for _ in range(3)]
    models = [ModelLog(client, api.user) for api in apis]

    def streaming(api: Api) -> Workflow:
        return api.workflow({"kind": "model", "prompt": f"[[tokens=60 delay=8ms key={api.user}]]Go"})

    runs = [streaming(api).start(run_id="same-id") for api in apis]
    for model in models:
        model.streaming()
    assert runs[1].cancel().json()["run_id"] == "same-id"
    assert [run.wait()["status"] for run in runs] == ["completed", "cancelled", "completed"]
    assert [model.idle()[0]["how"] for model in models] == ["done", "closed", "done"]
    for run in runs:
        assert_ended_whole(run)
