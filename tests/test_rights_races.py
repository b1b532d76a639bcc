"""A role that is lost while its holder's request is at work: from that moment on nothing more is accepted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from http_triggers import api
from shared.access import Grant
from shared.permissions import Role
from shared.store.port import Create, Document, Partition, Query
from tests.support.inprocess import Reply
from tests.support.people import DEFINITION, DOCUMENT, People, Scene, WatchedStore, open_people
from tests.support.waiting import eventually
from tests.support.world import RecordingStore

CHANGING: dict[str, tuple[Any, bool]] = {
    "group_workflows_create": (DEFINITION, False),
    "group_workflows_replace": (DEFINITION, False),
    "group_workflows_merge": ({"description": "new"}, False),
    "group_workflows_delete": (None, False),
    "group_run_start": ({}, False),
    "group_run_resume": ({}, False),
    "group_run_cancel_active": ({}, True),
    "group_run_cancel": ({}, True),
    "group_execution_cancel": ({}, True),
    "group_documents_put": (b"new", False),
    "group_documents_delete": (None, False),
    "alias_cancel": ({}, True),
    "alias_workflow_cancel": ({}, True),
    "alias_stop": ({}, True),
    "alias_cancel_tree": ({}, True),
    "alias_execution_cancel": ({}, True),
}
"""Each route that changes something in a group: what it is sent, and whether about a run at work."""

KEPT_FROM_USERS = ("group_workflows", "group_documents")


@pytest_asyncio.fixture
async def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[People]:
    async with open_people(tmp_path, monkeypatch) as one:
        yield one


async def call(people: People, name: str, user: str, group: str, scene: Scene, body: Any) -> Reply:
    """Call a route about a scene."""
    run = (scene.run_id or scene.old) if "execution" not in name else scene.run_id
    route = {"wid": scene.workflow_id, "rid": run or ""}
    if "execution" in name:
        route |= {"path": "s01", "id": f"{run}:s01"}
    if "documents" in name:
        route = {"path": DOCUMENT}
    query = {"group_id": group} if name.startswith("group_") else {}
    return await people.app.call(name, user, body, query=query, **route)


async def everything(people: People, scope: str) -> list[tuple[str, ...]]:
    """All documents and blobs of a scope, with their versions, its group's apart."""
    found: list[tuple[str, ...]] = []
    for kind in ("workflow", "run", "execution", "event", "receipt", "lock"):
        page = await people.store.inner.query(Query(kind, scope, limit=1000))
        found += [(one["workflow_id"], one["id"], one["_etag"]) for one in page.items]
    blobs = await people.services.blobs.list(f"documents/{scope}/")
    return found + [(blob.name, blob.etag) for blob in blobs.items]


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        *((name, "removed") for name in CHANGING),
        *((name, "demoted") for name in CHANGING if name.startswith(KEPT_FROM_USERS)),
    ],
)
async def test_a_role_lost_after_the_decision_counts_at_the_accept(
    people: People, monkeypatch: pytest.MonkeyPatch, name: str, lost: str
) -> None:
    """Guards the last look: the request was let in, then its sender lost the role; nothing changes any more."""
    body, active = CHANGING[name]
    group = await people.group()
    scene = await people.scene(f"group:{group}", active=active)
    await people.document(scene.scope)
    before = await everything(people, scene.scope)
    decide = api.decide

    async def then_lose_the_role(*about: Any) -> Grant:
        grant = await decide(*about)
        monkeypatch.setattr(api, "decide", decide)
        if lost == "removed":
            await people.app.call("groups_remove_member", "olga", gid=group, oid="adam")
        else:
            await people.app.call("groups_set_member", "olga", {"role": Role.USER}, gid=group, oid="adam")
        return grant

    monkeypatch.setattr(api, "decide", then_lose_the_role)
    reply = await call(people, name, "adam", group, scene, body)
    expected = (404, "group_not_found") if lost == "removed" else (403, "role_required")
    assert (reply.status, reply.code) == expected, reply
    assert await everything(people, scene.scope) == before
    if lost == "removed":
        again = await call(people, name, "olga", group, scene, body)
        assert again.status < 300, again


async def test_a_member_who_waits_for_a_run_is_not_told_its_end_once_removed(people: People) -> None:
    """Guards a request that is held open: sight ends at once; the run that it started goes on."""
    group = await people.group()
    scene = await people.scene(f"group:{group}", active=False)
    waiting = asyncio.create_task(call(people, "group_run_start", "ulli", group, scene, {"wait": 10}))

    async def active() -> str | None:
        workflow = await people.store.inner.get(scene.partition, "workflow")
        run_id: str | None = workflow["runtime"]["active_run_id"]
        return run_id

    run_id = await eventually(active)
    assert (await people.app.call("groups_remove_member", "olga", gid=group, oid="ulli")).status == 204
    run = await people.store.inner.get(scene.partition, run_id)
    assert run["status"] == "queued", "removing a member stopped a run"
    assert (await call(people, "group_run_cancel", "olga", group, replace(scene, run_id=run_id), {})).status == 200
    reply = await waiting
    assert (reply.status, reply.code) == (404, "group_not_found")


