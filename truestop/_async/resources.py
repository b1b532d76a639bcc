"""The parts of a client: workflows, runs, documents, groups, what operators may, and keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from truestop._async.run import AsyncRun
from truestop._async.transport import AsyncResource
from truestop._protocol import given, if_match, named, path
from truestop.models import Cancels, DocumentInfo, Group, Key, NarrowReceipt, Receipt, RunState, Workflow


class AsyncWorkflows(AsyncResource):
    """The workflows of the person or the group."""

    def list(
        self, *, status: str | None = None, enabled: bool | None = None, search: str | None = None
    ) -> AsyncIterator[Workflow]:
        """Workflows, newest first. `search`: a part of the name."""
        shown = None if enabled is None else str(enabled).lower()
        return self._pages(Workflow, self._connection.path("workflows"), status=status, enabled=shown, q=search)

    async def get(self, workflow_id: str) -> Workflow:
        """One workflow. Raises `NotFound`."""
        return Workflow.of(await self._json("GET", self._connection.path("workflows", workflow_id)))

    async def create(self, definition: Mapping[str, Any]) -> Workflow:
        """A new workflow. Not sent again when its answer was lost. Raises `Invalid`."""
        path = self._connection.path("workflows")
        return Workflow.of(await self._json("POST", path, json=dict(definition), repeatable=False))

    async def replace(self, workflow_id: str, definition: Mapping[str, Any], *, etag: str | None = None) -> Workflow:
        """Replace its definition. `etag`: only if it is still that one, else `RevisionChanged`. Raises `Invalid`."""
        return await self._change("PUT", workflow_id, definition, etag)

    async def patch(self, workflow_id: str, changes: Mapping[str, Any], *, etag: str | None = None) -> Workflow:
        """Change some of its definition: a JSON merge patch. `etag` as in `replace`."""
        return await self._change("PATCH", workflow_id, changes, etag)

    async def _change(self, method: str, workflow_id: str, body: Mapping[str, Any], etag: str | None) -> Workflow:
        path, headers = self._connection.path("workflows", workflow_id), if_match(etag)
        return Workflow.of(await self._json(method, path, json=dict(body), headers=headers, repeatable=etag is None))

    async def delete(self, workflow_id: str, *, etag: str | None = None) -> None:
        """Delete it. Raises `Conflict` while a run is active."""
        await self._send("DELETE", self._connection.path("workflows", workflow_id), headers=if_match(etag))

    async def cancel(
        self, workflow_id: str, reason: str | None = None, *, grace_seconds: float | None = None, force: bool = False
    ) -> Receipt:
        """Cancel its active run. Raises `NotFound` (`no_active_run`)."""
        body = given(reason=reason, grace_seconds=grace_seconds, force=force or None)
        path = self._connection.path("workflows", workflow_id, "cancel")
        return Receipt.of(await self._json("POST", path, json=body))


class AsyncRuns(AsyncResource):
    """Runs of a workflow."""

    async def list(
        self,
        workflow_id: str,
        *,
        status: str | None = None,
        trigger: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> AsyncIterator[AsyncRun]:
        """Runs, newest first; `since` and `until` are RFC 3339 times."""
        query = {"status": status, "trigger": trigger, "from": since, "to": until}
        async for state in self._pages(RunState, self._connection.path("workflows", workflow_id, "runs"), **query):
            yield AsyncRun(self._transport, self._connection, state)

    async def get(self, workflow_id: str, run_id: str) -> AsyncRun:
        """One run. Raises `NotFound`."""
        answer = await self._json("GET", self._connection.path("workflows", workflow_id, "runs", run_id))
        return AsyncRun(self._transport, self._connection, RunState.of(answer))

    async def cancel_execution(self, execution_id: str, reason: str | None = None) -> NarrowReceipt:
        """Cancel one execution of any run, by its id (`{run_id}:{path}`). Raises `NotFound`, `AlreadyFinished`."""
        answer = await self._json("POST", path("executions", execution_id, "cancel"), json=given(reason=reason))
        return NarrowReceipt.of(answer)


class AsyncDocuments(AsyncResource):
    """The documents that workflows read."""

    def list(self, prefix: str | None = None) -> AsyncIterator[DocumentInfo]:
        """Documents whose names begin with `prefix`, in order."""
        return self._pages(DocumentInfo, self._connection.path("documents"), prefix=prefix)

    async def get(self, name: str) -> bytes:
        """A document's content. Raises `ValueError`, `NotFound`."""
        return (await self._send("GET", self._connection.path("documents", *named(name)))).content

    async def put(self, name: str, content: bytes, content_type: str = "application/octet-stream") -> DocumentInfo:
        """Write a document. Raises `ValueError`, `TooLarge`."""
        path, headers = self._connection.path("documents", *named(name)), {"Content-Type": content_type}
        return DocumentInfo.of(await self._json("PUT", path, content=content, headers=headers))

    async def delete(self, name: str) -> None:
        """Delete a document. Raises `ValueError`, `NotFound`."""
        await self._send("DELETE", self._connection.path("documents", *named(name)))


