"""Limits: one caller can't use up the service, nor their own way to stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import rate_limits
from shared.errors import Problem
from shared.identity import Caller, Key
from shared.permissions import Rule
from shared.rate_limits import Bucket, RateLimits
from tests.support.inprocess import http_functions
from tests.support.people import DEFINITION, open_people


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_a_minutes_worth_and_fills_again() -> None:
    """Guards the arithmetic: what is promised in `Retry-After` is true."""
    clock = Clock()
    bucket = Bucket(60, clock)
    assert [bucket.take("a") for _ in range(60)] == [0.0] * 60
    wait = bucket.take("a")
    assert 0 < wait <= 1
    assert bucket.take("b") == 0.0
    clock.now += wait
    assert bucket.take("a") == 0.0
    assert bucket.take("a") > 0
    clock.now += 3600
    assert [bucket.take("a") for _ in range(61)].count(0.0) == 60


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against many callers: who asked longest ago is forgotten, who asks on is not."""
    monkeypatch.setattr(rate_limits, "MAX_CALLERS", 3)
    bucket = Bucket(1, Clock())
    for other in "bcdefg":
        assert bucket.take("a") == 0.0 if other == "b" else bucket.take("a") > 0
        bucket.take(other)
    assert len(bucket._left) == 3


def test_starts_never_use_up_a_stop() -> None:
    """Guards cancels: they have a bucket of their own, and a machine's key one that isn't its person's."""
    limits, person = RateLimits(1, 2, Clock()), Caller("a", "A")
    machine = Caller("a", "A", key=Key("k", "k", "user:a", frozenset()))
    limits.refuse(Rule.WORKFLOW_RUN, person)
    with pytest.raises(Problem, match="rate_limited") as caught:
        limits.refuse(Rule.WORKFLOW_RUN, person)
    assert caught.value.extra["retry_after"] == 60
    limits.refuse(Rule.WORKFLOW_RUN, machine)
    limits.refuse(Rule.WORKFLOW_CANCEL, person)
    for _ in range(100):
        limits.refuse(Rule.WORKFLOW_VIEW, person)
        limits.refuse(Rule.OPERATOR, person)


async def test_a_caller_over_the_rate_hears_when_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the answer: 429 with Retry-After; others, and the caller's cancels, go on."""
    async with open_people(tmp_path, monkeypatch, starts_per_minute="1") as people:
        mine, other = await people.scene("user:pia", active=False), await people.scene("user:ann", active=False)
        assert (await people.app.call("run_start", "pia", {}, wid=mine.workflow_id)).status == 202
        refused = await people.app.call("run_start", "pia", {}, wid=mine.workflow_id)
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "rate_limited", "60")
        assert (await people.app.call("run_start", "ann", {}, wid=other.workflow_id)).status == 202
        assert (await people.app.call("run_cancel_active", "pia", {}, wid=mine.workflow_id)).status == 200


@pytest.mark.parametrize("kind", ["user", "group"])
async def test_a_scope_has_so_many_workflows_and_active_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Guards the store and the model against one scope; a repeated request for a run that is there is not refused."""
    async with open_people(tmp_path, monkeypatch, workflows_max="3", user_runs_max="2", group_runs_max="2") as people:
        group = await people.group()
        scope, prefix = ("user:olga", "") if kind == "user" else (f"group:{group}", "group_")
        query = {"group_id": group} if kind == "group" else {}
        scenes = [await people.scene(scope, active=False) for _ in range(3)]
        full = await people.app.call(f"{prefix}workflows_create", "olga", DEFINITION, query=query)
        assert (full.status, full.code) == (409, "too_many_workflows")
        body = {"run_id": "mine"}
        for scene in scenes[:2]:
            reply = await people.app.call(f"{prefix}run_start", "olga", body, query=query, wid=scene.workflow_id)
            assert reply.status == 202, reply
        again = await people.app.call(f"{prefix}run_start", "olga", body, query=query, wid=scenes[0].workflow_id)
        assert again.status == 200
        for name, route in (("run_start", {}), ("run_resume", {"rid": scenes[2].old})):
            last = await people.app.call(f"{prefix}{name}", "olga", {}, query=query, wid=scenes[2].workflow_id, **route)
            assert (last.status, last.code) == (409, "too_many_active_runs"), name
        await people.app.call(f"{prefix}run_cancel_active", "olga", {}, query=query, wid=scenes[0].workflow_id)
        freed = await people.app.call(f"{prefix}run_start", "olga", {}, query=query, wid=scenes[2].workflow_id)
        assert freed.status == 202


async def test_a_workflow_has_so_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the setting."""
    async with open_people(tmp_path, monkeypatch, steps_max="1") as people:
        steps = [{"kind": "model", "name": name, "prompt": "x"} for name in ("a", "b")]
        reply = await people.app.call("workflows_create", "pia", {"name": "W", "steps": steps})
        assert (reply.status, reply.body["errors"][0]["field"]) == (422, "steps")


async def test_every_answer_is_private_and_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards browsers: nothing is cached, framed, sniffed or run, of answers and of refusals."""
    async with open_people(tmp_path, monkeypatch) as people:
        for name in http_functions():
            reply = await people.app.call(name, "pia", None)
            if http_functions()[name].trigger.route.startswith("api/"):
                assert reply.headers["Cache-Control"] == "no-store", name
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"], name
            assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"], name
            assert reply.headers["X-Content-Type-Options"] == "nosniff", name
