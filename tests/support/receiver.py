"""A receiver of webhooks on this machine, which answers as a test says and keeps what came."""

from __future__ import annotations

import asyncio
import email
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

from tests.support.scripted_http import Request, response, scripted

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="


@dataclass
class Receiver:
    """`statuses`: how the next requests are answered; when none is left, 200. `silent`: it takes them and says nothing."""

    url: str
    requests: list[Request]
    statuses: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False

    def settings(self, *events: str, name: str = "ops") -> dict[str, Any]:
        """The workflow's webhook that leads here."""
        return {"name": name, "url": self.url, "events": list(events), "secret": SECRET}

    def messages(self) -> list[Any]:
        """What came, verified as a receiver would."""
        return [Webhook(SECRET).verify(one.body, headers_of(one)) for one in self.requests]

    def ids(self) -> list[str]:
        """The `webhook-id` of all that came."""
        return [headers_of(one)["webhook-id"] for one in self.requests]


def headers_of(request: Request) -> dict[str, str]:
    """A request's headers, in lower case."""
    parsed = email.message_from_string(request.head.partition("\r\n")[2])
    return {name.lower(): value for name, value in parsed.items()}


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver at work."""
    receiver = Receiver("", [])

    async def answer(_request: Request) -> bytes:
        if receiver.silent:
            await asyncio.Event().wait()
        status = receiver.statuses.pop(0) if receiver.statuses else "200 OK"
        return response(status, b"ignored", receiver.headers)

    async with scripted(answer) as (port, requests):
        receiver.url, receiver.requests = f"http://127.0.0.1:{port}/hook?key=of-the-address", requests
        yield receiver
