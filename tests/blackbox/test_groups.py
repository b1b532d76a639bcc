"""Groups over HTTP: their people run and cancel each other's work, and nobody else learns of it."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.support.api import Api, ModelLog
from tests.support.waiting import eventually_sync

WORKFLOWS = "/api/group/workflows"


@pytest.fixture
def people(client: httpx.Client, api: Api) -> dict[str, Api]:
    """An Owner and a User of one group, and somebody else."""
    return {"owner": api, "user": Api(client), "other": Api(client)}


@pytest.fixture
def group(people: dict[str, Api]) -> str:
    """Their group."""
    made = people["owner"].ok("POST", "/api/groups", 201, json={"name": "Reviewers"})
    member = f"/api/groups/{made['id']}/members/{people['user'].user}"
    people["owner"].ok("PUT", member, json={"role": "User", "name": "Ulli"})
    return str(made["id"])


def create(people: dict[str, Api], group: str, prompt: str) -> Any:
    """A workflow of the group with one model step."""
    steps = [{"kind": "model", "name": "write", "prompt": prompt}]
    query = {"group_id": group}
    return people["owner"].ok("POST", WORKFLOWS, 201, params=query, json={"name": "Review", "steps": steps})


@pytest.mark.several_processes
def test_a_member_cancels_what_another_one_started(people: dict[str, Api], group: str, model: ModelLog) -> None:
    """Guards the whole way in a group: start, follow the links, cancel by somebody else, read the receipt."""
    workflow = create(people, group, f"[[tokens=4000 delay=0.01 key={model.key}]]Go")
    query = {"group_id": group}
    run = people["user"].ok("POST", f"{WORKFLOWS}/{workflow['id']}/run", 202, params=query, json={})
    assert run["links"]["self"] == f"{WORKFLOWS}/{workflow['id']}/runs/{run['id']}?group_id={group}"
    assert run["requested_by"]["id"] == people["user"].user
    model.streaming()
    for path in (run["links"]["self"], run["links"]["events"], "/api/groups/" + group):
        assert people["other"].request("GET", path).json()["code"] == "group_not_found"
    assert people["other"].request("POST", f"/api/runs/{run['id']}/stop", json={}).json()["code"] == "run_not_found"
    cancelled = people["owner"].request("POST", f"/api/runs/{run['id']}/cancel", json={"reason": "enough"})
    assert cancelled.status_code in (200, 202)
    model.idle()
    ended = eventually_sync(
        lambda: one if (one := people["user"].ok("GET", run["links"]["self"]))["status"] == "cancelled" else None,
        20,
        "the run is cancelled",
    )
    assert ended["cancel"]["requested_by"]["id"] == people["owner"].user


def test_a_member_who_is_removed_loses_sight_at_once_and_the_run_goes_on(
    people: dict[str, Api], group: str, model: ModelLog
) -> None:
    """Guards a live request: whoever waits for a run is not told its end once they are out."""
    workflow = create(people, group, f"[[tokens=100 delay=0.01 key={model.key}]]Go")
    path, query, answers = f"{WORKFLOWS}/{workflow['id']}", {"group_id": group}, []

    def wait() -> None:
        answers.append(people["user"].request("POST", f"{path}/run", params=query, json={"wait": 20}))

    waiting = threading.Thread(target=wait)
    waiting.start()
    model.streaming()
    people["owner"].ok("DELETE", f"/api/groups/{group}/members/{people['user'].user}", 204)
    assert people["user"].request("GET", path, params=query).status_code == 404
    waiting.join(30)
    assert (answers[0].status_code, answers[0].json()["code"]) == (404, "group_not_found")
    (run,) = people["owner"].all(f"{path}/runs", **query)
    assert run["status"] == "completed"
    people["owner"].ok("DELETE", f"/api/groups/{group}", 204)
    assert people["owner"].request("GET", path, params=query).json()["code"] == "group_not_found"
