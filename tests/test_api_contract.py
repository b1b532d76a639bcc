"""The API's description is true: every route is in it, each answer that it names occurs here, and no other does."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from pydantic import BaseModel

from http_triggers.api import MAX_JSON_BYTES, ROUTES
from http_triggers.contract import BYTES, OPERATIONS, RATE_LIMITED, operation_of, statuses_of
from http_triggers.openapi import POLICY, describe
from http_triggers.page import load
from shared.errors import Unavailable
from shared.executions import ExecutionSpec, run_ref
from shared.ids import new_ulid
from shared.names import WORKFLOW_ID, Kind
from shared.operations import begin
from shared.permissions import OPERATOR_ROLE, Place, Rule
from shared.rate_limits import RateLimits
from shared.settling import end_run
from shared.states import RunStatus
from tests.support.inprocess import Reply, http_functions
from tests.support.people import DEFINITION, DOCUMENT, People, Scene, open_people
from tests.test_rights import ABOUT_THE_CALLER, FOR_ANYONE, FOUND_BY_ID, GROUP_ROUTES, OPERATORS, SCOPED, Row

ONLY_LISTS = {"documents_read", "runs_artifacts"}
NOWHERE = "0" * 26


@pytest.fixture(autouse=True, scope="module")
def _the_app_is_loaded() -> None:
    """So that every route is registered."""
    http_functions()


def test_every_route_is_described_and_nothing_else() -> None:
    """Guards against a route that nobody wrote down, and a description of what is gone."""
    described = {one["operationId"] for path in describe()["paths"].values() for one in path.values()}
    listed = {f"{prefix}{name}_list" for prefix in ("", "group_") for name in ONLY_LISTS}
    assert described == set(http_functions()) | listed
    for name in OPERATIONS:
        assert any(operation_of(other) is OPERATIONS[name] for other in ROUTES), f"{name} describes no route"


def test_the_description_is_openapi_and_its_references_hold() -> None:
    """Guards generators and readers: a reference to nothing breaks them."""
    described = describe()
    text = json.dumps(described)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in described["components"]["schemas"], name
    assert described["openapi"] == "3.1.0"
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, methods in described["paths"].items():
        for one in methods.values():
            named = {parameter["name"] for parameter in one["parameters"] if parameter["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path


@dataclass
class Explorer:
    """Asks every route in every way, and notes what is answered."""

    people: People
    group: str
    keys: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    async def ask(self, name: str, /, user: str | None = "olga", body: Any = None, **more: Any) -> Reply:
        """Call a route, and hold the answer against its description."""
        roles = (OPERATOR_ROLE,) if user == "op" else ()
        reply = await self.people.app.call(name, user, body, roles=roles, **more)
        self.seen[name].add(reply.status)
        operation, listed = operation_of(name), "path" not in more
        assert reply.status in statuses_of(name), (name, reply)
        shape = operation.answers.get(reply.status)
        if shape is None and reply.status not in operation.answers:
            assert reply.body["status"] == reply.status, (name, reply)
            assert {"type", "title", "detail", "instance", "code"} <= set(reply.body), (name, reply)
        elif operation.items is not None and listed:
            assert set(reply.body) == {"items", "next"}, (name, reply)
        elif isinstance(shape, type) and issubclass(shape, BaseModel):
            shape.model_validate(reply.body)
        elif shape is None:
            assert not reply.body, (name, reply)
        return reply

    def place(self, name: str) -> tuple[str, dict[str, str]]:
        """The scope that a route is asked about, and how its query says so."""
        if ROUTES[name].access.place is Place.GROUP:
            return f"group:{self.group}", {"group_id": self.group}
        return "user:olga", {}

    def user(self, name: str) -> str:
        return "op" if ROUTES[name].access.rule is Rule.OPERATOR else "olga"

    def row(self, name: str) -> Row:
        """How a route is asked well."""
        for table in (SCOPED, GROUP_ROUTES, OPERATORS, ABOUT_THE_CALLER):
            if (found := table.get(name) or table.get(name.removeprefix("group_"))) is not None:
                return found
        return Row("", FOUND_BY_ID.get(name, 200), {} if name in FOUND_BY_ID else None, run="active")

    async def scene(self, name: str, *, active: bool | None = None) -> Scene:
        """A scene as the route wants it."""
        scope, _ = self.place(name)
        await self.people.document(scope)
        return await self.people.scene(scope, active=not self.row(name).idle if active is None else active)

    def named(self, name: str, scene: Scene) -> dict[str, str]:
        """The parameters of a route about a scene."""
        row, asked = self.row(name), ROUTES[name].route
        rid = (scene.old if row.run == "old" else scene.run_id) or scene.old
        node = f"{rid}:s01" if "executions/{id}" in asked else NOWHERE
        values = {"wid": scene.workflow_id, "rid": rid, "id": node, "gid": self.group, "oid": "ulli"}
        found = {one: values[one] for one in re.findall(r"\{(\w+)\}", asked) if one in values}
        return {**found, "path": row.path} if row.path else found

    async def well(self, name: str) -> None:
        """Ask as somebody who may, for something that is there."""
        row, scene = self.row(name), await self.scene(name)
        fresh = replace(self, group=await self.people.group()) if "{gid}" in ROUTES[name].route else self
        await fresh.ask(name, self.user(name), row.body, query=self.place(name)[1], **fresh.named(name, scene))

    async def badly(self, name: str) -> None:
        """Ask in every way that is refused whatever the route does."""
        row, scene, (_, query), user = self.row(name), await self.scene(name), self.place(name), self.user(name)
        named = self.named(name, scene)
        body = row.body if row.body is not None else {} if operation_of(name).body else None

        async def ask(body: Any = body, user: str | None = user, query: Any = query, **more: Any) -> None:
            await self.ask(name, user, body, query=query, **{**named, **more})

        await ask(user=None)
        rule = ROUTES[name].access.rule
        wrong = {"Authorization": f"Bearer {self.keys['read' if rule is Rule.WORKFLOW_CANCEL else 'cancel']}"}
        await ask(user=None, headers=wrong)
        for error in (Unavailable("gone"), RuntimeError("a bug")):
            with self.broken(error):
                await ask(user=None, headers=wrong)
        if ROUTES[name].method != "GET":
            await ask(headers={"Origin": "https://elsewhere.example"})
        await self.wrong_body(name, ask)
        if 422 in statuses_of(name):
            await ask(query={**query, "limit": "0", "after": "?", "group_id": self.group} if query else {"limit": "0"})
            await ask(query={}, user="pia" if query else user)
            await ask(query={**query, "after": "\x00", "scope": "x"})
        if 404 in statuses_of(name):
            nothing = {one: NOWHERE for one in named if one in ("wid", "rid", "gid", "oid", "id")}
            await ask(query={"group_id": NOWHERE} if query else {}, **nothing)
        if rule in RATE_LIMITED:
            limits, self.people.services.limits = self.people.services.limits, RateLimits(1, 1)
            await ask()
            await ask()
            self.people.services.limits = limits

    async def wrong_body(self, name: str, ask: Any) -> None:
        shape = operation_of(name).body
        if shape is None:
            return
        await ask(body=b"x" * (MAX_JSON_BYTES + 1))
        if shape == BYTES:
            await ask(body=b"")
            return
        await ask(body=b"{")
        await ask(body={"name": 7, "surprise": 1})

    @contextmanager
    def broken(self, error: Exception) -> Iterator[None]:
        """The store fails with `error`."""
        inner = self.people.store.inner

        class Broken:
            def __getattr__(self, name: str) -> Any:
                async def fail(*_: Any, **__: Any) -> Any:
                    raise error

                return fail

        self.people.store.inner = Broken()
        try:
            yield
        finally:
            self.people.store.inner = inner

    async def in_flight(self, name: str) -> Scene:
        """A scene with an operation at work."""
        scene = await self.scene(name, active=True)
        run = await self.people.store.get(scene.partition, str(scene.run_id))
        await begin(self.people.services.store, run_ref(run), [ExecutionSpec("s01.m", Kind.MODEL_CALL, "m")])
        return scene

    async def completed(self, name: str) -> Scene:
        """A scene whose run has just completed."""
        scene = await self.scene(name, active=True)
        await self.end(scene)
        return scene

    async def end(self, scene: Scene) -> None:
        run = await self.people.store.get(scene.partition, str(scene.run_id))
        await end_run(self.people.services, run_ref(run), RunStatus.COMPLETED, None)


@pytest_asyncio.fixture
async def explorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Explorer]:
    async with open_people(tmp_path, monkeypatch, document_max_bytes="2000", workflows_max="1000") as people:
        found = Explorer(people, await people.group())
        for allowed in ("read", "cancel"):
            made = await people.app.call("keys_make", "olga", {"name": allowed, "allows": [allowed]})
            found.keys[allowed] = made.body["key"]
        yield found


async def cancels(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancels of runs with work in flight, and of runs whose own end came first."""
    names = [name for name in ROUTES if ROUTES[name].access.rule is Rule.WORKFLOW_CANCEL]
    for name in names:
        query = explorer.place(name)[1]
        busy = await explorer.in_flight(name)
        named = {**explorer.named(name, busy), **({"path": "s01"} if "{path}" in ROUTES[name].route else {})}
        await explorer.ask(name, body={}, query=query, **named)
        if "active" in name:
            await cancel_active_late(explorer, name)
            continue
        ended = await explorer.completed(name)
        named = {**explorer.named(name, ended), **({"path": "s01"} if "{path}" in ROUTES[name].route else {})}
        await explorer.ask(name, body={}, query=query, **named)


