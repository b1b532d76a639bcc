"""The client: connects to one server as one caller."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any

import httpx

from truestop._async.resources import AsyncAdmin, AsyncDocuments, AsyncGroups, AsyncKeys, AsyncRuns, AsyncWorkflows
from truestop._async.run import AsyncRun
from truestop._async.transport import AsyncResource, AsyncTransport
from truestop._protocol import PATIENCE, Connection, Request, body_of, given, new_run_id, path
from truestop.models import RunState


class AsyncClient(AsyncResource):
    """A client of one server. Closing it cancels nothing.

    `server`, `token` (a machine's key), `user` (on a development host) and `group` (whose workflows are meant, rather than
    the caller's own) are taken from TRUESTOP_SERVER, TRUESTOP_TOKEN, TRUESTOP_USER and TRUESTOP_GROUP where they are not
    given. A request that gets no answer is sent again for `patience` seconds, if that is safe. Raises `ValueError`.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        user: str | None = None,
        group: str | None = None,
        patience: float = PATIENCE,
        source: str = "client",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = Connection.of(server, token, user, group, source)
        self._connect(AsyncTransport(patience, transport), connection)

    def _connect(self, transport: AsyncTransport, connection: Connection) -> None:
        super().__init__(transport, connection)
        self.workflows = AsyncWorkflows(transport, connection)
        self.runs = AsyncRuns(transport, connection)
        self.documents = AsyncDocuments(transport, connection)
        self.groups = AsyncGroups(transport, connection)
        self.admin = AsyncAdmin(transport, connection)
        self.keys = AsyncKeys(transport, connection)

    @property
    def server(self) -> str:
        """The address of the server."""
        return self._connection.server

    @property
    def patience(self) -> float:
        """Seconds for which a request that gets no answer is sent again."""
        return self._transport.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._transport.patience = seconds

    def in_group(self, group_id: str | None) -> AsyncClient:
        """The same client for the workflows of a group (None: the caller's own); both share their connections."""
        other = AsyncClient.__new__(AsyncClient)
        other._connect(self._transport, replace(self._connection, group=group_id))
        return other

    async def start(self, workflow_id: str, input: Any = None, *, run_id: str | None = None) -> AsyncRun:
        """Start a run, once however often that is sent: it has an id of the caller's. Raises `WorkflowBusy`, `Invalid`."""
        body = given(input=input, run_id=run_id or new_run_id())
        answer = await self._send("POST", self._connection.path("workflows", workflow_id, "run"), json=body)
        return AsyncRun(self._transport, self._connection, RunState.of(body_of(answer)))

    async def me(self) -> dict[str, Any]:
        """Who the server thinks this is: id, name, roles, active_group."""
        return dict(await self._json("GET", path("me")))

    async def health(self) -> dict[str, Any]:
        """What is up and what is down; answers also when something is down."""
        return dict(body_of(await self._transport.once(self._connection, Request("GET", path("health")))))

    async def close(self) -> None:
        """Close the connections. Runs go on."""
        await self._transport.http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
