"""The host: one process and one event loop that serve an app's functions, its orchestrations and the scripted model.

Nothing is kept in memory only, so stopping is easy: it is graceful for a moment, and then the process ends whatever is
still going on; what was in flight resumes when the next host starts.
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
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import uvicorn
from azure.durable_functions.models.utils import http_utils
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from devhost.auth import Authentication
from devhost.durable import DurableEngine
from devhost.functions import HostedFunction
from devhost.http import HttpFunctions, Unserved
from devhost.local_settings import HostSettings
from devhost.scripted_model import ScriptedModel
from devhost.scripted_model.server import PREFIX as MODEL_PREFIX
from shared.sqlite import Database

log = logging.getLogger("devhost")

ADDRESS = "127.0.0.1"
DATABASE = "truestop.db"
BACKLOG = 2048
REQUESTS_SECONDS = 1
"""How long a stopping host waits for requests that are being answered (a live view would keep it 20 s)."""
ENGINE_SECONDS = 2.0
EXIT_SECONDS = 4.5
"""After this long a stopping process just ends; a blocking function or a wedged loop must not keep it."""

_SERVED = frozenset({"httpTrigger", "orchestrationTrigger", "activityTrigger"})


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
        self, functions: Sequence[HostedFunction], settings: HostSettings, engine: Engine, base_url: str
    ) -> None:
        """Raises `RouteError`, and `Unserved` for a trigger or binding that there is nothing here to serve."""
        for function in functions:
            if function.kind not in _SERVED:
                raise Unserved(function.name, f"a trigger of type {function.kind!r}")
            if function.kind != "httpTrigger" and function.bindings:
                raise Unserved(function.name, f"a binding of type {function.bindings[0].type!r} beside its trigger")
        authentication = Authentication()
        self._functions = HttpFunctions(
            functions, settings.route_prefix, engine.client_binding(base_url), authentication
        )
        self._model = ScriptedModel()
        own = [*engine.routes(), *authentication.routes()]
        self._own = Router(own, redirect_slashes=False)
        self._own_prefixes = tuple({f"/{route.path.split('/')[1]}/" for route in own})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; only `http` scopes come here."""
        path = scope["path"]
        if path.startswith(MODEL_PREFIX):
            await self._model(scope, receive, send)
        elif path.startswith(self._own_prefixes):
            await self._own(scope, receive, send)
        else:
            await self._functions(scope, receive, send)


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
    """Serves an app until told to stop."""

    def __init__(self, functions: Sequence[HostedFunction], settings: HostSettings, data: Path) -> None:
        self._functions, self._settings, self._data = functions, settings, data
        self._server: _Server | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin to stop. Safe from any thread and from a signal handler."""
        self._stopping = True
        if self._server is not None:
            self._server.should_exit = True

    async def serve(self, listener: socket.socket, listening: Callable[[], None]) -> None:
        """Serve on `listener`; `listening` is called once requests are answered. Raises as `Application` does."""
        database = Database.open(self._data / DATABASE)
        try:
            engine = DurableEngine(database, self._functions, self._settings.hub)
            application = Application(self._functions, self._settings, engine, base_url(listener))
            # Work that resumes may call this host (its model, say): such a call waits until uvicorn accepts it.
            _listen(listener)
            await engine.start()
            try:
                await self._serve(application, listener, listening)
            finally:
                await _within(ENGINE_SECONDS, engine.stop)
                await _within(
                    ENGINE_SECONDS, http_utils._close_session
                )  # the SDK's client keeps one and never closes it
        finally:
            await _within(ENGINE_SECONDS, database.close)

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
        self._server.should_exit = self._stopping
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


def stop_on_signals(host: Host) -> None:
    """Let SIGINT and SIGTERM stop `host`, and end the process for certain soon after."""
    stopping = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            return
        stopping.set()
        timer = threading.Timer(EXIT_SECONDS, os._exit, [0])
        timer.daemon = True
        timer.start()
        host.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
