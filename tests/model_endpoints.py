"""A model client with what its calls handed over, and servers that misbehave."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from shared.cancellation import CancelToken, set_current
from shared.errors import StepFailed
from shared.model_answers import ModelAnswer
from shared.model_client import ModelClient, ModelRequest

KEY = "sk-very-secret-key"


@dataclass
class Model:
    """A client of an endpoint, and what its calls handed over."""

    client: ModelClient
    base: str
    token: CancelToken = field(default_factory=CancelToken)
    text: list[str] = field(default_factory=list)

    def ask(self, prompt: str, **more: Any) -> asyncio.Task[ModelAnswer]:
        """A call as an operation makes it: in a task whose ambient token is ours."""
        request = ModelRequest([{"role": "user", "content": prompt}], **more)
        context = contextvars.copy_context()
        context.run(set_current, self.token)
        return asyncio.create_task(self.client.complete(request, self.text.append), context=context)

    async def failure(self, prompt: str = "x", **more: Any) -> StepFailed:
        with pytest.raises(StepFailed) as failed:
            await self.ask(prompt, **more)
        assert KEY not in repr(failed.value)
        assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)
        return failed.value

    async def log(self) -> list[dict[str, Any]]:
        async with httpx.AsyncClient(trust_env=False) as http:
            found: list[dict[str, Any]] = (await http.get(f"{self.base}/dev/model/log")).json()
        return found

    async def ended(self) -> list[dict[str, Any]]:
        found = await self.log()
        return found if found and all(entry["how"] != "open" for entry in found) else []


@asynccontextmanager
async def model_at(endpoint: str, **settings: Any) -> AsyncIterator[Model]:
    chosen: dict[str, Any] = {"api_key": KEY, "default_model": "default", "read_timeout": 5.0} | settings
    client = ModelClient(endpoint=endpoint, **chosen)
    try:
        yield Model(client, endpoint.removesuffix("/dev/model/v1"))
    finally:
        await client.close()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def misbehaving(handler: Handler) -> AsyncIterator[str]:
    """A server that reads one request a connection and then does what `handler` does. Answers its base URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(lines.get(b"content-length", b"0")))
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await server.wait_closed()


def saying(payload: bytes, status: str = "200 OK", kind: str = "text/event-stream") -> Handler:
    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + payload)
        await writer.drain()

    return handler
