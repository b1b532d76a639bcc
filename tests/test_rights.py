"""Every route, asked by every kind of caller, about a personal scope and about a group: who may, and what the others hear.

The table here was written from the specification, not from `shared/permissions.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.ids import new_ulid
from shared.permissions import OPERATOR_ROLE
from tests.support.inprocess import Reply, http_functions
from tests.support.people import DEFINITION, DOCUMENT, MEMBERS, People, Scene, open_people

ROLES_OF = {"O": "olga", "A": "adam", "D": "dora", "U": "ulli"}
EVERYONE, AUTHORS, KEEPERS = "OADU", "OA", "OAD"
SIGNED_IN = (*MEMBERS, "pia", "other", "op")
"""The group's members; who owns the personal workflow; a stranger; an operator."""


@dataclass(frozen=True)
class Row:
    """Who of a group may, by the first letters of their roles; and what a caller who may is answered."""

    may: str
    status: int
    body: Any = None
    run: str | None = None
    """Which run the route names: `active` or `old`."""
    idle: bool = False
    """It takes a workflow that nothing runs of."""
    path: str = ""


SCOPED = {
    "workflows_list": Row(EVERYONE, 200),
    "workflows_create": Row(AUTHORS, 201, DEFINITION),
    "workflows_get": Row(EVERYONE, 200),
    "workflows_replace": Row(AUTHORS, 200, DEFINITION),
    "workflows_merge": Row(AUTHORS, 200, {"description": "new"}),
    "workflows_delete": Row(AUTHORS, 204, idle=True),
    "workflows_deliveries": Row(EVERYONE, 200),
    "run_start": Row(EVERYONE, 202, {}, idle=True),
    "run_resume": Row(EVERYONE, 202, {}, run="old", idle=True),
    "run_cancel_active": Row(EVERYONE, 200, {}),
    "run_cancel": Row(EVERYONE, 200, {}, run="active"),
    "execution_cancel": Row(EVERYONE, 202, {}, run="active", path="s01"),
    "live_activity": Row(EVERYONE, 200),
    "live_stream": Row(EVERYONE, 200),
    "runs_list": Row(EVERYONE, 200),
    "runs_get": Row(EVERYONE, 200, run="active"),
    "runs_executions": Row(EVERYONE, 200, run="active"),
    "runs_items": Row(EVERYONE, 200, run="active"),
    "runs_events": Row(EVERYONE, 200, run="active"),
    "runs_cancellation": Row(EVERYONE, 200, run="old"),
    "runs_artifacts": Row(EVERYONE, 200, run="active"),
    "documents_read": Row(EVERYONE, 200, path=DOCUMENT),
    "documents_put": Row(KEEPERS, 200, b"text", path=DOCUMENT),
    "documents_delete": Row(KEEPERS, 204, path=DOCUMENT),
}
OWN_SCOPE = {"workflows_list", "workflows_create", "documents_put"}
"""Personal routes that name nothing: for everyone they are about their own scope."""
FOUND_BY_ID = {
    "alias_cancel": 200,
    "alias_workflow_cancel": 200,
    "alias_stop": 200,
    "alias_cancel_tree": 200,
    "alias_execution_cancel": 202,
}
KEY = {"name": "Build", "allows": ["start"]}
GROUP_ROUTES = {
    "groups_get": Row(EVERYONE, 200),
    "groups_rename": Row(AUTHORS, 200, {"name": "New"}),
    "groups_delete": Row("O", 204),
    "groups_set_member": Row(AUTHORS, 200, {"role": "User"}),
    "groups_remove_member": Row(AUTHORS, 204),
    "groups_keys_list": Row(AUTHORS, 200),
    "groups_keys_make": Row(AUTHORS, 201, KEY),
    "groups_keys_revoke": Row(AUTHORS, 404),
    "groups_keys_events": Row(AUTHORS, 404),
}
ABOUT_THE_CALLER = {
    "me": Row("", 200),
    "tools": Row("", 200),
    "groups_list": Row("", 200),
    "groups_create": Row("", 201, {"name": "Mine"}),
    "keys_list": Row("", 200),
    "keys_make": Row("", 201, KEY),
    "keys_revoke": Row("", 404),
    "keys_events": Row("", 404),
}
FOR_ANYONE = {"health": 503, "openapi": 200, "openapi_docs": 200, "page": 200, "page_views": 200, "page_assets": 404}
"""Without a model the service is not well, and says so to anyone. No file of the page is named."""
OPERATORS = {
    "admin_runs": Row("", 200),
    "admin_cancel": Row("", 200, {"reason": "x", "older_than": 0}),
    "admin_trail": Row("", 200, run="active"),
    "admin_export": Row("", 200, run="active"),
    "admin_wedged": Row("", 200),
    "admin_rejected": Row("", 200),
    "admin_events": Row("", 200),
    "admin_jobs": Row("", 200),
    "admin_job": Row("", 404),
    "admin_job_results": Row("", 404),
    "admin_job_stop": Row("", 404),
}
"""There is no job here: what operators hear of it, nobody else does."""
OTHERS = {"me_active_group"}
"""Of which a test of its own says who may."""


