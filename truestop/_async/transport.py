"""Sends requests, again where that is safe, and reads lists page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import httpx

from truestop._protocol import PAGE, TIMEOUT, Attempts, Connection, Request, body_of
from truestop.errors import Unreachable
from truestop.models import View

V = TypeVar("V", bound=View)


class AsyncTransport:
    """A connection pool to one server. Clients of several groups may share it."""

    def __init__(self, patience: float, transport: httpx.AsyncBaseTransport | None) -> None:
        self.patience = patience
        self.http = httpx.AsyncClient(timeout=TIMEOUT, transport=transport)

    async def send(self, connection: Connection, request: Request) -> httpx.Response:
        """The answer to a request. Raises `Problem`, `UnexpectedAnswer`, `Unreachable`."""
        attempts = Attempts(request, connection.server, self.patience)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self.http.request(**request.arguments(connection))
            except httpx.TransportError as error:
                outcome = error
            pause = attempts.pause(outcome)
            if pause is None:
                return attempts.finish(outcome)
            await asyncio.sleep(pause)

    async def once(self, connection: Connection, request: Request) -> httpx.Response:
        """Whatever is answered to one attempt. Raises `Unreachable`."""
        try:
            return await self.http.request(**request.arguments(connection))
        except httpx.TransportError as error:
            raise Unreachable(connection.server, 1, 0.0, str(error) or type(error).__name__) from error


class AsyncResource:
    """A part of the client: what it is connected to, and as whom."""

    def __init__(self, transport: AsyncTransport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self._transport.send(self._connection, Request(method, path, **more))

    async def _json(self, method: str, path: str, **more: Any) -> Any:
        return body_of(await self._send(method, path, **more))

    async def _pages(self, kind: type[V], path: str, **query: str | None) -> AsyncIterator[V]:
        """Each entry of a list that `query` filters; a page is read when it is needed."""
        params = {name: value for name, value in query.items() if value is not None} | {"limit": PAGE}
        while True:
            page = await self._json("GET", path, params=params)
            for one in page["items"]:
                yield kind.of(one)
            if page["next"] is None:
                return
            params["after"] = page["next"]
