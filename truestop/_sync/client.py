# Generated from truestop/_async by `make client`: edit there.
"""The client: connects to one server as one caller."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any

import httpx

from truestop._protocol import PATIENCE, Connection, Request, body_of, given, new_run_id, path
from truestop._sync.resources import Admin, Documents, Groups, Keys, Runs, Workflows
from truestop._sync.run import Run
from truestop._sync.transport import Resource, Transport
from truestop.models import RunState


class Client(Resource):
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = Connection.of(server, token, user, group, source)
        self._connect(Transport(patience, transport), connection)

    def _connect(self, transport: Transport, connection: Connection) -> None:
        super().__init__(transport, connection)
        self.workflows = Workflows(transport, connection)
        self.runs = Runs(transport, connection)
        self.documents = Documents(transport, connection)
        self.groups = Groups(transport, connection)
        self.admin = Admin(transport, connection)
        self.keys = Keys(transport, connection)

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

    def in_group(self, group_id: str | None) -> Client:
        """The same client for the workflows of a group (None: the caller's own); both share their connections."""
        other = Client.__new__(Client)
        other._connect(self._transport, replace(self._connection, group=group_id))
        return other

    def start(self, workflow_id: str, input: Any = None, *, run_id: str | None = None) -> Run:
        """Start a run, once however often that is sent: it has an id of the caller's. Raises `WorkflowBusy`, `Invalid`."""
        body = given(input=input, run_id=run_id or new_run_id())
        answer = self._send("POST", self._connection.path("workflows", workflow_id, "run"), json=body)
        return Run(self._transport, self._connection, RunState.of(body_of(answer)))

    def me(self) -> dict[str, Any]:
        """Who the server thinks this is: id, name, roles, active_group."""
        return dict(self._json("GET", path("me")))

    def health(self) -> dict[str, Any]:
        """What is up and what is down; answers also when something is down."""
        return dict(body_of(self._transport.once(self._connection, Request("GET", path("health")))))

    def close(self) -> None:
        """Close the connections. Runs go on."""
        self._transport.http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
