"""The live view over HTTP: a snapshot, and windows of server-sent events that go on from it."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import ENDED, Api, Json, ModelLog, Run
from tests.support.host import Host
from tests.support.sse import Event, parse

several_processes = pytest.mark.several_processes
ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
WINDOWS = 500
"""No stream of these tests takes as many."""


def model_step(api: Api, tokens: int, delay: str = "20ms") -> dict[str, Any]:
    return {"kind": "model", "prompt": f"[[key={api.user} tokens={tokens} delay={delay}]] go"}


class Stream:
    """Follows a run as an `EventSource` does: its URL stays, and the last id goes in a header."""

    def __init__(self, run: Run, after: str | None = None, *, follow: bool = True) -> None:
        self.run, self.path = run, f"{run.workflow.path}/stream"
        self.query = ({"run_id": run.id} if follow else {}) | ({"after": after} if after else {})
        self.last_id: str | None = None
        self.events: list[Event] = []

    def get(self) -> httpx.Response:
        """One window, as it is answered."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        return self.run.api.request("GET", self.path, headers=headers, params=self.query)

    def window(self, cut: random.Random | None = None) -> bool:
        """Take one window, cut off somewhere if `cut`. Answers False once the run was told."""
        answer = self.get()
        if answer.status_code == 204:
            return False
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        body = answer.content
        parsed = parse(body[: cut.randrange(len(body))] if cut and cut.random() < 0.6 else body)
        assert cut or parsed.retry
        self.last_id = parsed.last_id or self.last_id
        self.events += parsed.events
        return True

    def to_the_end(self, cut: random.Random | None = None) -> None:
        for _ in range(WINDOWS):
            if not self.window(cut):
                return
        raise AssertionError(f"the stream of {self.run.path} did not end")

    def of(self, kind: str) -> list[Json]:
        """The data of its events of one type."""
        return [event.data for event in self.events if event.type == kind]


def snapshot(run: Run) -> Json:
    return run.api.ok("GET", f"{run.workflow.path}/activity", params={"run_id": run.id})


def assert_told(run: Run, before: Json, stream: Stream) -> None:
    """The snapshot and the stream are the whole run, and no event came twice."""
    told = [event["id"] for event in stream.of("event")]
    assert len(told) == len(set(told))
    whole = [event["id"] for event in run.events()]
    assert {event["id"] for event in before["events"]} | set(told) == set(whole)
    assert told == [event for event in whole if event in set(told)], "in order"
    last = {one["path"]: one for one in reversed(before["executions"])} | {
        one["path"]: one for one in stream.of("execution")
    }
    assert last == run.executions()
    assert stream.of("run")[-1] == run.get()


@several_processes
def test_a_run_is_followed_while_its_model_writes(api: Api, model: ModelLog) -> None:
    """Guards the page's live text, and that the stream ends by itself."""
    run = api.workflow(ECHO, model_step(api, 120)).start()
    before = snapshot(run)
    stream = Stream(run, before["feed"])
    stream.to_the_end()
    assert run.get()["status"] == "completed"
    assert_told(run, before, stream)
    texts = [one["output_preview"] or "" for one in stream.of("execution") if one["path"] == "s02.m"]
    assert len({len(text) for text in texts}) > 3, "it grew as it came"
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert stream.get().status_code == 204


@several_processes
@pytest.mark.parametrize("seed", [1, 2])
def test_connections_that_break_lose_nothing_and_repeat_nothing(api: Api, seed: int) -> None:
    """Each answer is cut off somewhere, as by a train in a tunnel."""
    run = api.workflow(ECHO, model_step(api, 40), ECHO).start()
    before = snapshot(run)
    stream = Stream(run, before["feed"])
    stream.to_the_end(random.Random(seed))
    assert_told(run, before, stream)


@several_processes
def test_a_cancel_is_told_with_its_receipt_and_closing_a_window_is_none(api: Api, model: ModelLog) -> None:
    run = api.workflow(model_step(api, 5000)).start()
    before = snapshot(run)
    model.streaming(1)
    stream = Stream(run, before["feed"])
    with pytest.raises(httpx.ReadTimeout):
        for _ in range(WINDOWS):
            assert stream.window()
            headers = {"Last-Event-ID": stream.last_id or ""}
            api.request("GET", stream.path, headers=headers, params=stream.query, timeout=0.02)
    assert run.get()["status"] == "running"
    assert run.cancel(reason="enough").status_code in (200, 202)
    stream.to_the_end()
    assert_told(run, before, stream)
    last = stream.of("run")[-1]
    assert (last["status"], last["cancel"]["reason"], last["cancel"]["acknowledged"]) == ("cancelled", "enough", True)
    assert stream.of("event")[-1]["type"] == "run.cancelled"