async def cancel_active_late(explorer: Explorer, name: str) -> None:
    """The run ends between the look for it and its cancel."""
    scene, get = await explorer.scene(name, active=True), explorer.people.store.inner.get
    store = explorer.people.store

    async def end_after(partition: Any, document_id: str) -> Any:
        found = await get(partition, document_id)
        if document_id == WORKFLOW_ID:
            store.get = before  # type: ignore[method-assign]
            await explorer.end(scene)
        return found

    before, store.get = store.get, end_after  # type: ignore[method-assign]
    await explorer.ask(name, body={}, query=explorer.place(name)[1], wid=scene.workflow_id)


async def scoped(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is special about workflows, runs and documents."""
    for prefix in ("", "group_"):
        ask, query = explorer.ask, explorer.place(f"{prefix}workflows_list")[1]
        await ask(f"{prefix}workflows_create", body=DEFINITION, query={**query, "dry_run": "true"})
        settings = explorer.people.services.settings
        explorer.people.services.settings = replace(settings, workflows_max=1)
        await ask(f"{prefix}workflows_create", body=DEFINITION, query=query)
        explorer.people.services.settings = settings
        idle = await explorer.scene(f"{prefix}run_start")
        active = await explorer.scene(f"{prefix}runs_get")
        for name in ("workflows_replace", "workflows_merge", "workflows_delete"):
            await ask(prefix + name, body=DEFINITION, query=query, wid=idle.workflow_id, headers={"If-Match": '"99"'})
        await ask(f"{prefix}workflows_delete", query=query, wid=active.workflow_id)
        await ask(f"{prefix}run_start", body={}, query=query, wid=active.workflow_id)
        for name, more in (("run_start", {}), ("run_resume", {"rid": idle.old})):
            chosen = {"run_id": f"my-{name}"}
            for _ in range(2):
                await ask(prefix + name, body=chosen, query=query, wid=idle.workflow_id, **more)
            await ask(f"{prefix}run_cancel_active", body={}, query=query, wid=idle.workflow_id)
        await ask(f"{prefix}run_resume", body={}, query=query, wid=active.workflow_id, rid=str(active.run_id))
        await ask(f"{prefix}documents_delete", query=query, path="a//b")
        for more in ({}, {"limit": "0"}):
            await ask(f"{prefix}documents_read", query={**query, **more})
        await ask(f"{prefix}documents_read", query=query, path="none.txt")
        await ask(f"{prefix}runs_artifacts", query=query, wid=idle.workflow_id, rid=idle.old, path="none.md")
        await streams(explorer, prefix, query)


async def streams(explorer: Explorer, prefix: str, query: dict[str, str]) -> None:
    """A stream of a run that has ended: first what happened, then nothing more."""
    ended = await explorer.completed(f"{prefix}runs_get")
    following = {**query, "run_id": str(ended.run_id)}
    for _ in range(5):
        reply = await explorer.ask(f"{prefix}live_stream", query=following, wid=ended.workflow_id)
        if reply.status == 204:
            return
        following["after"] = re.findall(r"^id: (.*)$", reply.body.decode(), re.M)[-1]


async def groups(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is special about groups and keys."""
    ask, gid = explorer.ask, explorer.group
    await explorer.scene("group_runs_get")
    await ask("groups_delete", gid=gid)
    await ask("groups_set_member", body={"role": "User"}, gid=gid, oid="olga")
    await ask("groups_remove_member", gid=gid, oid="olga")
    for name, where in (("keys_make", {}), ("groups_keys_make", {"gid": gid})):
        made = [await ask(name, body={"name": "twice", "allows": ["read"]}, **where) for _ in range(2)]
        for tail in ("events", "revoke"):
            await ask(name.replace("make", tail), id=made[0].body["id"], **where)
    for chosen in (gid, NOWHERE):
        await ask("me_active_group", body={"group_id": chosen})
    monkeypatch.setattr("shared.groups.MAX_GROUPS", 0)
    await ask("groups_create", body={"name": "One more"})


async def operators(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is special about operators' routes."""
    scenes = [await explorer.scene("runs_get") for _ in range(2)]
    monkeypatch.setattr("shared.operator_cancels.BATCH", 1)
    ids = [str(one.run_id) for one in scenes]
    job = (await explorer.ask("admin_cancel", "op", {"reason": "x", "run_ids": ids})).body["job"]["id"]
    for name in ("admin_job", "admin_job_results", "admin_job_stop"):
        await explorer.ask(name, "op", id=job)
    await explorer.ask("admin_job_results", "op", id=job, query={"after": "?"})
    for _ in range(2):
        idle = await explorer.scene("runs_get", active=False)
        await explorer.people.begin(idle.partition, "same")
    for name in ("admin_trail", "admin_export"):
        await explorer.ask(name, "op", rid="same")
    await explorer.ask("admin_cancel", "op", {"reason": "x", "older_than": 0, "scope": f"user:{new_ulid()}"})


async def anyone(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes that anyone may ask."""
    for name in FOR_ANYONE:
        await explorer.ask(name, None)
    page = load()
    await explorer.ask("page_assets", None, version=page.version, name=next(iter(page.files)))

    async def probe(_self: Any) -> None:
        """The model is up."""

    monkeypatch.setattr("tests.support.world.ScriptedModel.probe", probe, raising=False)
    await explorer.ask("health", None)


async def test_every_described_answer_occurs_and_no_other(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the description, both ways: `Explorer.ask` fails on a status or a body that isn't described."""
    for name in ROUTES:
        if ROUTES[name].access.rule is not Rule.ANYONE:
            await explorer.badly(name)
            await explorer.well(name)
    for special in (cancels, scoped, operators, anyone, groups):
        await special(explorer, monkeypatch)
    never = {name: sorted(statuses_of(name) - explorer.seen[name]) for name in ROUTES}
    assert {name: missing for name, missing in never.items() if missing} == {}


async def test_the_page_to_read_it_runs_nothing(explorer: Explorer) -> None:
    """Guards the strict policy: no script, nothing from elsewhere, and each operation is on it."""
    reply = await explorer.ask("openapi_docs", None)
    text = reply.body.decode()
    assert reply.headers["Content-Security-Policy"] == POLICY
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#|/)', text)
    assert text.count("<summary><b>") == sum(len(one) for one in describe()["paths"].values())
    assert DOCUMENT not in text