async def test_a_workflow_that_is_created_while_its_group_is_deleted_is_not_left_behind(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a workflow, perhaps with a schedule, that nobody but operators could ever see or stop."""
    group = await people.group()
    recording = RecordingStore(people.store.inner)

    async def delete_the_group(ops: Any) -> None:
        if any(isinstance(op, Create) and op.document["type"] == "workflow" for op in ops):
            recording.before = None
            assert (await people.app.call("groups_delete", "olga", gid=group)).status == 204

    recording.before = delete_the_group
    monkeypatch.setattr("shared.services._services", replace(people.services, store=recording))  # type: ignore[arg-type]
    reply = await people.app.call("group_workflows_create", "adam", DEFINITION, query={"group_id": group})
    assert (reply.status, reply.code) == (404, "group_not_found")
    assert recording.before is None
    assert await everything(people, f"group:{group}") == []


async def test_a_member_who_watches_sees_nothing_of_what_happens_after_they_were_removed(people: People) -> None:
    """Guards a stream's window: it is held open until there is news, and the news is not theirs any more."""
    group = await people.group()
    scene, query = await people.scene(f"group:{group}", active=False), {"group_id": group}
    snapshot = await people.app.call("group_live_activity", "ulli", query=query, wid=scene.workflow_id)
    after = {**query, "after": snapshot.body["feed"]}
    people.store.asked.clear()
    watching = asyncio.create_task(people.app.call("group_live_stream", "ulli", query=after, wid=scene.workflow_id))
    other = asyncio.create_task(people.app.call("group_live_stream", "dora", query=after, wid=scene.workflow_id))
    await eventually(lambda: people.store.asked.count(("get", "group", "group")) == 2, what="both were let in")
    await people.app.call("groups_remove_member", "olga", gid=group, oid="ulli")
    await people.begin(scene.partition)
    assert (await other).status == 200
    reply = await watching
    assert (reply.status, reply.code) == (404, "group_not_found")


class JitteryStore(WatchedStore):
    """A store whose every answer may be late."""

    def __init__(self, inner: Any, seed: int) -> None:
        super().__init__(inner)
        self.random = random.Random(seed)

    async def _late(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 5, 25))):
            await asyncio.sleep(0)

    async def get(self, partition: Partition, document_id: str) -> Document:
        await self._late()
        return await super().get(partition, document_id)

    async def transact(self, partition: Partition, ops: Any) -> list[Document | None]:
        await self._late()
        done = await super().transact(partition, ops)
        await self._late()
        return done


@pytest.mark.parametrize("seed", range(30))
async def test_a_cancel_and_the_loss_of_its_senders_role_are_ordered(
    people: People, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Guards the race: either the cancel was accepted, whole, or it changed nothing; after the removal none is."""
    group = await people.group()
    scene = await people.scene(f"group:{group}", active=True)
    jittery = JitteryStore(people.store.inner, seed)
    monkeypatch.setattr("shared.services._services", replace(people.services, store=jittery))  # type: ignore[arg-type]

    async def remove() -> Reply:
        return await people.app.call("groups_remove_member", "olga", gid=group, oid="ulli")

    async def cancel() -> Reply:
        name = ("group_run_cancel", "alias_stop", "group_run_cancel_active")[seed % 3]
        return await call(people, name, "ulli", group, scene, {"reason": "mine"})

    async def remove_then_cancel() -> Reply:
        assert (await remove()).status == 204
        return await cancel()

    cancelled, afterwards = await asyncio.gather(cancel(), remove_then_cancel())
    assert afterwards.status == 404, afterwards
    run = await people.store.inner.get(scene.partition, scene.run_id)
    if cancelled.status in (200, 202):
        assert (run["status"], run["cancel"]["requested_by"]["id"]) == ("cancelled", "ulli")
    else:
        assert cancelled.status == 404
        assert (run["status"], run["cancel"]) == ("running", None)
    assert (await call(people, "group_run_cancel", "dora", group, scene, {})).status == 200


async def test_what_is_turned_off_can_be_seen_cancelled_and_deleted(people: People) -> None:
    """Guards the two settings: nothing new is written or started, and nobody is left with a run that can't be stopped."""
    group = await people.group()
    group_scene = await people.scene(f"group:{group}", active=True)
    own = await people.scene("user:pia", active=True)
    for scope, setting in (("personal", "personal_workflows"), ("group", "group_workflows")):
        people.services.settings = replace(
            people.services.settings, **{"personal_workflows": True, "group_workflows": True, setting: False}
        )
        for kind, user, prefix, query, scene in (
            ("personal", "pia", "", {}, own),
            ("group", "olga", "group_", {"group_id": group}, group_scene),
        ):
            route = {"wid": scene.workflow_id, "rid": scene.old}
            for name in ("workflows_create", "workflows_replace", "workflows_merge", "run_start", "run_resume"):
                body = DEFINITION if name != "workflows_merge" else {"description": "new"}
                reply = await people.app.call(
                    prefix + name, user, body if "workflows" in name else {}, query=query, **route
                )
                off = (reply.status, reply.code) == (403, "workflows_off")
                assert off is (kind == scope), (scope, prefix + name, reply)
            assert (await people.app.call(prefix + "workflows_get", user, query=query, **route)).status == 200
    people.services.settings = replace(people.services.settings, personal_workflows=False)
    for user, prefix, query, scene in (("pia", "", {}, own), ("olga", "group_", {"group_id": group}, group_scene)):
        cancelled = await people.app.call(prefix + "run_cancel_active", user, {}, query=query, wid=scene.workflow_id)
        assert cancelled.status == 200
        deleted = await people.app.call(prefix + "workflows_delete", user, query=query, wid=scene.workflow_id)
        assert deleted.status == 204
