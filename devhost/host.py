"""The host: one process and one event loop that serve an app's functions, its orchestrations and the scripted model.

Further processes may share its data and its work (`workers.py`). Nothing is kept in memory only, so stopping is easy: it
is graceful for a moment, and then the process ends whatever is still going on; what was in flight resumes in another
process, or when the next host starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol
from urllib.parse import urlsplit

import uvicorn
from azure.durable_functions.models.utils import http_utils
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from devhost.auth import Authentication
from devhost.bindings import Unserved
from devhost.durable import DurableEngine, api
from devhost.functions import HostedFunction
from devhost.http import HttpFunctions
from devhost.local_settings import HostSettings
from devhost.scripted_model import ScriptedModel
from devhost.scripted_model.server import PREFIX as MODEL_PREFIX
from devhost.triggers.admin import PATH as ADMIN_PATH
from devhost.triggers.service import KINDS as TRIGGERS
from devhost.triggers.service import Triggers
from shared.sqlite import Database

log = logging.getLogger("devhost")

ADDRESS = "127.0.0.1"
DATABASE = "truestop.db"
PROCESSES = "processes"
BACKLOG = 2048
REQUESTS_SECONDS = 1
"""How long a stopping host waits for requests that are being answered (a live view would keep it 20 s)."""
ENGINE_SECONDS = 2.0
EXIT_SECONDS = 4.5
"""After this long a stopping process just ends; a blocking function or a wedged loop must not keep it."""

_GUARDED = tuple(f"/{prefix.split('/')[1]}/" for prefix in (api.WEBHOOKS, api.RPC, ADMIN_PATH))
_DURABLE = frozenset({"orchestrationTrigger", "activityTrigger"})
_SERVED = _DURABLE | TRIGGERS | {"httpTrigger"}


class Engine(Protocol):
    """What the host asks of the Durable engine."""

    async def start(self) -> None:
        """Take up the work that the last host left."""
        ...

    async def stop(self) -> None:
        """Leave the work; its state stays in the database."""
        ...

    def client_binding(self, base_url: str) -> str:
        """What a durableClient parameter receives."""
        ...

    def routes(self) -> list[Route]:
        """The management API and what the SDK's client calls."""
        ...


class Application:
    """Every address of the host as one ASGI application: the host's own first, all else is the app's."""

    def __init__(
        self,
        functions: Sequence[HostedFunction],
        settings: HostSettings,
        engine: Engine,
        base_url: str,
        more: Sequence[Route] = (),
    ) -> None:
        """`more` are addresses of the host beside the engine's.

        Raises `RouteError`, and `Unserved` for a trigger or binding that there is nothing here to serve.
        """
        for function in functions:
            if function.kind not in _SERVED:
                raise Unserved(function.name, f"a trigger of type {function.kind!r}")
            if function.kind in _DURABLE and function.bindings:
                raise Unserved(function.name, f"a binding of type {function.bindings[0].type!r} beside its trigger")
        authentication = Authentication()
        self._functions = HttpFunctions(
            functions, settings.route_prefix, engine.client_binding(base_url), authentication
        )
        self._model = ScriptedModel()
        own = [*engine.routes(), *authentication.routes(), *more]
        self._own = Router(own, redirect_slashes=False)
        self._own_prefixes = tuple({f"/{route.path.split('/')[1]}/" for route in own})
        self._origins = own_origins(base_url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; only `http` scopes come here."""
        path = scope["path"]
        if path.startswith(MODEL_PREFIX):
            await self._model(scope, receive, send)
        elif path.startswith(_GUARDED) and not self._own_origin(scope):
            await Response("The management API is not for pages of other origins.", 403)(scope, receive, send)
        elif path.startswith(self._own_prefixes):
            await self._own(scope, receive, send)
        else:
            await self._functions(scope, receive, send)

    def _own_origin(self, scope: Scope) -> bool:
        """Whether no web page, or one of this host, sent the request. Not by its Host header: a page can choose it."""
        given = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"]
        return all(origin in self._origins for origin in given)


def own_origins(base_url: str) -> frozenset[str]:
    """The origins of pages that a host at `base_url` serves."""
    url = urlsplit(base_url)
    port = f":{url.port}" if url.port else ""
    return frozenset({f"{url.scheme}://{name}{port}" for name in (url.hostname, "localhost")})


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us (it would raise them again when done) and word of when it serves."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()


class PortInUse(Exception):
    """Another process listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port} is in use; stop what uses it or choose another with --port"


