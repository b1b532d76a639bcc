"""Machines' keys: what a key opens, what it never does, and that it ends when it should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import time_machine

from shared.permissions import DECLARED, OPERATOR_ROLE, Role, Rule
from shared.store.port import Query
from tests.support.inprocess import Reply, http_functions
from tests.support.people import People, Scene, open_people

ALL = ["start", "read", "cancel"]


@pytest_asyncio.fixture
async def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[People]:
    async with open_people(tmp_path, monkeypatch, keys_max="3") as one:
        yield one


async def make(people: People, allows: list[str], *, user: str = "pia", group: str | None = None, **body: Any) -> Any:
    """A new key's answer."""
    given = {"name": "-".join(allows), "allows": allows, **body}
    where = {"gid": group} if group else {}
    reply = await people.app.call("groups_keys_make" if group else "keys_make", user, given, **where)
    assert reply.status == 201, reply
    return reply.body


async def use(people: People, key: str, name: str, body: Any = None, **more: Any) -> Reply:
    """Call a route with a key, and nobody signed in."""
    return await people.app.call(name, None, body, headers={"Authorization": f"Bearer {key}"}, **more)


async def at(people: People, key: str, name: str, scene: Scene, **more: Any) -> Reply:
    """Call a route about a scene with a key."""
    rid = scene.run_id or scene.old
    body = {} if "cancel" in name or "run_" in name else None
    return await use(people, key, name, body, wid=scene.workflow_id, rid=rid, **more)


async def test_a_key_opens_what_it_allows_and_nothing_else(people: People) -> None:
    """Guards the scopes of keys, over every route of the app: each key, each route."""
    scene = await people.scene("user:pia", active=True)
    opened: dict[str, set[str]] = {}
    for allowed in ALL:
        key = (await make(people, [allowed]))["key"]
        opened[allowed] = set()
        for name in http_functions():
            route = {"wid": scene.workflow_id, "rid": scene.old, "id": "x", "gid": "x", "oid": "x", "path": "s01"}
            reply = await use(people, key, name, {}, **route)
            if (reply.status, reply.code) != (403, "key_scope"):
                opened[allowed].add(name)
    anyone = {name for name in http_functions() if DECLARED[name].rule is Rule.ANYONE}
    assert opened["start"] == {"run_start", "run_resume"} | anyone
    cancels = {"run_cancel", "run_cancel_active", "execution_cancel"}
    assert opened["cancel"] == cancels | {name for name in http_functions() if name.startswith("alias_")} | anyone
    assert {"workflows_get", "runs_list", "runs_events", "documents_read"} <= opened["read"]
    for name in opened["read"] - anyone:
        assert http_functions()[name].trigger.methods[0].value == "GET", name


async def test_what_a_key_does_names_its_person_and_itself(people: People) -> None:
    """Guards accountability: a run and a cancel say which key asked for them."""
    scene = await people.scene("user:pia", active=False)
    key = (await make(people, ALL))["key"]
    started = await at(people, key, "run_start", scene)
    assert started.status == 202, started
    by = {"id": "pia", "name": "Pia", "key": "start-read-cancel"}
    assert started.body["requested_by"] == by
    receipt = await use(people, key, "alias_cancel", {}, rid=started.body["id"])
    assert (receipt.status, receipt.body["requested_by"]) == (200, by)


async def test_a_key_is_no_use_elsewhere(people: People) -> None:
    """Guards scopes: a personal key opens no group, a group's key neither its maker's own scope nor another group."""
    group, other = await people.group(), await people.group()
    mine, ours = await people.scene("user:olga", active=True), await people.scene(f"group:{group}", active=True)
    theirs = await people.scene(f"group:{other}", active=True)
    personal = (await make(people, ALL, user="olga"))["key"]
    shared = (await make(people, ALL, user="olga", group=group))["key"]
    assert (await at(people, personal, "runs_get", mine)).status == 200
    assert (await at(people, personal, "group_runs_get", ours, query={"group_id": group})).code == "key_scope"
    assert (await at(people, shared, "group_runs_get", ours)).status == 200
    assert (await at(people, shared, "group_runs_get", ours, query={"group_id": group})).status == 200
    assert (await at(people, shared, "group_runs_get", theirs, query={"group_id": other})).code == "key_scope"
    assert (await at(people, shared, "runs_get", mine)).code == "key_scope"
    for key, run in ((personal, ours), (shared, mine), (shared, theirs)):
        assert (await use(people, key, "alias_cancel", {}, rid=run.run_id or "")).code == "run_not_found"
    assert (await use(people, shared, "alias_cancel", {}, rid=ours.run_id or "")).status == 200


