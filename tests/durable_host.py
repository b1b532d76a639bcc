"""The durable engine with the golden app, for tests: in this process, or (`python -m tests.durable_host FILE`) as its own.

As its own process it answers commands, one JSON array a line on standard input: ["start", name, id, input] and
["wait", id…]. It writes "ready" once it runs, then one line a command: what `wait` found, an instance's status and output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import azure.functions as func
import uvicorn
from azure.durable_functions.models.utils import http_utils
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devhost.durable import DurableEngine
from devhost.functions import HostedFunction, load_app
from shared.sqlite import Database
from tests.support.waiting import eventually

GOLDEN = Path(__file__).parent / "golden"
IGNORED_WARNINGS = (
    "ignore:azure.functions df_loads was called without expected_type:DeprecationWarning",
    "ignore:Potential duplicate Task completion:UserWarning",
)
"""What the SDK warns of in good order: the first at its first call, the second at an event that nobody waits for yet."""


def functions_of(directory: Path = GOLDEN / "app") -> list[HostedFunction]:
    """`load_app`, but a test that imports the project's own `function_app` afterwards gets that one."""
    path, module = list(sys.path), sys.modules.pop("function_app", None)
    try:
        return load_app(directory)
    finally:
        sys.path[:] = path
        sys.modules.pop("function_app", None)
        if module is not None:
            sys.modules["function_app"] = module


@asynccontextmanager
async def running_engine(
    file: Path, functions: list[HostedFunction] | None = None, **settings: Any
) -> AsyncIterator[DurableEngine]:
    """An engine on the hub in `file`; the golden app's functions unless others are given."""
    database = Database.open(file)
    engine = DurableEngine(database, functions or functions_of(), "probehub", **settings)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
        await database.close()


@asynccontextmanager
async def served(engine: DurableEngine, functions: list[HostedFunction]) -> AsyncIterator[str]:
    """The engine's API, and the golden app's one HTTP function, on a free port; answers the base URL."""
    base = ""
    start = next(function for function in functions if function.name == "start")

    async def start_through_the_app(request: Request) -> Response:
        asked = func.HttpRequest(
            method="POST",
            url=str(request.url),
            params=dict(request.query_params),
            route_params=request.path_params,
            body=await request.body(),
        )
        answer = await start.call(req=asked, client=engine.client_binding(base))
        return Response(answer.get_body(), answer.status_code, dict(answer.headers))

    app = Starlette(routes=[*engine.routes(), Route("/api/start/{name}", start_through_the_app, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, what="the server has started")
    port = server.servers[0].sockets[0].getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    try:
        yield base
    finally:
        server.should_exit = True
        await serving
        await http_utils._close_session()  # the SDK keeps one for the process, tied to the loop that made it


async def _serve(file: Path) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with running_engine(file) as engine:
        print("ready", flush=True)
        while line := await reader.readline():
            command, *arguments = json.loads(line)
            answer: Any = None
            if command == "start":
                name, instance_id, given = arguments
                await engine.start_instance(name, instance_id, json.dumps(given))
            else:
                answer = [await _ended(engine, instance_id) for instance_id in arguments]
            print(json.dumps(answer), flush=True)


async def _ended(engine: DurableEngine, instance_id: str) -> list[Any]:
    await eventually(lambda: engine.instance(instance_id).ended, 15, f"{instance_id} has ended")
    instance = engine.instance(instance_id)
    return [instance.status, json.loads(instance.output_json or "null")]


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
