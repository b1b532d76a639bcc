"""Bad input over HTTP: the right problem detail, naming the field, and nothing half-made."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.api import WORKFLOWS, Api, ModelLog, Run
from tests.support.promise import assert_ended_whole

ECHO = {"kind": "tool", "name": "s1", "tool": "echo", "arguments": {"value": 1}}
GOOD = {"name": "Good", "steps": [ECHO]}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of an answer, checked for its form."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    body = dict(answer.json())
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:truestop:error:{code}")
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
    return body


def fields(body: dict[str, Any]) -> list[str]:
    """The fields that a problem complains of."""
    return [one["field"] for one in body["errors"]]


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"name": }', b"\xff\xfe", b'{"name": NaN}', b'{"name": 1e999}', b"[" * 100_000, b'{"name": "\\ud83d"}'],
)
def test_what_is_not_json_is_400(api: Api, content: bytes) -> None:
    """Guards the parser: deep nesting, foreign encodings, and text that no UTF-8 can hold."""
    problem(api.request("POST", WORKFLOWS, content=content), 400, "malformed_json")
    assert api.all(WORKFLOWS) == []


def step(**changes: Any) -> dict[str, Any]:
    """A definition with one step: ECHO, changed."""
    return {**GOOD, "steps": [{**ECHO, **changes}]}


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ([], ""),
        ("text", ""),
        ({}, "name"),
        ({**GOOD, "name": ""}, "name"),
        ({**GOOD, "name": 7}, "name"),
        ({**GOOD, "name": "x" * 201}, "name"),
        ({**GOOD, "enabled": "yes"}, "enabled"),
        ({**GOOD, "trigger": {"kind": "schedule", "cron": "61 * * * *"}}, "trigger.cron"),
        ({**GOOD, "trigger": {"kind": "schedule", "cron": "0 7 * * *", "time_zone": "Mars"}}, "trigger.time_zone"),
        ({**GOOD, "trigger": {"kind": "schedule", "every": {"value": 1, "unit": "seconds"}}}, "trigger.every"),
        ({**GOOD, "grace_seconds": 301}, "grace_seconds"),
        ({**GOOD, "grace_seconds": "5"}, "grace_seconds"),
        ({**GOOD, "surprise": 1}, "surprise"),
        ({**GOOD, "steps": []}, "steps"),
        ({**GOOD, "steps": {}}, "steps"),
        ({**GOOD, "steps": [{**ECHO, "name": f"s{n}"} for n in range(65)]}, "steps"),
        ({**GOOD, "steps": [ECHO, ECHO]}, "steps.1.name"),
        ({**GOOD, "trigger": {"kind": "sometimes"}}, "trigger.kind"),
        (step(kind="dance"), "steps.0"),
        (step(name="Not a name"), "steps.0.name"),
        (step(tool="rm_rf"), "steps.0"),
        (step(timeout_seconds=0), "steps.0.timeout_seconds"),
        (step(retries={"max": 11}), "steps.0.retries.max"),
        (step(surprise=1), "steps.0.surprise"),
        (step(arguments={"value": ["{{steps.later.output}}"]}), "steps.0.arguments.value.0"),
        (step(arguments={"value": "{{nonsense}}"}), "steps.0.arguments.value"),
        (step(arguments={"value": "{{input"}), "steps.0.arguments.value"),
        ({**GOOD, "steps": [{"kind": "model", "name": "m", "prompt": "{{document.text}}"}]}, "steps.0.prompt"),
        ({**GOOD, "steps": [{"kind": "model", "name": "m", "prompt": ""}]}, "steps.0.prompt"),
        (
            {**GOOD, "steps": [{"kind": "analyze_documents", "name": "a", "prompt": "x", "documents": {}}]},
            "steps.0.documents",
        ),
        (
            {**GOOD, "steps": [{"kind": "write_artifact", "name": "w", "path": "../up.md", "content": "x"}]},
            "steps.0",
        ),
        ({**GOOD, "steps": [{"kind": "fetch_urls", "name": "f", "urls": ["not a url"]}]}, "steps.0"),
    ],
)
def test_a_wrong_definition_is_422_with_its_field(api: Api, definition: Any, field: str) -> None:
    """Guards definitions on their way in, by POST and by PUT: nothing is created or changed."""
    created = problem(api.request("POST", WORKFLOWS, json=definition), 422, "invalid")
    assert field in fields(created)
    assert all(one["message"] for one in created["errors"])
    assert api.all(WORKFLOWS) == []
    workflow = api.workflow(ECHO)
    before = workflow.get()
    assert field in fields(problem(api.request("PUT", workflow.path, json=definition), 422, "invalid"))
    assert workflow.get() == before


def test_a_body_over_a_megabyte_is_413(api: Api) -> None:
    """Guards memory: before anything is parsed."""
    big = json.dumps({**GOOD, "description": "x" * (1024 * 1024)}).encode()
    problem(api.request("POST", WORKFLOWS, content=big), 413, "body_too_large")
    workflow = api.workflow(ECHO)
    problem(api.request("POST", f"{workflow.path}/run", json={"input": "x" * 300_000}), 413, "body_too_large")
    assert api.all(f"{workflow.path}/runs") == []
    assert workflow.get()["runtime"]["status"] == "idle"


@pytest.mark.parametrize(
    "workflow_id", ["nothing", "0" * 26, "x" * 300, "%2e%2e", "a%00b", "0" * 25 + "%2f", "workflow"]
)
def test_an_id_that_cannot_be_one_is_404(api: Api, workflow_id: str) -> None:
    """Guards ids on their way to the store."""
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/run"), ("POST", "/cancel"), ("GET", "/runs")):
        answer = api.request(method, f"{WORKFLOWS}/{workflow_id}{path}")
        assert answer.status_code == 404, (method, path)


@pytest.mark.parametrize(
    "run_id", ["nothing", "workflow", "lock", "group", "x" * 100, "a:s01", "a:e:terminal", "%2e%2e"]
)
def test_a_run_id_that_names_no_run_is_404(api: Api, run_id: str) -> None:
    """Guards the partition's other documents: none of them is shown or cancelled as if it were a run."""
    run = api.workflow(ECHO).start(run_id="a")
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/cancellation")):
        answer = api.request(method, f"{run.workflow.path}/runs/{run_id}{path}")
        assert answer.status_code == 404, (method, path, answer.text)
    assert run.wait()["status"] == "completed"


