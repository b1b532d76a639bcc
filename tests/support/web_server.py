"""A web server on loopback that answers as a test says: lies, stalls, drips, bombs and redirects."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from shared import web
from shared.errors import StepFailed
from shared.web import CheckedClient, FetchLimits, fetch

LOCAL = FetchLimits(allow_private=True, seconds=10)
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server on loopback that shows what it heard and whether its peer has hung up."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    sni: list[str] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(
    handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve one request a connection with `handler(request head, writer)`; then wait for the peer to hang up."""
    server = Server()
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: server.sni.append(name)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            server.requests.append(head)
            work = asyncio.ensure_future(handler(head, writer))
            gone = asyncio.ensure_future(reader.read())
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                server.hung_up.set()
            for one in (work, gone):
                one.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(
    body: bytes = b"hello", status: str = "200 OK", headers: Sequence[str] = ("Content-Type: text/plain",)
) -> Handler:
    """A handler that always gives the same answer."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        lines = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}", "Connection: close"))
        writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    return handler


def dripping(piece: bytes = b"x", head: bytes = b"HTTP/1.1 200 OK\r\n\r\n", pause: float = 0.01) -> Handler:
    """A handler that sends a piece every now and then, for ever."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return handler


async def failure(url: str, limits: FetchLimits = LOCAL, client: CheckedClient | None = None) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        await fetch(url, limits=limits, client=client)
    return caught.value


def resolving(*answers: Sequence[str]) -> tuple[web.Resolver, list[str]]:
    """A resolver that gives these answers in turn (the last for ever), and what it was asked."""
    asked: list[str] = []

    async def resolver(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolver, asked
