"""People with their workflows, alone and in a group: what tests of rights need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from shared import groups, workflows
from shared.documents import Documents
from shared.executions import RunRef, run_ref
from shared.identity import Caller
from shared.ids import new_ulid
from shared.permissions import Role
from shared.runs import CancelRequest, request_cancel
from shared.services import Services
from shared.starting import Start, begin_run, start_run
from shared.store.port import Document, Partition
from tests.support.inprocess import App
from tests.support.world import open_world

DEFINITION = {"name": "A workflow", "steps": [{"kind": "model", "name": "write", "prompt": "x"}]}
DOCUMENT = "notes/a.txt"
MEMBERS = {"olga": Role.OWNER, "adam": Role.ADMIN, "dora": Role.DOCUMENT_MANAGER, "ulli": Role.USER}
"""A group's members."""


class WatchedStore:
    """A store that notes what is asked of it: the method, and the kinds of documents and partitions, without their names."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.asked: list[tuple[str, ...]] = []

    async def get(self, partition: Partition, document_id: str) -> Document:
        self.asked.append(("get", partition.scope.partition(":")[0], document_id[:5]))
        found: Document = await self.inner.get(partition, document_id)
        return found

    async def query(self, query: Any) -> Any:
        self.asked.append(("query", query.type, *(condition.field for condition in query.where)))
        return await self.inner.query(query)

    async def transact(self, partition: Partition, ops: Any) -> list[Document | None]:
        self.asked.append(("transact", *(type(op).__name__ for op in ops)))
        done: list[Document | None] = await self.inner.transact(partition, ops)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass(frozen=True)
class Scene:
    """A workflow with a cancelled run `old`, and perhaps one at work."""

    scope: str
    workflow_id: str
    old: str
    run_id: str | None

    @property
    def partition(self) -> Partition:
        """Where it is."""
        return Partition(self.scope, self.workflow_id)


@dataclass
class People:
    """The app in this process, and what is in its store."""

    services: Services
    store: WatchedStore
    app: App

    async def group(self, **members: Role) -> str:
        """A new group of these members (default: `MEMBERS`)."""
        chosen = members or MEMBERS
        owner = next(name for name, role in chosen.items() if role is Role.OWNER)
        made = await groups.create(self.services, Caller(owner, owner.title()), "A group")
        for name, role in chosen.items():
            if name != owner:
                await groups.set_member(
                    self.services, Caller(owner, owner.title()), made["group_id"], name, role, name.title()
                )
        return str(made["group_id"])

    async def scene(self, scope: str, *, active: bool) -> Scene:
        """A new workflow of a scope, with a cancelled run; `active`: and another that is running."""
        workflow = await workflows.create(self.services, scope, DEFINITION)
        partition = Partition(scope, workflow["workflow_id"])
        old = await self.begin(partition)
        await request_cancel(self.services, partition, old.run_id, CancelRequest({"id": "x", "name": "X"}))
        run_id = (await self.begin(partition)).run_id if active else None
        return Scene(scope, workflow["workflow_id"], old.run_id, run_id)

    async def begin(self, partition: Partition, run_id: str | None = None) -> RunRef:
        """Start a run and let it begin."""
        workflow, run_id = await workflows.get(self.services, partition), run_id or new_ulid()
        start = Start(run_id, run_id, None, {"id": "x", "name": "X"})
        run, _ = await start_run(self.services, partition, workflow, start)
        await begin_run(self.services, run_ref(run), run)
        return run_ref(run)

    async def document(self, scope: str) -> None:
        """A document of a scope."""
        await Documents(self.services.blobs, scope).put(DOCUMENT, b"text", "text/plain")


@asynccontextmanager
async def open_people(directory: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> AsyncIterator[People]:
    """People on `directory`, signed in by the platform; `settings` as of `open_world`."""
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "true")
    async with open_world(directory, **settings) as world:
        store = WatchedStore(world.store)
        services = replace(world.services, store=store)  # type: ignore[arg-type]
        monkeypatch.setattr("shared.services._services", services)
        yield People(services, store, App())