@pytest_asyncio.fixture
async def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[People]:
    async with open_people(tmp_path, monkeypatch) as one:
        yield one


def test_the_table_has_every_route() -> None:
    """Guards against a route that nobody is asked about."""
    scoped = {*SCOPED, *(f"group_{name}" for name in SCOPED)}
    assert scoped | {*FOUND_BY_ID, *GROUP_ROUTES, *OPERATORS, *ABOUT_THE_CALLER, *FOR_ANYONE} | OTHERS == set(
        http_functions()
    )


async def ask(people: People, name: str, user: str | None, row: Row, scene: Scene, group: str | None) -> Reply:
    """Call a route of a scope about a scene."""
    run = {"active": scene.run_id, "old": scene.old}.get(row.run or "") or ""
    roles = (OPERATOR_ROLE,) if user == "op" else ()
    query = {"group_id": group} if group else {}
    route = {key: value for key, value in (("wid", scene.workflow_id), ("rid", run), ("path", row.path)) if value}
    return await people.app.call(name, user, row.body, roles=roles, query=query, **route)


async def refused(people: People, name: str, user: str | None, *about: Any) -> tuple[Reply, list[tuple[str, ...]]]:
    """The refusal of a request, and what it asked of the store. It must have changed nothing."""
    people.store.asked.clear()
    reply = await ask(people, name, user, *about)
    asked = list(people.store.asked)
    assert not [one for one in asked if one[0] == "transact"], f"{name} as {user}: wrote {asked}"
    return reply, asked


def same_words(one: Reply, other: Reply) -> bool:
    """Whether two refusals differ in nothing but the path that was asked for."""
    return {**one.body, "instance": ""} == {**other.body, "instance": ""} and one.headers == other.headers


@pytest.mark.parametrize("name", SCOPED)
async def test_personal_routes_are_their_owners_alone(people: People, name: str) -> None:
    """Guards personal workflows: nobody else sees them, members of a common group and operators included."""
    row = SCOPED[name]
    scope = "user:pia"
    scene = await people.scene(scope, active=not row.idle)
    await people.document(scope)
    nowhere = Scene(scope, new_ulid(), scene.old, scene.run_id)
    assert (await refused(people, name, None, row, scene, None))[0].status == 401
    for user in SIGNED_IN:
        if user == "pia":
            continue
        if name in OWN_SCOPE:
            own = await ask(people, name, user, row, scene, None)
            assert own.status == row.status, (user, own)
            assert name != "workflows_list" or own.body["items"] == []
            continue
        reply, asked = await refused(people, name, user, row, scene, None)
        assert reply.status == 404, (user, reply)
        missing, also = await refused(people, name, user, row, nowhere, None)
        assert same_words(reply, missing), (user, reply, missing)
        assert asked == also, user
    assert (await ask(people, name, "pia", row, scene, None)).status == row.status


@pytest.mark.parametrize("name", SCOPED)
async def test_group_routes_are_for_the_roles_that_have_the_right(people: People, name: str) -> None:
    """Guards groups: each role has its rights, and who is no member can't tell the group from one that doesn't exist."""
    row = SCOPED[name]
    group = await people.group()
    scope = f"group:{group}"
    scene = await people.scene(scope, active=not row.idle)
    await people.document(scope)
    allowed = {ROLES_OF[letter] for letter in row.may}
    assert (await refused(people, f"group_{name}", None, row, scene, group))[0].status == 401
    for user in SIGNED_IN:
        if user in allowed:
            continue
        reply, asked = await refused(people, f"group_{name}", user, row, scene, group)
        if user in MEMBERS:
            assert (reply.status, reply.code) == (403, "role_required"), (user, reply)
            continue
        assert (reply.status, reply.code) == (404, "group_not_found"), (user, reply)
        missing, also = await refused(people, f"group_{name}", user, row, scene, new_ulid())
        assert same_words(reply, missing), (user, reply, missing)
        assert asked == also, user
    for user in sorted(allowed):
        if row.status in (204, 202) or "cancel" in name:
            scene = await people.scene(scope, active=not row.idle)
            await people.document(scope)
        reply = await ask(people, f"group_{name}", user, row, scene, group)
        assert reply.status == row.status, (user, reply)


