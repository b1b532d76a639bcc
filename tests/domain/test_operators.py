"""Operators: cancels of many runs, what seems wedged, and a record of all that they do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared import operator_cancels
from shared.errors import Problem, Unavailable
from shared.executions import ExecutionSpec, run_ref
from shared.names import Kind
from shared.operations import begin
from shared.operator_cancels import work_off
from shared.permissions import OPERATOR_ROLE
from shared.queue_intake import reject
from shared.runs import CancelRequest, request_cancel
from shared.settling import end_run
from shared.states import ACTIVE_RUN, RunStatus
from shared.store.port import Op, Partition, Patch, Query
from tests.support.inprocess import Reply
from tests.support.people import People, Scene, open_people
from tests.support.world import RecordingStore

OP = {"id": "op", "name": "Op"}


@pytest_asyncio.fixture
async def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[People]:
    async with open_people(tmp_path, monkeypatch) as one:
        yield one


async def ask(people: People, name: str, body: Any = None, status: int = 200, **more: Any) -> Reply:
    """Call an operators' route as an operator."""
    reply = await people.app.call(f"admin_{name}", "op", body, roles=(OPERATOR_ROLE,), **more)
    assert reply.status == status, reply
    return reply


async def scenes(people: People, count: int, scope: str = "user:pia") -> list[Scene]:
    """Workflows with a running run each."""
    return [await people.scene(scope, active=True) for _ in range(count)]


async def run_of(people: People, scene: Scene) -> dict[str, Any]:
    assert scene.run_id
    return await people.store.get(scene.partition, scene.run_id)


async def active(people: People) -> int:
    runs = (await people.store.query(Query("run", None, limit=1000))).items
    return sum(run["status"] in ACTIVE_RUN for run in runs)


def results(reply: Reply) -> dict[str, str]:
    """The result of each run."""
    return {one["run_id"]: one["result"] for one in reply.body["results"]}


async def types(people: People, scene: Scene, run_id: str) -> list[str]:
    events = (await people.store.query(Query("event", scene.partition, limit=1000))).items
    return [one["event_type"] for one in events if one["run_id"] == run_id]


async def test_each_run_of_a_list_has_its_own_result(people: People) -> None:
    """Guards bulk cancels: one run that can't be cancelled keeps none of the others from it, and nothing is guessed."""
    one, two = await scenes(people, 2)
    twins = [await people.scene(f"user:{name}", active=False) for name in ("ann", "bob")]
    for twin in twins:
        await people.begin(twin.partition, "same")
    ids = [one.run_id, "nothing", two.old, "same", two.run_id, one.run_id]

    reply = await ask(people, "cancel", {"run_ids": ids, "reason": "enough"})

    assert results(reply) == {
        one.run_id: "cancelled",
        "nothing": "not_found",
        two.old: "cancelled",
        "same": "ambiguous",
        two.run_id: "cancelled",
    }
    assert len(reply.body["results"]) == 5
    assert reply.body["job"] is None
    run = await run_of(people, one)
    assert (run["cancel"]["source"], run["cancel"]["reason"], run["cancel"]["requested_by"]) == ("admin", "enough", OP)
    assert (await types(people, one, run["id"])).count("operator.cancelled") == 1
    assert "operator.cancelled" not in await types(people, two, two.old)
    assert set(people.app.client.events) >= {one.run_id, two.run_id}
    assert await active(people) == 2
    narrowed = await ask(people, "cancel", {"run_ids": ["same"], "scope": "user:ann", "reason": "x"})
    assert results(narrowed) == {"same": "cancelled"}
    assert await active(people) == 1


async def test_a_run_whose_own_end_came_first_is_said_to_have_finished(people: People) -> None:
    """Guards the tie: a result never claims a cancel that did not happen."""
    (scene,) = await scenes(people, 1)
    assert scene.run_id
    await end_run(people.services, run_ref(await run_of(people, scene)), RunStatus.COMPLETED, None)
    reply = await ask(people, "cancel", {"run_ids": [scene.run_id], "reason": "late"})
    (result,) = reply.body["results"]
    assert (result["result"], result["status"]) == ("already_finished", "completed")
    assert result["error"]["code"] == "run_already_finished"


