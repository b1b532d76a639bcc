"""All listeners of an app: made and checked at start, at work in the process that leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from starlette.routing import Route

from devhost.bindings import is_disabled
from devhost.functions import HostedFunction
from devhost.local_settings import HostSettings
from devhost.triggers import admin, blob, queue, timer
from devhost.triggers.calls import Caller
from devhost.triggers.leader import Leadership, NotLeader
from devhost.triggers.storage import Storage
from shared.errors import StoreError, Unavailable
from shared.sqlite import Database

log = logging.getLogger("devhost.triggers")

KINDS = frozenset({timer.KIND, queue.KIND, blob.KIND})
TICK_SECONDS = 0.5
"""How often a process looks who leads."""
LISTEN_AGAIN_SECONDS = 1.0
_SCHEMA = f"{timer.SCHEMA};{blob.SCHEMA}"


class Listener(Protocol):
    """What calls one function."""

    caller: Caller

    async def run(self) -> None:
        """Listen until cancelled. What it raises ends it for a moment; then it is started again."""
        ...

    async def by_hand(self, given: str | None) -> None:
        """Call the function once with `given`, which `POST /admin/functions/NAME` was sent."""
        ...


class Triggers:
    """The listeners of those of `functions` that timers, queues and blobs trigger. Use on one event loop, once."""

    def __init__(
        self,
        functions: Sequence[HostedFunction],
        database: Database,
        me: Callable[[], str],
        client_binding: str,
        settings: HostSettings,
    ) -> None:
        """`me` is this process's id in the hub. Raises `Unserved`, `BadBinding`, `SettingsError`, `Unavailable`."""
        self._database = database
        self._leadership = Leadership(database, me)
        self._storage, self._settings = Storage(settings.queues), settings
        self._listeners: dict[str, Listener] = {}
        for function in functions:
            if function.kind in KINDS:
                self._listeners[function.name] = self._listener(Caller(function, client_binding))
        self._functions = [function.name for function in functions]
        self._listening: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def _listener(self, caller: Caller) -> Listener:
        if caller.function.kind == queue.KIND:
            return queue.Queue(caller, self._storage, self._settings.queues)
        if caller.function.kind == blob.KIND:
            return blob.Blob(caller, self._storage, self._database, self._leadership)
        return timer.Timer(caller, self._database, self._leadership)

    async def start(self) -> None:
        """Lead, or wait for the leader to die. The engine must have started. Raises `Unavailable`."""
        if self._listeners:
            await self._database.create(_SCHEMA)
            await self._leadership.prepare()
            self._watching = asyncio.create_task(self._watch(), name="triggers")

    async def stop(self) -> None:
        """Stop listening, and cancel the calls under way: what they were called for comes again."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._stop_listening()
        await self._storage.close()

    def routes(self) -> list[Route]:
        """`/admin/functions/NAME`, which calls a function by hand."""
        return admin.routes(self._functions, {name: one.by_hand for name, one in self._listeners.items()})

    async def _watch(self) -> None:
        while True:
            try:
                leads = await self._leadership.claim()
            except Unavailable:
                log.warning("nobody can say who runs the triggers; trying again", exc_info=True)
            else:
                if leads and not self._listening:
                    self._start_listening()
                elif not leads and self._listening:
                    log.warning("another process runs the triggers now")
                    await self._stop_listening()
            await asyncio.sleep(TICK_SECONDS)

    def _start_listening(self) -> None:
        blobs = []
        for name, listener in self._listeners.items():
            if is_disabled(name):
                log.info("function %s is disabled", name)
                continue
            self._keep_running(f"the trigger of function {name}", listener.run)
            if isinstance(listener, blob.Blob):
                blobs.append(listener)
        if blobs:
            messages = blob.BlobMessages(blobs, self._storage, self._settings.blobs)
            self._keep_running("the queue of blob triggers", messages.run)

    def _keep_running(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        self._listening.add(asyncio.create_task(_run_again_and_again(what, run), name=what))

    async def _stop_listening(self) -> None:
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        self._listening.clear()


async def _run_again_and_again(what: str, run: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await run()
        except NotLeader:
            log.info("%s ends: another process leads", what)
        except StoreError as error:
            log.warning("%s failed; trying again: %s", what, error)
        except Exception:
            log.exception("%s failed; trying again", what)
        await asyncio.sleep(LISTEN_AGAIN_SECONDS)
