"""Side effects: what an operation does that others can see, on record before it is done.

    async with context.side_effect("email", "to the board"):
        await send()

Entering announces the effect in the store, under the guard of a begin: after a cancel's accept none is announced, also not
by an operation that was in flight and won't stop. Leaving it well marks it done. One that was announced and isn't done may
have happened all the same: its process died, or its code raised. A cancel's receipt lists both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any

from shared.cancellation import checkpoint, shield
from shared.ids import now

MAX_EFFECTS = 100
"""Side effects of one operation, over all of its attempts: they are kept in its document."""
MAX_WHAT = 500
MARK_SECONDS = 10.0
"""How long the mark that an effect is done may take while a cancel is under way."""

Effect = dict[str, Any]
Write = Callable[[Sequence[Effect], bool], Awaitable[None]]
"""Records all side effects of an operation. The flag says that one is new: then the guard of a begin may refuse."""


class SideEffects:
    """The side effects of one operation. `earlier`: those of its attempts before this one."""

    def __init__(self, write: Write, execution_id: str, attempt: int, earlier: Sequence[Effect] = ()) -> None:
        self._write, self._facts = write, {"execution_id": execution_id, "attempt": attempt}
        self._loop, self._lock = asyncio.get_running_loop(), asyncio.Lock()
        self._effects = list(earlier)

    def open(self, kind: str, what: str, **more: Any) -> SideEffect:
        """A side effect, to be entered with `async with`, or with `with` in the thread of a sync tool."""
        return SideEffect(self, {**self._facts, "kind": kind, "what": what[:MAX_WHAT], **more, "done": False})

    async def announce(self, effect: Effect) -> None:
        """Put a side effect on record. Raises `RunCancelled` when the guard refuses, `ValueError` for one too many."""
        checkpoint()
        async with self._lock:
            if len(self._effects) >= MAX_EFFECTS:
                raise ValueError(f"an operation has at most {MAX_EFFECTS} side effects")
            effect["at"] = now()
            await self._write([*self._effects, effect], True)
            self._effects.append(effect)

    async def mark(self, effect: Effect) -> None:
        """Say that a side effect is done, also while a cancel keeps knocking."""
        async with shield(MARK_SECONDS), self._lock:
            effect["done"] = True
            await self._write(self._effects, False)

    def from_thread(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` on the operation's loop and wait for it. Raises `RuntimeError` on a loop, which would wait for ever."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        work.close()
        raise RuntimeError("write `async with` in an async tool")


class SideEffect:
    """One side effect: on record while it is entered, marked as done when it is left without an exception."""

    def __init__(self, effects: SideEffects, effect: Effect) -> None:
        self._effects, self._effect = effects, effect

    async def __aenter__(self) -> None:
        await self._effects.announce(self._effect)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self._effects.mark(self._effect)

    def __enter__(self) -> None:
        self._effects.from_thread(self.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._effects.from_thread(self._effects.mark(self._effect))