async def test_a_filter_reaches_only_what_it_names(people: People) -> None:
    """Guards everyone else's runs."""
    first, second = await scenes(people, 2)
    (other,) = await scenes(people, 1, "user:ann")
    reply = await ask(people, "cancel", {"reason": "x", "older_than": 3600})
    assert reply.body["results"] == []
    reply = await ask(people, "cancel", {"reason": "x", "workflow_id": first.workflow_id})
    assert list(results(reply)) == [first.run_id]
    reply = await ask(people, "cancel", {"reason": "x", "scope": "user:pia"})
    assert list(results(reply)) == [second.run_id]
    reply = await ask(people, "cancel", {"reason": "x", "older_than": 0})
    assert list(results(reply)) == [other.run_id]


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "x"},
        {"older_than": 0},
        {"reason": "", "older_than": 0},
        {"reason": "x", "run_ids": []},
        {"reason": "x", "run_ids": ["a b"]},
        {"reason": "x", "run_ids": ["a"], "older_than": 0},
        {"reason": "x", "scope": "everyone"},
        {"reason": "x", "workflow_id": "../x"},
        {"reason": "x", "older_than": -1},
    ],
)
async def test_an_order_says_why_and_which(people: People, body: Any) -> None:
    """Guards against a slip that stops everything."""
    await scenes(people, 1)
    reply = await people.app.call("admin_cancel", "op", body, roles=(OPERATOR_ROLE,))
    assert (reply.status, reply.code) == (422, "invalid")
    assert await active(people) == 1