def test_a_workflow_is_followed_from_run_to_run(api: Api) -> None:
    """The activity panel: idle, running, idle again; without a run it has no end."""
    workflow = api.workflow(ECHO)
    activity = f"{workflow.path}/activity"
    idle = api.ok("GET", activity)
    assert (idle["run"], idle["workflow"]["runtime"]["status"]) == (None, "idle")
    assert idle["links"] == {"stream": f"{workflow.path}/stream"}
    first = workflow.run()
    stream = Stream(first, idle["feed"], follow=False)
    while not any(one["status"] in ENDED for one in stream.of("run")):
        assert stream.window()
    second = workflow.run()
    while not any(one["id"] == second.id and one["status"] in ENDED for one in stream.of("run")):
        assert stream.window()
    assert stream.of("workflow")[-1]["runtime"]["last_run_id"] == second.id
    after = api.ok("GET", activity)
    assert (after["run"]["id"], after["run"]["status"], after["events"][0]["type"]) == (
        second.id,
        "completed",
        "run.completed",
    )


def test_who_may_not_see_it_is_told_that_it_is_not_there(api: Api, client: httpx.Client) -> None:
    """And a token is no key: it names a place in a feed, of which only one's own is read."""
    run = api.workflow(ECHO).run()
    feed = snapshot(run)["feed"]
    stranger = Api(client)
    for tail in ("activity", "stream", f"stream?after={feed}", f"stream?run_id={run.id}"):
        refused = stranger.request("GET", f"{run.workflow.path}/{tail}")
        assert (refused.status_code, refused.json()["code"]) == (404, "workflow_not_found")
    other = stranger.workflow(ECHO)
    for tail, status, code in (
        (f"activity?run_id={run.id}", 404, "run_not_found"),
        (f"stream?run_id={run.id}", 404, "run_not_found"),
        ("stream?run_id=a/b", 404, "run_not_found"),
        ("stream?run_id=workflow", 404, "run_not_found"),
        ("stream?after=nonsense", 422, "invalid"),
        (f"stream?after={'s' * 5000}", 422, "invalid"),
    ):
        refused = stranger.request("GET", f"{other.path}/{tail}")
        assert (refused.status_code, refused.json()["code"]) == (status, code), tail
    header = stranger.request("GET", f"{other.path}/stream", headers={"Last-Event-ID": "no token"})
    assert (header.status_code, header.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
    started = stranger.request("GET", f"{other.path}/stream").content
    assert parse(started).events == [] and parse(started).last_id


def test_members_of_a_group_follow_its_runs_until_they_are_removed(api: Api, client: httpx.Client) -> None:
    group = api.ok("POST", "/api/groups", 201, json={"name": "Watchers"})["id"]
    member, stranger, query = Api(client), Api(client), {"group_id": group}
    of_member = f"/api/groups/{group}/members/{member.user}"
    api.ok("PUT", of_member, json={"role": "User", "name": "M"})
    made = {"name": "Test", "steps": [{"name": "s1", **ECHO}]}
    path = f"/api/group/workflows/{api.ok('POST', '/api/group/workflows', 201, params=query, json=made)['id']}"
    run = api.ok("POST", f"{path}/run", 202, params=query, json={"wait": 20})
    seen = member.ok("GET", f"{path}/activity", params=query)
    assert (seen["run"]["id"], seen["links"]["stream"]) == (run["id"], f"{path}/stream?group_id={group}")
    first = member.request("GET", seen["links"]["stream"])
    assert first.status_code == 200 and parse(first.content).last_id
    assert member.request("GET", f"{path}/stream", params={**query, "run_id": run["id"]}).status_code == 200
    for tail in ("activity", "stream"):
        refused = stranger.request("GET", f"{path}/{tail}", params=query)
        assert (refused.status_code, refused.json()["code"]) == (404, "group_not_found")
    api.ok("DELETE", of_member, 204)
    assert member.request("GET", seen["links"]["stream"]).status_code == 404


def test_a_stream_goes_on_after_the_host_was_killed(start_host: StartHost) -> None:
    """The id is the store's, so a process that remembers nothing goes on from it."""
    host: Host = start_host(TRUESTOP_FENCE_SECONDS="1.5")
    with new_client(host.base_url) as client:
        api = Api(client)
        run = api.workflow(ECHO, model_step(api, 60), ECHO).start()
        before = snapshot(run)
        stream = Stream(run, before["feed"])
        while not stream.of("execution"):
            assert stream.window()
        host.kill9()
        host.restart()
        stream.to_the_end()
        assert_told(run, before, stream)
