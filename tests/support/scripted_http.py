"""An HTTP server on this machine that answers as a test says: busy, wrong, cut off, or not at all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. `number` counts from 1."""

    number: int
    method: str
    target: str
    head: str
    body: bytes


Answer = Callable[[Request], bytes | Awaitable[bytes | None] | None]
"""The bytes to answer with; None cuts the connection, which otherwise stays open."""


def response(status: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """An HTTP/1.1 response. One whose `Content-Length` says more than `body` holds is cut there."""
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    return (
        "\r\n".join([f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in lines.items()), "", ""]).encode()
        + body
    )


@asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[tuple[int, list[Request]]]:
    """The server's port, and the requests so far."""
    asked: list[Request] = []
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            whole = True
            while whole:
                asked.append(await _read(reader, len(asked) + 1))
                said = answer(asked[-1])
                if isinstance(said, Awaitable):
                    said = await said
                whole = await _write(writer, asked[-1], said)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # who asked is gone, or the test is over
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(talk(reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader, number: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, target, _ = head.split(" ", 2)
    return Request(number, method, target, head, await reader.readexactly(_length(head)))


async def _write(writer: asyncio.StreamWriter, request: Request, said: bytes | None) -> bool:
    """Whether the answer was whole, so that the connection may go on."""
    if said is None:
        return False
    head, _, body = said.partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n" + (b"" if request.method == "HEAD" else body))
    await writer.drain()
    return request.method == "HEAD" or len(body) == _length(head.decode())


def _length(head: str) -> int:
    match = re.search(r"(?i)\r\ncontent-length: (\d+)", head)
    return int(match[1]) if match else 0