@pytest.mark.parametrize("name", FOUND_BY_ID)
async def test_a_run_is_found_by_its_id_where_the_caller_has_the_right(people: People, name: str) -> None:
    """Guards the routes that name no scope: a run of anybody else is as if it did not exist."""
    group = await people.group()
    for scope, allowed in (("user:pia", {"pia"}), (f"group:{group}", set(MEMBERS))):
        scene = await people.scene(scope, active=True)

        async def call(user: str | None, at: Scene) -> Reply:
            people.store.asked.clear()
            route = {"id": f"{at.run_id}:s01"} if "execution" in name else {"rid": at.run_id or ""}
            if "workflow" in name:
                route["wid"] = at.workflow_id
            roles = (OPERATOR_ROLE,) if user == "op" else ()
            return await people.app.call(name, user, {}, roles=roles, **route)

        assert (await call(None, scene)).status == 401
        for user in SIGNED_IN:
            if user in allowed:
                continue
            reply = await call(user, scene)
            asked = list(people.store.asked)
            assert (reply.status, reply.code) == (404, "run_not_found"), (user, reply)
            missing = await call(user, Scene(scope, scene.workflow_id, "", new_ulid()))
            assert same_words(reply, missing)
            assert asked == people.store.asked
        for user in sorted(allowed):
            reply = await call(user, await people.scene(scope, active=True))
            assert reply.status == FOUND_BY_ID[name], (user, reply)


@pytest.mark.parametrize("name", GROUP_ROUTES)
async def test_the_routes_of_a_group_itself(people: People, name: str) -> None:
    """Guards who may see, rename and delete a group, and say who its members are."""
    row, group = GROUP_ROUTES[name], await people.group()

    async def call(user: str | None, gid: str, member: str) -> Reply:
        people.store.asked.clear()
        route = {"oid": member} if "member" in name else {"id": "none"} if "keys" in name else {}
        return await people.app.call(
            name, user, row.body, roles=(OPERATOR_ROLE,) if user == "op" else (), gid=gid, **route
        )

    assert (await call(None, group, "ulli")).status == 401
    for user in SIGNED_IN:
        if user in MEMBERS:
            fresh = await people.group(**MEMBERS, nils=MEMBERS["ulli"])
            reply = await call(user, fresh, "nils")
            may = user in {ROLES_OF[letter] for letter in row.may}
            assert reply.status == (row.status if may else 403), (user, reply)
            assert may or reply.code == "role_required"
            continue
        reply = await call(user, group, "ulli")
        asked = list(people.store.asked)
        missing = await call(user, new_ulid(), "ulli")
        assert (reply.status, reply.code) == (404, "group_not_found"), (user, reply)
        assert same_words(reply, missing)
        assert asked == people.store.asked


@pytest.mark.parametrize("name", [*ABOUT_THE_CALLER, *FOR_ANYONE])
async def test_routes_that_are_about_no_scope(people: People, name: str) -> None:
    """Guards the routes for everyone who has signed in, and those for anyone."""
    for user in SIGNED_IN:
        row = ABOUT_THE_CALLER.get(name) or Row("", FOR_ANYONE[name])
        assert (await people.app.call(name, user, row.body)).status == row.status, user
    assert (await people.app.call(name, None)).status == FOR_ANYONE.get(name, 401)


@pytest.mark.parametrize("name", OPERATORS)
async def test_operators_routes_are_for_operators_alone(people: People, name: str) -> None:
    """Guards everyone's runs: no role in a group, nor a run of one's own, opens them, and a refusal changes nothing."""
    row, scene = OPERATORS[name], await people.scene("user:pia", active=True)
    for user in (None, *SIGNED_IN):
        if user == "op":
            continue
        reply, asked = await refused(people, name, user, row, scene, None)
        assert (reply.status, reply.code) == ((401, "unauthenticated") if user is None else (403, "role_required"))
        assert asked == []
    assert (await ask(people, name, "op", row, scene, None)).status == row.status


async def test_the_active_group_is_one_of_the_callers_own(people: People) -> None:
    """Guards the shortcut: it is the group of a request that names none, and no way around membership."""
    group = await people.group()
    await people.scene(f"group:{group}", active=False)
    chosen = {"group_id": group}
    assert (await people.app.call("me_active_group", None, chosen)).status == 401
    for user in ("pia", "op"):
        reply = await people.app.call("me_active_group", user, chosen)
        assert (reply.status, reply.code) == (404, "group_not_found")
    none = await people.app.call("group_workflows_list", "ulli")
    assert (none.status, none.body["errors"][0]["field"]) == (422, "group_id")
    assert (await people.app.call("me_active_group", "ulli", chosen)).status == 200
    assert (await people.app.call("me", "ulli")).body["active_group"] == group
    assert len((await people.app.call("group_workflows_list", "ulli")).body["items"]) == 1
    await people.app.call("groups_remove_member", "olga", gid=group, oid="ulli")
    assert (await people.app.call("group_workflows_list", "ulli")).code == "group_not_found"
