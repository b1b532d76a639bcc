"""One watcher a process: it polls every run that has work here, once per interval, however many operations that run has.

Watchers only observe: they set tokens. A token set by `notify` (the accept happened in this process) is the quick way; the
poll is the sure one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shared.cancellation import CancelToken
from shared.errors import Cancellation, NotFound, StoreError
from shared.executions import RunRef, ancestors
from shared.names import CancelSource
from shared.states import TERMINAL_RUN, RunStatus
from shared.store.port import Document, DocumentStore

log = logging.getLogger(__name__)

ENDED = Cancellation("operation", "the operation that this was part of has ended")
"""What is told to whatever goes on in the name of an operation that has ended."""


def cancellation_of(run: Document) -> Cancellation:
    """The facts of a run's cancel, for its tokens."""
    cancel = run["cancel"] or {}
    return Cancellation(
        cancel.get("source", CancelSource.RECONCILE),
        cancel.get("reason"),
        cancel.get("requested_by"),
        cancel.get("requested_at"),
    )


@dataclass(slots=True)
class _Watched:
    ref: RunRef
    tokens: list[tuple[str, CancelToken]] = field(default_factory=list)


class Watcher:
    """Watches the runs that have an operation in this process. All methods belong to one event loop."""

    def __init__(self, store: DocumentStore, poll_seconds: float) -> None:
        self._store, self._poll_seconds = store, poll_seconds
        self._watched: dict[RunRef, _Watched] = {}
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, ref: RunRef, path: str) -> Iterator[CancelToken]:
        """A token that is cancelled once the run, or a branch at or above `path`, is; at last in any case.

        What the operation left behind, a task that it spawned, say, then finds every check closed.
        """
        token = CancelToken()
        watched = self._watched.setdefault(ref, _Watched(ref))
        watched.tokens.append((path, token))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll(), name="watcher")
        try:
            yield token
        finally:
            token.cancel(ENDED)
            watched.tokens.remove((path, token))
            if not watched.tokens and self._watched.get(ref) is watched:
                del self._watched[ref]

    async def until_ended(self, ref: RunRef, seconds: float) -> Document:
        """The run once it has ended, or as it is after `seconds`. An end in this process is seen at once."""
        until, ended = asyncio.get_running_loop().time() + seconds, asyncio.Event()
        self._waiting.setdefault(ref.run_id, []).append(ended)
        try:
            while True:
                run = await self._store.get(ref.partition, ref.run_id)
                left = until - asyncio.get_running_loop().time()
                if run["status"] in TERMINAL_RUN or left <= 0:
                    return run
                try:
                    await asyncio.wait_for(ended.wait(), min(left, self._poll_seconds))
                except TimeoutError:
                    pass  # look: another process may have ended it
                ended.clear()
        finally:
            self._waiting[ref.run_id].remove(ended)
            if not self._waiting[ref.run_id]:
                del self._waiting[ref.run_id]

    def notify(self, run: Document) -> None:
        """Tell the tokens, and who waits for the end, what `run`, as just read or written, says."""
        if run["status"] in TERMINAL_RUN:
            for ended in self._waiting.get(run["id"], ()):
                ended.set()
        for ref in [ref for ref in self._watched if ref.run_id == run["id"]]:
            if (ref.scope, ref.workflow_id) == (run["scope"], run["workflow_id"]):
                self._tell(self._watched[ref], run)

    def _tell(self, watched: _Watched, run: Document) -> None:
        all_of_it = run["status"] != RunStatus.RUNNING or run["epoch"] != watched.ref.epoch
        cancelled = set(run["cancelled_executions"])
        if not all_of_it and not cancelled:
            return
        facts = cancellation_of(run)
        for path, token in list(watched.tokens):
            if all_of_it or not cancelled.isdisjoint(ancestors(path)):
                token.cancel(facts)

    async def _poll(self) -> None:
        while self._watched:
            await asyncio.sleep(self._poll_seconds)
            for ref, watched in list(self._watched.items()):
                try:
                    self._tell(watched, await self._store.get(ref.partition, ref.run_id))
                except NotFound:
                    log.warning("run %s vanished while it had work here", ref.run_id)
                except StoreError as error:
                    # Not seeing the store is the supervisors' matter: they fence themselves.
                    log.warning("can't look at run %s: %s", ref.run_id, error)

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