def test_somebody_elses_workflow_is_as_unknown_as_one_that_never_was(api: Api, client: httpx.Client) -> None:
    """Guards privacy: the two answers differ in nothing but the path that was asked for."""
    mine, stranger = api.workflow(ECHO), Api(client)
    run = mine.run()
    absent = mine.path[:-4] + ("aaaa" if not mine.path.endswith("aaaa") else "bbbb")
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("PUT", "", GOOD),
        ("PATCH", "", {"name": "Mine now"}),
        ("DELETE", "", None),
        ("POST", "/run", {}),
        ("POST", "/cancel", {}),
        ("GET", "/runs", None),
        ("GET", f"/runs/{run.id}", None),
        ("POST", f"/runs/{run.id}/cancel", {}),
        ("GET", f"/runs/{run.id}/artifacts", None),
    ]
    for method, path, body in calls:
        theirs, none = (stranger.request(method, base + path, json=body) for base in (mine.path, absent))
        assert (theirs.status_code, none.status_code) == (404, 404), (method, path)
        bodies = [{**answer.json(), "instance": ""} for answer in (theirs, none)]
        assert bodies[0] == bodies[1]
    assert mine.get()["name"] == "Test"
    assert stranger.all(WORKFLOWS) == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("?limit=0", "limit"),
        ("/../documents?prefix=../", "prefix"),
        ("?limit=201", "limit"),
        ("?limit=abc", "limit"),
        ("?limit=-1", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?after=nonsense", "after"),
        ("?status=busy", "status"),
        ("?enabled=maybe", "enabled"),
        ("/WID/runs?limit=99999999999", "limit"),
        ("/WID/runs?after=nonsense", "after"),
        ("/WID/runs?status=done", "status"),
        ("/WID/runs?from=yesterday", "from"),
        ("/WID/runs?to=2026-11-21", "to"),
        ("/WID/runs/RID/items?status=done", "status"),
        ("/WID/runs/RID/events?after=nonsense", "after"),
        ("/WID/runs/RID/executions?after=nonsense", "after"),
    ],
)
def test_a_wrong_query_is_422_with_its_parameter(api: Api, path: str, field: str) -> None:
    """Guards lists: no parameter is silently ignored or guessed."""
    run = api.workflow(ECHO).run()
    answer = api.request("GET", WORKFLOWS + path.replace("WID", run.workflow.id).replace("RID", run.id))
    assert fields(problem(answer, 422, "invalid")) == [field]


def test_a_token_of_one_list_is_not_one_of_another(api: Api) -> None:
    """Guards page tokens: they can't be carried over to a list whose order they don't name."""
    api.workflow(ECHO)
    run = api.workflow(ECHO).run()
    token = api.ok("GET", WORKFLOWS, params={"limit": "1"})["next"]
    assert token
    for path in (f"{run.path}/executions", f"{run.path}/events"):
        answer = api.request("GET", path, params={"after": token})
        assert fields(problem(answer, 422, "invalid")) == ["after"]


