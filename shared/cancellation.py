"""The ambient cancel token: how code deep inside a tool learns that its run was cancelled.

A token is level-triggered: once cancelled, every later check says so, and the first reason wins. It only tells; the
supervisor (`supervisor.py`) is what stops the work. The token travels in a contextvar; the Functions worker does not copy
contextvars to its thread pool, so `run_blocking` does.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from shared.errors import Cancellation, NoCurrentRun, RunCancelled

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_SHIELD_SECONDS = 5.0


class CancelToken:
    """Says whether the operation that carries it was cancelled. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancellation: Cancellation | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._shielded_until = 0.0

    @property
    def cancellation(self) -> Cancellation | None:
        """The first cancel's facts, or None."""
        return self._cancellation

    @property
    def cancelled(self) -> bool:
        """Whether a cancel was requested (it says nothing about whether the work has stopped)."""
        return self._cancellation is not None

    @property
    def shielded(self) -> bool:
        """Whether bounded cleanup is under way (see `shield`)."""
        return time.monotonic() < self._shielded_until

    def cancel(self, cancellation: Cancellation) -> bool:
        """Request the cancel. Answers whether this call was the first."""
        with self._lock:
            if self._cancellation is not None:
                return False
            self._cancellation = cancellation
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True

    def check(self) -> None:
        """Raise `RunCancelled` if a cancel was requested, except within a shield."""
        if self._cancellation is not None and not self.shielded:
            raise RunCancelled(self._cancellation)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once a cancel is requested (at once if it was), from the thread that requests it."""
        with self._lock:
            if self._cancellation is None:
                self._callbacks.append(callback)
                return
        callback()

    def _shield(self, seconds: float) -> float:
        before, self._shielded_until = self._shielded_until, max(self._shielded_until, time.monotonic() + seconds)
        return before

    def _unshield(self, before: float) -> None:
        self._shielded_until = before


_current: contextvars.ContextVar[CancelToken] = contextvars.ContextVar("truestop_token")


def current_token() -> CancelToken:
    """The token of the operation that is running here. Raises `NoCurrentRun` outside one."""
    try:
        return _current.get()
    except LookupError:
        raise NoCurrentRun from None


def checkpoint() -> None:
    """Raise `RunCancelled` if the current operation was cancelled. Call it in loops and before each thing that costs."""
    current_token().check()


def set_current(token: CancelToken) -> contextvars.Token[CancelToken]:
    """Make `token` the ambient one of this context (the supervisor does, once an operation)."""
    return _current.set(token)


@asynccontextmanager
async def shield(seconds: float = DEFAULT_SHIELD_SECONDS) -> AsyncIterator[None]:
    """Let cleanup finish although a cancel was requested, for at most `seconds`."""
    token = current_token()
    before = token._shield(seconds)
    try:
        async with asyncio.timeout(seconds):
            yield
    finally:
        token._unshield(before)


def checkpoint_if_run() -> None:
    """`checkpoint()` inside a run's operation, nothing outside one: for helpers that both sides use."""
    token = _current.get(None)
    if token is not None:
        token.check()


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a thread of its own, with the current context, and wait for it **even when cancelled**.

    Nothing can stop a thread: returning before it ends would say "stopped" of work that goes on. A daemon thread, so that
    an abandoned one can't keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(outcome: tuple[T | None, BaseException | None]) -> None:
        if not done.done():
            done.set_result(outcome)

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = (context.run(function, *args, **kwargs), None)
        except BaseException as error:
            outcome = (None, error)
        try:
            loop.call_soon_threadsafe(deliver, outcome)
        except RuntimeError:
            pass  # the loop has closed: the process is ending and nobody waits any more

    threading.Thread(target=work, name=f"blocking-{getattr(function, '__name__', 'call')}", daemon=True).start()
    while not done.done():
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            continue  # finished beats cancelled: wait for what the thread says
    result, error = done.result()
    if error is not None:
        raise _from_thread(error)
    return result  # type: ignore[return-value]


def _from_thread(error: BaseException) -> BaseException:
    """What a thread raised, as a coroutine may raise it: `StopIteration` and `SystemExit` would break the loop."""
    passes = RunCancelled | asyncio.CancelledError
    if isinstance(error, passes) or (isinstance(error, Exception) and not isinstance(error, StopIteration)):
        return error
    wrapped = RuntimeError(f"{type(error).__name__} was raised in a thread: {error}")
    wrapped.__cause__ = error
    return wrapped
