"""The durable engine with the golden app, for tests: in this process, or (`python -m tests.durable_host FILE`) as its own.

As its own process it answers commands, one JSON array a line on standard input: ["start", name, id, input], ["raise", id,
event name], and ["wait", id…]. It writes "ready" once it runs, then one line a command: what `wait` found, an instance's
status and output.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
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

from devhost.durable import DurableEngine, hub
from devhost.durable.events import Event, event_raised
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
    engine = DurableEngine(database, functions or functions_of(), "probehub", file.parent / "processes", **settings)
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


ROOT = Path(__file__).parent.parent
PATIENCE = 20.0


class Host:
    """An engine in its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return json.loads(await self.line())

    def stand_still(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def host(file: Path, **settings: Any) -> AsyncIterator[Host]:
    """An engine in its own process on the hub in `file`; `settings` are the engine's. Killed in the end."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.durable_host", str(file), json.dumps(settings)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    running = Host(process)
    try:
        assert await running.line() == "ready"
        yield running
    finally:
        await running.kill()
        process._transport.close()  # type: ignore[attr-defined]


async def histories(file: Path, *instance_ids: str) -> dict[str, list[Event]]:
    database = Database.open(file)
    try:
        return {
            i: database.read_now(lambda connection, i=i: hub.load(connection, i)).history  # type: ignore[misc]
            for i in instance_ids
        }
    finally:
        await database.close()


def kinds(history: list[Event]) -> Counter[int]:
    return Counter(event["EventType"] for event in history)


async def _serve(file: Path, settings: dict[str, Any]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with running_engine(file, **settings) as engine:
        print("ready", flush=True)
        while line := await reader.readline():
            command, *arguments = json.loads(line)
            answer: Any = None
            if command == "start":
                name, instance_id, given = arguments
                await engine.start_instance(name, instance_id, json.dumps(given))
            elif command == "raise":
                instance_id, name = arguments
                await engine.send(instance_id, lambda at, name=name: event_raised(at, name, "1"))  # type: ignore[misc]
            else:
                answer = [await _ended(engine, instance_id) for instance_id in arguments]
            print(json.dumps(answer), flush=True)


async def _ended(engine: DurableEngine, instance_id: str) -> list[Any]:
    await eventually(lambda: engine.instance(instance_id).ended, 15, f"{instance_id} has ended")
    instance = engine.instance(instance_id)
    return [instance.status, json.loads(instance.output_json or "null")]


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