def test_without_an_identity_everything_but_health_is_401(client: httpx.Client, api: Api) -> None:
    """Guards the door; also for a made-up principal, which only the platform may set, and for a malformed user."""
    workflow = api.workflow(ECHO)
    paths = [("GET", WORKFLOWS), ("POST", f"{workflow.path}/run"), ("GET", "/api/me"), ("GET", "/api/user/documents/a")]
    for headers in ({}, {"X-MS-CLIENT-PRINCIPAL": "e30="}, {"X-Truestop-Dev-User": "a/b"}, {"X-Truestop-Dev-User": ""}):
        for method, path in paths:
            problem(client.request(method, path, headers=headers), 401, "unauthenticated")
    assert client.get("/api/health").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "https://evil.example", "X-Requested-With": "truestop"},
        {"Origin": "null", "X-Requested-With": "truestop"},
        {"Cookie": "truestop_dev_user=somebody"},
    ],
)
def test_a_request_from_another_site_is_403(api: Api, headers: dict[str, str]) -> None:
    """Guards against a page elsewhere that drives a signed-in browser."""
    workflow = api.workflow(ECHO)
    for method, path in (
        ("POST", f"{workflow.path}/run"),
        ("POST", f"{workflow.path}/cancel"),
        ("DELETE", workflow.path),
    ):
        problem(api.request(method, path, headers=headers), 403, "cross_origin")
    assert workflow.get()["runtime"]["run_count"] == 0
    assert api.request("GET", workflow.path, headers=headers).status_code == 200


def test_our_own_page_may_change_things(api: Api, client: httpx.Client) -> None:
    """Guards the other side of it: same origin and our header."""
    own = {"Origin": str(client.base_url).rstrip("/"), "X-Requested-With": "truestop", "Cookie": "any=thing"}
    assert api.request("POST", WORKFLOWS, json=GOOD, headers=own).status_code == 201


@pytest.mark.parametrize("run_id", ["", "a b", "-a", "a.", "ä", "a/b", "a:b", "x" * 65, 7, "workflow", "lock", "group"])
def test_a_run_id_that_cannot_be_used_is_422(api: Api, run_id: Any) -> None:
    """Guards the partition's reserved ids and what the Durable backend can't take."""
    workflow = api.workflow(ECHO)
    answer = api.request("POST", f"{workflow.path}/run", json={"run_id": run_id})
    assert fields(problem(answer, 422, "invalid")) == ["run_id"]
    assert workflow.get()["runtime"]["active_run_id"] is None


@pytest.mark.parametrize("body", [{"wait": 21}, {"wait": "1"}, {"inputs": {}}, {"run_id": ["a"]}, [1]])
def test_a_wrong_start_is_422_and_starts_nothing(api: Api, body: Any) -> None:
    """Guards starts against half-understood wishes."""
    workflow = api.workflow(ECHO)
    assert fields(problem(api.request("POST", f"{workflow.path}/run", json=body), 422, "invalid"))
    assert api.all(f"{workflow.path}/runs") == []


def test_the_same_run_id_is_the_same_run(api: Api, client: httpx.Client) -> None:
    """Guards idempotency: repeats and a crowd get one run; another user's run of that id is another run."""
    workflow, stranger = api.workflow(ECHO), Api(client)
    with ThreadPoolExecutor(8) as pool:
        starts = list(pool.map(lambda _: api.request("POST", f"{workflow.path}/run", json={"run_id": "one"}), range(8)))
    assert sorted(one.status_code for one in starts) == [200] * 7 + [202]
    run = Run(workflow, "one")
    assert run.wait()["status"] == "completed"
    theirs = stranger.workflow({**ECHO, "arguments": {"value": "theirs"}}).run(run_id="one")
    assert theirs.get()["output_preview"] == "theirs"
    assert run.get()["output_preview"] == "1"
    assert workflow.start(status=200, run_id="one").get() == run.get()
    assert workflow.get()["runtime"]["run_count"] == 1
    assert_ended_whole(run)


def test_a_second_run_of_a_busy_workflow_is_409(api: Api, model: ModelLog) -> None:
    """Guards the lock: the answer names the run that is in the way; nor can the workflow be deleted under it."""
    prompt = f"[[tokens=5000 key={api.user}]]Go"
    run = api.workflow({"kind": "model", "prompt": prompt}).start()
    model.streaming()
    for method, path in (("POST", f"{run.workflow.path}/run"), ("DELETE", run.workflow.path)):
        body = problem(api.request(method, path), 409, "workflow_busy")
        assert body["active_run_id"] == run.id
    assert len(api.all(f"{run.workflow.path}/runs")) == 1
    run.cancel()
    run.wait("cancelled")
    assert api.request("DELETE", run.workflow.path).status_code == 204
    for path in (run.workflow.path, run.path, f"{run.path}/events", f"{run.workflow.path}/runs"):
        assert api.request("GET", path).status_code == 404


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/user/workflow", "/nothing"])
def test_an_unknown_route_is_404_without_a_body(api: Api, path: str) -> None:
    """Guards what the Functions host does for what is no function."""
    answer = api.request("GET", path)
    assert (answer.status_code, answer.content) == (404, b"")