async def test_a_key_may_no_more_than_its_maker_may_now(people: People) -> None:
    """Guards leaving: who is removed from a group can't come back with a key."""
    group = await people.group()
    scene = await people.scene(f"group:{group}", active=True)
    key = (await make(people, ALL, user="adam", group=group))["key"]
    assert (await at(people, key, "group_runs_get", scene)).status == 200
    await people.app.call("groups_remove_member", "olga", gid=group, oid="adam")
    for name in ("group_runs_get", "group_run_cancel", "group_run_start", "alias_cancel"):
        assert (await at(people, key, name, scene)).code == "group_not_found", name
    await people.app.call("groups_set_member", "olga", {"role": Role.USER}, gid=group, oid="adam")
    assert (await at(people, key, "group_runs_get", scene)).status == 200


async def test_a_revoked_key_opens_nothing(people: People) -> None:
    """Guards revocation, also between the read of a key and the accept."""
    scene = await people.scene("user:pia", active=True)
    made = await make(people, ALL)
    before = people.store.get

    async def revoke_after(partition: Any, document_id: str) -> Any:
        found = await before(partition, document_id)
        if document_id == scene.run_id:
            people.store.get = before  # type: ignore[method-assign]
            assert (await people.app.call("keys_revoke", "pia", id=made["id"])).status == 204
        return found

    people.store.get = revoke_after  # type: ignore[method-assign]
    late = await at(people, made["key"], "run_cancel", scene)
    assert (late.status, late.code) == (401, "unauthenticated")
    assert (await people.store.get(scene.partition, str(scene.run_id)))["status"] == "running"
    assert (await at(people, made["key"], "runs_get", scene)).status == 401
    assert (await people.app.call("keys_revoke", "pia", id=made["id"])).code == "key_not_found"
    events = (await people.app.call("keys_events", "pia", id=made["id"])).body["items"]
    assert [one["type"] for one in events] == ["key.revoked", "key.used", "key.created"]


async def test_an_expired_key_opens_nothing_and_makes_room(people: People) -> None:
    """Guards expiry, and the bound on keys."""
    scene = await people.scene("user:pia", active=True)
    with time_machine.travel("2026-01-01T00:00:00Z", tick=True):
        old = [await make(people, ["read"], name=f"k{n}", expires_in_days=1) for n in range(3)]
        assert (await at(people, old[0]["key"], "runs_get", scene)).status == 200
        full = await people.app.call("keys_make", "pia", {"name": "k4", "allows": ["read"]})
        assert full.code == "too_many_keys"
    assert (await at(people, old[0]["key"], "runs_get", scene)).status == 401
    assert [one["expired"] for one in (await people.app.call("keys_list", "pia")).body["items"]] == [True] * 3
    await make(people, ["read"], name="k0")
    assert [one["name"] for one in (await people.app.call("keys_list", "pia")).body["items"]] == ["k0"]
    assert (await people.app.call("keys_make", "pia", {"name": "k0", "allows": ["read"]})).code == "key_name_taken"


