"""What the client does when requests or answers are lost, and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import truestop
from tests.client.conftest import Steps, model
from tests.client.lossy import Lossy, Rule, first
from tests.support.host import ROOT
from truestop._protocol import MAX_ATTEMPTS, Attempts, Request, problem_of, retry_after
from truestop.errors import CODES, Problem, ServerFault, problem_class

Outcome = httpx.Response | httpx.TransportError


def lossy(server: str, user: str, rule: Rule, **more: Any) -> tuple[truestop.Client, Lossy]:
    """A client that loses what `rule` says."""
    transport = Lossy(rule)
    return truestop.Client(server, user=user, transport=transport, **more), transport


def test_a_start_whose_answer_is_lost_starts_one_run(server: str, user: str, workflow: Steps) -> None:
    """Guards against a run started twice: the start is sent again with the same run id."""
    made = workflow(model("[[say=once]]"))
    client, lost = lossy(server, user, first(2, "unanswered", "POST", "/run"))
    with client:
        run = client.start(made.id)
        assert run.result(20) == "once"
        assert [one.id for one in client.runs.list(made.id)] == [run.id]
    assert lost.lost == [("POST", "unanswered")] * 2


def test_a_cancel_whose_answer_is_lost_is_asked_again(server: str, user: str, workflow: Steps) -> None:
    """Guards that a cancel is accepted once and its receipt arrives."""
    made = workflow(model("[[tokens=2000 delay=10ms]] x"))
    client, lost = lossy(server, user, first(1, "unanswered", "POST", "/cancel"))
    with client:
        run = client.start(made.id)
        assert run.cancel("why").reason == "why"
        assert run.wait(20).status == "cancelled"
        assert [event.type for event in run.events()].count("run.cancelling") == 1
    assert len(lost.lost) == 1


def test_events_survive_lost_connections(server: str, user: str, workflow: Steps) -> None:
    """Guards a follower in a bad network: a third of its requests fail, and no event is lost or doubled."""
    count = [0]

    def rule(request: httpx.Request) -> str | None:
        count[0] += 1
        return {0: "unanswered", 1: "unsent"}.get(count[0] % 6) if request.method == "GET" else None

    made = workflow(model("[[tokens=40 delay=10ms]] a"), model("b"))
    client, lost = lossy(server, user, rule)
    with client:
        run = client.start(made.id)
        seen = [event.id for event in run.events()]
    assert {fate for _, fate in lost.lost} == {"unanswered", "unsent"}
    with truestop.Client(server, user=user) as other:
        assert seen == [event.id for event in other.runs.get(made.id, run.id).events()]


def test_what_makes_something_new_is_not_sent_twice(server: str, user: str) -> None:
    """Guards against a second workflow: of a create whose answer was lost nobody knows whether it happened."""
    definition = {"name": "Once", "steps": [{"name": "s", **model("x")}]}
    client, lost = lossy(server, user, first(1, "unanswered", "POST"))
    with client:
        with pytest.raises(truestop.Unreachable, match="1 attempt"):
            client.workflows.create(definition)
        (made,) = client.workflows.list()
    assert len(lost.lost) == 1
    client, lost = lossy(server, user, first(1, "unsent", "POST"))
    with client:
        assert client.workflows.create(definition).id != made.id
    assert len(lost.lost) == 1


def test_a_deletion_whose_answer_is_lost_has_happened(server: str, user: str, workflow: Steps) -> None:
    """Guards against a 404 for what the caller's own first attempt deleted; a real one is still told."""
    made = workflow(model("x"))
    client, lost = lossy(server, user, first(1, "unanswered", "DELETE"))
    with client:
        client.workflows.delete(made.id)
        assert not list(client.workflows.list())
        with pytest.raises(truestop.NotFound):
            client.workflows.delete(made.id)
    assert len(lost.lost) == 1


def test_nobody_there_is_said_after_a_bounded_time() -> None:
    """Guards a program against waiting for ever."""
    client = truestop.Client("http://127.0.0.1:9", user="x", patience=0.5)
    with client, pytest.raises(truestop.Unreachable, match=r"http://127\.0\.0\.1:9 can't be reached"):
        client.me()