@pytest.mark.parametrize("by_id", [False, True])
async def test_more_runs_than_a_request_takes_are_a_job(
    people: People, monkeypatch: pytest.MonkeyPatch, by_id: bool
) -> None:
    """Guards large orders: all of them are cancelled, each with one result; a run that starts later is left alone."""
    monkeypatch.setattr(operator_cancels, "BATCH", 2)
    all_scenes = await scenes(people, 5)
    ids = [scene.run_id for scene in all_scenes]
    which = {"run_ids": ids} if by_id else {"older_than": 0}
    reply = await ask(people, "cancel", {"reason": "too much", **which}, 202)
    assert len(reply.body["results"]) == 2
    assert await active(people) == 3
    job = reply.body["job"]
    assert (job["status"], job["counts"]["cancelled"], reply.headers["Location"]) == (
        "running",
        2,
        job["links"]["self"],
    )
    (later,) = await scenes(people, 1)

    await asyncio.gather(*(work_off(people.services, people.app.client) for _ in range(3)))

    done = (await ask(people, "job", id=job["id"])).body
    assert (done["status"], done["counts"]["cancelled"], done["by"]) == ("completed", 5, OP)
    assert done["ended_at"]
    seen, after = [], None
    while True:
        page = (await ask(people, "job_results", id=job["id"], query={"after": after} if after else None)).body
        seen += [one["run_id"] for one in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(seen) == sorted(str(one) for one in ids)
    assert (await run_of(people, later))["status"] == "running"
    assert await work_off(people.services, people.app.client) == 0
    assert [one["id"] for one in (await ask(people, "jobs")).body["items"]] == [job["id"]]


async def test_a_worker_that_dies_in_a_batch_costs_nothing(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the progress of a job: a batch whose record was lost is done again and counted once."""
    monkeypatch.setattr(operator_cancels, "BATCH", 2)
    all_scenes = await scenes(people, 4)
    job = (await ask(people, "cancel", {"reason": "x", "older_than": 0}, 202)).body["job"]
    store = RecordingStore(people.store)

    async def lose_progress(ops: Sequence[Op]) -> None:
        if any(isinstance(op, Patch) and "batches" in op.set for op in ops):
            raise Unavailable("gone")

    store.before = lose_progress
    with pytest.raises(Unavailable):
        await work_off(replace(people.services, store=store), people.app.client)  # type: ignore[arg-type]
    assert await active(people) == 0
    await asyncio.gather(*(work_off(people.services, people.app.client) for _ in range(3)))
    done = (await ask(people, "job", id=job["id"])).body
    assert (done["status"], sum(done["counts"].values())) == ("completed", 2)
    for scene in all_scenes:  # those of the lost batch are told by their own events
        assert (await types(people, scene, str(scene.run_id))).count("operator.cancelled") == 1


async def test_a_stopped_job_cancels_no_more(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the operator who ordered too much."""
    monkeypatch.setattr(operator_cancels, "BATCH", 1)
    await scenes(people, 3)
    job = (await ask(people, "cancel", {"reason": "x", "older_than": 0}, 202)).body["job"]
    for _ in range(2):
        stopped = (await ask(people, "job_stop", id=job["id"])).body
        assert (stopped["status"], stopped["stopped_by"]) == ("stopped", OP)
    assert await work_off(people.services, people.app.client) == 0
    assert await active(people) == 2


async def test_a_job_that_is_stopped_in_a_batch_still_tells_of_it(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the results: what was cancelled is told, and the job stays stopped."""
    monkeypatch.setattr(operator_cancels, "BATCH", 2)
    await scenes(people, 4)
    job = (await ask(people, "cancel", {"reason": "x", "older_than": 0}, 202)).body["job"]
    store = RecordingStore(people.store)

    async def stop_first(ops: Sequence[Op]) -> None:
        if any(isinstance(op, Patch) and "batches" in op.set for op in ops):
            store.before = None
            await ask(people, "job_stop", id=job["id"])

    store.before = stop_first
    await work_off(replace(people.services, store=store), people.app.client)  # type: ignore[arg-type]
    done = (await ask(people, "job", id=job["id"])).body
    assert (done["status"], done["counts"]["cancelled"]) == ("stopped", 4)


async def test_wedged_runs_are_those_that_should_have_ended(people: People) -> None:
    """Guards what operators look at first: late cancels, expired leases, endless operations; and nothing that is well."""
    late, well = await scenes(people, 2)
    for scene in (late, well):
        node = ExecutionSpec("s01.m", Kind.MODEL_CALL, "m")
        await begin(people.services.store, run_ref(await run_of(people, scene)), [node])
    empty = (await ask(people, "wedged")).body
    assert empty == {"cancelling": [], "leases": [], "operations": [], "truncated": False}
    assert late.run_id
    await request_cancel(people.services, late.partition, late.run_id, CancelRequest(OP))
    await set_fields(people, late.partition, late.run_id, **{"cancel.requested_at": "2026-01-01T00:00:00.000Z"})
    await set_fields(people, late.partition, "lock", expires_at="2026-01-01T00:00:00.000Z")
    await set_fields(people, late.partition, f"{late.run_id}:s01.m", started_at="2026-01-01T00:00:00.000Z")
    await set_fields(
        people, well.partition, f"{well.run_id}:s01", status="running", started_at="2026-01-01T00:00:00.000Z"
    )
    found = (await ask(people, "wedged")).body
    for kind in ("cancelling", "leases", "operations"):
        assert [one["run_id"] for one in found[kind]] == [late.run_id], kind
    assert found["cancelling"][0]["in_flight"] == 1
    forced = await ask(people, "cancel", {"run_ids": [late.run_id], "reason": "stuck", "force": True})
    assert results(forced) == {late.run_id: "cancelled"}
    assert (await ask(people, "wedged")).body == empty


async def set_fields(people: People, partition: Partition, document_id: str, **fields: Any) -> None:
    await people.store.transact(partition, [Patch(document_id, set=fields)])


async def test_a_trail_tells_who_asked_who_cancelled_and_who_looked(people: People) -> None:
    """Guards accountability, of people and of operators."""
    (scene,) = await scenes(people, 1)
    assert scene.run_id
    await ask(people, "cancel", {"run_ids": [scene.run_id], "reason": "runaway"})
    await ask(people, "trail", rid=scene.run_id)
    told = (await ask(people, "trail", rid=scene.run_id)).body
    assert told["run"]["cancel"]["reason"] == "runaway"
    by_type = {one["type"]: one for one in told["trail"]}
    assert (by_type["run.queued"]["by"]["id"], by_type["run.queued"]["source"]) == ("x", "manual")
    assert (by_type["run.cancelling"]["by"], by_type["run.cancelling"]["source"]) == (OP, "admin")
    assert by_type["operator.cancelled"]["by"] == OP
    assert by_type["operator.read_trail"]["by"] == OP
    assert [one["at"] for one in told["trail"]] == sorted(one["at"] for one in told["trail"])
    log = (await ask(people, "events", query={"run_id": scene.run_id})).body["items"]
    assert {one["type"] for one in log} == {"operator.read_trail"}
    orders = [one for one in (await ask(people, "events")).body["items"] if one["type"] == "operator.cancel_ordered"]
    assert [one["data"]["reason"] for one in orders] == ["runaway"]


async def test_a_run_id_of_several_workflows_must_be_narrowed(people: People) -> None:
    """Guards against one person's trail shown for another's."""
    for name in ("ann", "bob"):
        await people.begin((await people.scene(f"user:{name}", active=False)).partition, "same")
    assert (await ask(people, "trail", status=409, rid="same")).code == "run_id_ambiguous"
    told = await ask(people, "trail", rid="same", query={"scope": "user:bob"})
    assert told.body["run"]["scope"] == "user:bob"
    assert (await ask(people, "trail", status=404, rid="same", query={"scope": "user:eve"})).code == "run_not_found"


async def test_events_are_exported_as_json_lines(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the export: every event once and in order, also over several pages."""
    (scene,) = await scenes(people, 1)
    assert scene.run_id
    await ask(people, "cancel", {"run_ids": [scene.run_id], "reason": "x"})
    whole = await ask(people, "export", rid=scene.run_id)
    lines = [json.loads(line) for line in whole.body.decode().splitlines()]
    assert [one["type"] for one in lines] == await types(people, scene, scene.run_id)
    monkeypatch.setattr("shared.operators.PAGE", 1)
    monkeypatch.setattr("shared.operators.MAX_EXPORT", 2)
    pages, after = [], None
    while True:
        part = await ask(people, "export", rid=scene.run_id, query={"after": after} if after else None)
        pages += part.body.decode().splitlines()
        after = part.headers.get("Truestop-Next")
        if after is None:
            break
    assert pages == whole.body.decode().splitlines()


async def test_who_looks_leaves_one_event_a_minute(people: People) -> None:
    """Guards the record against a page that asks every second, and against a look that leaves no trace."""
    for _ in range(3):
        await ask(people, "runs")
        await ask(people, "rejected")
    log = (await ask(people, "events")).body["items"]
    looked = [one["data"]["what"] for one in log if one["type"] == "operator.listed"]
    assert set(looked) == {"runs", "rejected"}
    assert len(looked) <= 4  # a minute may end in between


async def test_runs_of_everyone_are_listed_by_status(people: People) -> None:
    """Guards the list: active ones unless another status is asked for."""
    one, two = await scenes(people, 1), await scenes(people, 1, "user:ann")
    listed = (await ask(people, "runs")).body["items"]
    assert {run["id"] for run in listed} == {one[0].run_id, two[0].run_id}
    ended = (await ask(people, "runs", query={"status": "cancelled", "scope": "user:ann"})).body["items"]
    assert [run["id"] for run in ended] == [two[0].old]
    assert (await ask(people, "runs", query={"older_than": "60"})).body["items"] == []
    for query in ({"status": "busy"}, {"older_than": "nan"}, {"scope": "x"}, {"after": "nonsense"}):
        assert (await ask(people, "runs", status=422, query=query)).code == "invalid"


async def test_rejected_messages_are_listed_with_their_reason(people: People) -> None:
    """Guards what operators can tell a sender."""
    await reject(people.services, "run-requests", '{"token": "hush"}', Problem(422, "invalid", "wrong"))
    (record,) = (await ask(people, "rejected", query={"queue": "run-requests"})).body["items"]
    assert record["error"] == {"code": "invalid", "message": "wrong"}
    assert "hush" not in json.dumps(record)
    assert (await ask(people, "rejected", query={"queue": "notifications"})).body["items"] == []