async def test_every_wrong_key_hears_the_same(people: People) -> None:
    """Guards against probing: what is wrong with a key is nobody's business."""
    key: str = (await make(people, ALL))["key"]
    place, key_id, secret = key.split(".")
    wrong = [
        f"{place}.{key_id}.{'x' * 43}",
        f"{place}.{key_id[:-1]}{'0' if key_id[-1] != '0' else '1'}.{secret}",
        f"truestop_dXNlcjpib2I.{key_id}.{secret}",
        f"truestop_!!.{key_id}.{secret}",
        f"truestop_Li4vLi4.{key_id}.{secret}",
        "truestop_",
        f"{key}.more",
        f"truestop_{'A' * 5000}.{key_id}.{secret}",
    ]
    replies = [await use(people, one, "workflows_list") for one in wrong]
    assert {(reply.status, reply.body["detail"]) for reply in replies} == {(401, replies[0].body["detail"])}
    assert (await use(people, key, "workflows_list")).status == 200


async def test_a_bearer_token_that_is_no_key_of_ours_changes_nothing(people: People) -> None:
    """Guards the platform's own sign-in, which also uses that header."""
    headers = {"Authorization": "Bearer eyJhbGciOi"}
    assert (await people.app.call("workflows_list", "pia", headers=headers)).status == 200
    assert (await people.app.call("workflows_list", None, headers=headers)).status == 401


async def test_a_secret_is_shown_once_and_kept_nowhere(people: People) -> None:
    """Guards against a leaked store: no document and no answer holds what would open anything."""
    made = await make(people, ALL)
    secret = made["key"].rpartition(".")[2]
    listed = await people.app.call("keys_list", "pia")
    kept = [one for kind in ("keys", "key_event") for one in (await people.store.query(Query(kind, None))).items]
    assert len(kept) == 2
    assert secret not in json.dumps([kept, listed.body])
    assert "hash" not in json.dumps(listed.body)


async def test_uses_are_noted_once_a_minute(people: People) -> None:
    """Guards the record against a machine that asks every second, and against a use that leaves no trace."""
    made = await make(people, ALL)
    with time_machine.travel("2026-11-21T12:00:00Z", tick=False) as clock:
        for _ in range(3):
            await asyncio.gather(*(use(people, made["key"], "workflows_list") for _ in range(3)))
            clock.shift(25)
    used = (await people.app.call("keys_events", "pia", id=made["id"])).body["items"]
    assert [one["type"] for one in used].count("key.used") == 1
    (listed,) = (await people.app.call("keys_list", "pia")).body["items"]
    assert listed["last_used_at"] == "2026-11-21T12:00:00.000Z"


async def test_only_who_may_manage_a_group_makes_keys_for_it_and_an_operators_key_is_no_operator(
    people: People,
) -> None:
    """Guards the routes of keys; that no key brings an application role along."""
    group = await people.group()
    for user, status in (("ulli", 403), ("dora", 403), ("pia", 404)):
        reply = await people.app.call("groups_keys_make", user, {"name": "k", "allows": ["read"]}, gid=group)
        assert reply.status == status, user
    reply = await people.app.call("keys_make", "op", {"name": "k", "allows": ALL}, roles=(OPERATOR_ROLE,))
    assert (await use(people, reply.body["key"], "admin_runs")).code == "key_scope"


async def test_deleting_a_group_removes_its_keys(people: People) -> None:
    """Guards what stays behind."""
    group = await people.group()
    key = (await make(people, ALL, user="olga", group=group))["key"]
    assert (await people.app.call("groups_delete", "olga", gid=group)).status == 204
    assert (await use(people, key, "group_workflows_list")).status == 401
    assert (await people.store.query(Query("keys", None))).items == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "k", "allows": []},
        {"name": "k", "allows": ["write"]},
        {"name": "", "allows": ["read"]},
        {"name": "k\n", "allows": ["read"]},
        {"name": "k", "allows": ["read"], "expires_in_days": 0},
        {"name": "k", "allows": ["read"], "expires_in_days": 366},
        {"name": "k", "allows": ["read"], "more": 1},
    ],
)
async def test_a_key_is_asked_for_in_full(people: People, body: Any) -> None:
    """Guards against a key that lives or opens more than was meant."""
    reply = await people.app.call("keys_make", "pia", body)
    assert (reply.status, reply.code) == (422, "invalid")