class Clock:
    """A clock that moves by what the attempts wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pauses(outcomes: Iterator[Outcome], request: Request, patience: float) -> list[float]:
    """How long is waited after each outcome, until the last."""
    clock, found = Clock(), []
    attempts = Attempts(request, "http://x", patience, clock)
    for outcome in outcomes:
        pause = attempts.pause(outcome)
        if pause is None:
            break
        found.append(pause)
        clock.now += pause
    return found


def forever(outcome: Outcome) -> Iterator[Outcome]:
    """The same each time, for longer than anybody should try."""
    yield from [outcome] * 1000


def test_attempts_are_spaced_and_bounded() -> None:
    """Guards a service that struggles: attempts come ever slower, jittered, and end."""
    lost = httpx.ReadTimeout("silence")
    waited = pauses(forever(lost), Request("GET", "/"), 30)
    assert 0 < len(waited) < MAX_ATTEMPTS
    assert sum(waited) <= 30
    assert waited[0] <= 0.2 < waited[-1] <= 5
    assert pauses(forever(lost), Request("GET", "/"), 0) == []
    assert len(pauses(forever(lost), Request("GET", "/"), 1e9)) == MAX_ATTEMPTS - 1


def test_retry_after_is_honoured_within_the_callers_patience() -> None:
    """Guards both sides: a server that asks for 3 s gets them, and one that asks for an hour is not waited for."""
    busy = httpx.Response(429, headers={"Retry-After": "3"})
    assert pauses(iter([busy, busy]), Request("POST", "/", repeatable=False), 30) == [3, 3]
    assert pauses(forever(httpx.Response(503, headers={"Retry-After": "3600"})), Request("GET", "/"), 30) == []
    assert retry_after(httpx.Response(429, headers={"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"})) == 0
    for text in ("soon", "", "-1", "９"):
        assert retry_after(httpx.Response(429, headers=[(b"Retry-After", text.encode())])) is None


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500])
def test_refusals_are_not_asked_again(status: int) -> None:
    """Guards against hammering with what will never work."""
    assert pauses(forever(httpx.Response(status)), Request("GET", "/"), 30) == []
    start_failed = httpx.Response(503, json={"code": "start_failed"})
    assert pauses(forever(start_failed), Request("GET", "/"), 30) == []


def test_every_documented_code_has_a_class() -> None:
    """Guards the table of errors against docs/errors.md: each code and status there has a class, and no entry is stale."""
    page = (ROOT / "docs/errors.md").read_text()
    documented = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", page, re.M)}
    assert len(documented) > 30
    for code, status in documented.items():
        kind = problem_class(status, code)
        assert kind is not Problem, code
        assert issubclass(kind, ServerFault) == (status >= 500), code
    assert set(CODES) <= set(documented)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404), truestop.UnexpectedAnswer),
        (httpx.Response(502, text="<h1>Bad gateway</h1>"), truestop.ServerFault),
        (httpx.Response(403, json=["x"]), truestop.UnexpectedAnswer),
        (httpx.Response(418, json={"code": "tea", "detail": "short and stout"}), truestop.Problem),
        (httpx.Response(403, json={"code": "x", "detail": "y", "errors": ["z"]}), truestop.Forbidden),
    ],
)
def test_answers_of_something_else_are_told_apart(answer: httpx.Response, kind: type[Exception]) -> None:
    """Guards a wrong address: a page of some other site is no refusal of ours."""
    answer.request = httpx.Request("GET", "http://x/api/me")
    assert type(problem_of(answer)) is kind


def test_an_answer_that_is_not_ours_is_an_error_and_not_a_surprise(server: str, user: str) -> None:
    """Guards against a `KeyError` far from its cause."""
    with pytest.raises(truestop.UnexpectedAnswer, match="Workflow"):
        truestop.Workflow.of({"id": 7})
    with truestop.Client(server + "/dev/model", user=user) as client, pytest.raises(truestop.UnexpectedAnswer):
        client.me()