class AsyncGroups(AsyncResource):
    """Groups that the caller is a member of."""

    def list(self) -> AsyncIterator[Group]:
        """Groups, newest first."""
        return self._pages(Group, path("groups"))

    async def get(self, group_id: str) -> Group:
        """One group with its members. Raises `NotFound`."""
        return Group.of(await self._json("GET", path("groups", group_id)))

    async def create(self, name: str) -> Group:
        """A new group; the caller becomes its Owner. Not sent again when its answer was lost."""
        return Group.of(await self._json("POST", path("groups"), json={"name": name}, repeatable=False))

    async def rename(self, group_id: str, name: str) -> Group:
        """Rename it."""
        return Group.of(await self._json("PATCH", path("groups", group_id), json={"name": name}))

    async def delete(self, group_id: str) -> None:
        """Delete it with its workflows and documents. Raises `Conflict` while runs are active."""
        await self._send("DELETE", path("groups", group_id))

    async def set_member(self, group_id: str, member_id: str, role: str, name: str | None = None) -> Group:
        """Add a member, or change their role: Owner, Admin, DocumentManager, User."""
        body = given(role=role, name=name)
        return Group.of(await self._json("PUT", path("groups", group_id, "members", member_id), json=body))

    async def remove_member(self, group_id: str, member_id: str) -> None:
        """Remove a member, or leave. Raises `Conflict` for the last Owner."""
        await self._send("DELETE", path("groups", group_id, "members", member_id))

    async def activate(self, group_id: str) -> None:
        """Make it the group that requests mean which name none."""
        await self._send("PUT", path("me", "active-group"), json={"group_id": group_id})


class AsyncAdmin(AsyncResource):
    """What operators may: see everyone's runs, and stop them. What they do is on record."""

    def runs(
        self,
        *,
        status: str | None = None,
        scope: str | None = None,
        workflow_id: str | None = None,
        older_than: float | None = None,
    ) -> AsyncIterator[RunState]:
        """Everyone's runs, newest first; `status` "active" (the default) or one status; `older_than` in seconds."""
        age = None if older_than is None else f"{older_than:f}"
        query = {"status": status, "scope": scope, "workflow_id": workflow_id, "older_than": age}
        return self._pages(RunState, path("admin", "runs"), **query)

    async def cancel(
        self,
        reason: str,
        *,
        run_ids: Sequence[str] | None = None,
        scope: str | None = None,
        workflow_id: str | None = None,
        older_than: float | None = None,
        grace_seconds: float | None = None,
        force: bool = False,
    ) -> Cancels:
        """Cancel the runs that are named, or all active ones that fit; `older_than=0` alone means all. Raises `Invalid`."""
        which = given(run_ids=run_ids, scope=scope, workflow_id=workflow_id, older_than=older_than)
        body = {"reason": reason, **which, **given(grace_seconds=grace_seconds, force=force or None)}
        return Cancels.of(await self._json("POST", path("admin", "runs", "cancel"), json=body))

    async def wedged(self) -> dict[str, Any]:
        """What may need an operator: `cancelling` past its grace, expired `leases`, `operations` in flight for too long."""
        return dict(await self._json("GET", path("admin", "wedged")))


class AsyncKeys(AsyncResource):
    """Machines' keys for one's own workflows, or for the group's. A key does what `allows` says of what its maker may."""

    def _path(self, *parts: str) -> str:
        group = self._connection.group
        return path("groups", group, "keys", *parts) if group else path("keys", *parts)

    def list(self) -> AsyncIterator[Key]:
        """Keys, oldest first, without their texts."""
        return self._pages(Key, self._path())

    async def create(self, name: str, allows: Sequence[str], *, expires_in_days: int | None = None) -> Key:
        """A new key: its `key` is in this answer and nowhere else. `allows`: of start, read, cancel."""
        body = given(name=name, allows=[*allows], expires_in_days=expires_in_days)
        return Key.of(await self._json("POST", self._path(), json=body, repeatable=False))

    async def revoke(self, key_id: str) -> None:
        """Accept it no more. Raises `NotFound`."""
        await self._send("DELETE", self._path(key_id))
