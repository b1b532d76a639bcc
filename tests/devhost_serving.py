"""Serves ASGI applications, and small function apps written by a test, on real sockets."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.routing import Route

from devhost.host import Application
from devhost.local_settings import host_settings
from devhost.triggers.leader import Leadership
from shared.sqlite import Database
from tests.durable_host import functions_of
from tests.support.waiting import eventually

HEADER = (
    "import azure.functions as func\nimport azure.durable_functions as df\napp = df.DFApp(func.AuthLevel.ANONYMOUS)\n"
)


class NoEngine:
    """Stands in for the Durable engine where no orchestration runs."""

    async def start(self) -> None:
        """Nothing to take up."""

    async def stop(self) -> None:
        """Nothing to leave."""

    def client_binding(self, base_url: str) -> str:
        """Tells the test what the host said its address is."""
        return f"client of {base_url}"

    def routes(self) -> list[Route]:
        """None."""
        return []


def write_app(directory: Path, source: str, host_json: str = '{"extensions": {"http": {"routePrefix": ""}}}') -> Path:
    """A function app whose functions are `source` (it finds `app`, `func` and `df`)."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "function_app.py").write_text(HEADER + textwrap.dedent(source))
    (directory / "host.json").write_text(host_json)
    return directory


@asynccontextmanager
async def serving(application: Any, **settings: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port; answers its base URL."""
    config = uvicorn.Config(application, port=0, http="httptools", log_config=None, lifespan="off", **settings)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or task.done(), what="the server has started")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        # Not `should_exit`: uvicorn looks at it ten times a second, which every test would pay for twice.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        for request in list(server.server_state.tasks):
            request.cancel()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


@asynccontextmanager
async def serving_app(directory: Path) -> AsyncIterator[str]:
    """Serve the function app of a directory, with no engine."""
    application = Application(functions_of(directory), host_settings(directory), NoEngine(), "http://host.test")
    async with serving(application) as base:
        yield base


async def raw(base: str, request: bytes) -> bytes:
    """Send these very bytes and read until the server closes."""
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with lower-cased names."""
    return {name.lower(): value for name, value in headers.items()}


def lines(app: Path, name: str) -> list[str]:
    """The lines that an app's functions have written to the file `name` beside it."""
    return (app / name).read_text().splitlines() if (app / name).exists() else []


@asynccontextmanager
async def leading(path: Path, schema: str) -> AsyncIterator[tuple[Database, Leadership]]:
    """A database with `schema`, where the processes `one`, which leads, and `two` are alive."""
    database = Database.open(path / "hub.db")
    await database.create(f"{schema};CREATE TABLE durable_processes (id TEXT PRIMARY KEY)")
    await database.write(lambda connection: connection.execute("INSERT INTO durable_processes VALUES ('one'), ('two')"))
    leadership = Leadership(database, lambda: "one")
    await leadership.prepare()
    assert await leadership.claim()
    yield database, leadership
    await database.close()