def bind(port: int) -> socket.socket:
    """Take the port (0: a free one) on loopback; connections are refused until the host serves. Raises `PortInUse`."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two processes share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
    except OSError as error:
        listener.close()
        raise PortInUse(port) from error
    return listener


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(BACKLOG)
    except OSError as error:  # two hosts that start at once can both bind
        raise PortInUse(listener.getsockname()[1]) from error


def base_url(listener: socket.socket) -> str:
    """The address of a host that serves on `listener`."""
    return f"http://{ADDRESS}:{listener.getsockname()[1]}"


class Host:
    """Serves an app, or only works for one, until told to stop. Use one for one of both, once."""

    def __init__(self, functions: Sequence[HostedFunction], settings: HostSettings, data: Path) -> None:
        self._functions, self._settings, self._data = functions, settings, data
        self._server: _Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told_to_stop = False
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin to stop. Safe from any thread and from a signal handler."""
        self._told_to_stop = True
        if self._server is not None:
            self._server.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stopping.set)

    async def serve(self, listener: socket.socket, listening: Callable[[], None]) -> None:
        """Serve on `listener`; `listening` is called once requests are answered.

        Raises as `Application` and `Triggers` do.
        """
        url = base_url(listener)
        async with self._engines(url) as (engine, triggers):
            application = Application(self._functions, self._settings, engine, url, triggers.routes())
            # Work that resumes may call this host (its model, say): such a call waits until uvicorn accepts it.
            _listen(listener)
            await engine.start()
            await triggers.start()
            await self._serve(application, listener, listening)

    async def work(self, url: str) -> None:
        """Do a share of the work; the host at `url` answers requests. Raises as `Triggers` does."""
        async with self._engines(url) as (engine, triggers):
            await engine.start()
            await triggers.start()
            log.info("at work")
            await self.stopping.wait()

    @contextlib.asynccontextmanager
    async def _engines(self, url: str) -> AsyncIterator[tuple[DurableEngine, Triggers]]:
        """What does the work, not started. Afterwards everything is closed, or left to end with the process."""
        self._loop = asyncio.get_running_loop()
        if self._told_to_stop:
            self.stopping.set()
        database = Database.open(self._data / DATABASE)
        try:
            engine = DurableEngine(database, self._functions, self._settings.hub, self._data / PROCESSES)
            triggers = Triggers(
                self._functions,
                database,
                lambda: engine.process_id,
                engine.client_binding(url),
                self._settings,
            )
            try:
                yield engine, triggers
            finally:
                await _within(ENGINE_SECONDS, triggers.stop)
                await _within(ENGINE_SECONDS, engine.stop)
                await _within(
                    ENGINE_SECONDS, http_utils._close_session
                )  # the SDK's client keeps one and never closes it
        finally:
            await _within(ENGINE_SECONDS, database.close)
            self._loop = None

    async def _serve(self, application: Application, listener: socket.socket, listening: Callable[[], None]) -> None:
        config = uvicorn.Config(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=REQUESTS_SECONDS,
        )
        logging.getLogger("uvicorn.error").addFilter(_EXPECTED)
        self._server = _Server(config, listening)
        self._server.should_exit = self._told_to_stop
        await self._server.serve([listener])


async def _within(seconds: float, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Await `close()` for at most `seconds`: a part that won't end must not keep the others from ending."""
    try:
        async with asyncio.timeout(seconds):
            await close()
    except TimeoutError:
        log.warning(
            "%s did not end within %g s; what it was doing resumes at the next start", close.__qualname__, seconds
        )
    except Exception:
        log.exception("%s failed", close.__qualname__)


class _Expected(logging.Filter):
    """Drops what uvicorn says of answers that a directive or a stopping host cut on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
        return not cancelled and not record.getMessage().startswith(("ASGI callable returned without", "Cancel "))


_EXPECTED = _Expected()


def stop_on_signals(host: Host) -> Callable[[], None]:
    """Let SIGINT and SIGTERM stop `host`, and end the process for certain soon after. Answers what does the same."""
    stopping = threading.Event()

    def stop() -> None:
        if stopping.is_set():
            return
        stopping.set()
        timer = threading.Timer(EXIT_SECONDS, os._exit, [0])
        timer.daemon = True
        timer.start()
        host.stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop
