"""The double on the network: a small HTTP/1.1 server in a thread of its own, which can break a connection at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http import HTTPStatus

from tests.cosmos_double.faults import Fault, Trouble
from tests.cosmos_double.protocol import KEY, Account, Request, Response, refusal

STALL_SECONDS = 30


class Double:
    """A running double: where it is, and the trouble that it makes."""

    def __init__(self) -> None:
        self.account = Account()
        self.key = KEY
        self.port = 0
        self.ready = threading.Event()
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def endpoint(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def trouble(self) -> Trouble:
        """What it does wrong."""
        return self.account.trouble

    async def serve(self) -> None:
        """Serve until `stop`."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=64 * 1024 * 1024)
        self.port = server.sockets[0].getsockname()[1]
        self.account.endpoint = self.endpoint
        self.ready.set()
        await self._stop.wait()
        server.close()
        for writer in list(self._clients):
            writer.transport.abort()
        await server.wait_closed()

    def stop(self) -> None:
        """End `serve`, from another thread."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while (request := await _read(reader)) is not None:
                    if not await self._answer(request, reader, writer):
                        break
        finally:
            self._clients.discard(writer)
            writer.transport.abort()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. False: the connection ends here."""
        fault = self.trouble.meet(request.kind) or Fault(applied=True)
        response = self.account.answer(request) if fault.applied else refusal(500, "not reached")
        if fault.status is not None:
            response = refusal(fault.status, "as the test asked")
            response.headers |= dict(fault.headers)
        if fault.operation is not None:
            rest = [{"statusCode": 424} for _ in json.loads(request.body)[1:]]
            response = Response(207, [{"statusCode": fault.operation}, *rest])
        if fault.then == "cut":
            return False
        if fault.then == "stall":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), STALL_SECONDS)  # until the client hangs up
            return False
        data = _written(response)
        if fault.then == "garble":
            head, _, body = data.partition(b"\r\n\r\n")
            data = head + b"\r\n\r\n" + b"<" * len(body)
        writer.write(data[: len(data) - 2] if fault.then == "half" else data)
        await writer.drain()
        return fault.then != "half"


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines if one)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


def _written(response: Response) -> bytes:
    body = b"" if response.body is None else json.dumps(response.body, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", **response.headers, "content-length": str(len(body))}
    lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _phrase(status: int) -> str:
    return "Retry With" if status == 449 else HTTPStatus(status).phrase


@contextlib.contextmanager
def running_double() -> Iterator[Double]:
    """A double, served from a thread."""
    double = Double()
    thread = threading.Thread(target=lambda: asyncio.run(double.serve()), daemon=True)
    thread.start()
    try:
        if not double.ready.wait(10):
            raise RuntimeError("the double doesn't start")
        yield double
    finally:
        double.stop()
        thread.join(10)
