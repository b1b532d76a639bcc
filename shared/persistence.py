"""Patience with a store that throttles or is away for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import Throttled, Unavailable

T = TypeVar("T")

PATIENCE_SECONDS = 30.0


async def patiently(write: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
    """Do `write`, again and again while the store can't, for at most `seconds` (default: `PATIENCE_SECONDS`).

    `write` must be safe to repeat. Raises what it raised last.
    """
    until, pause = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds), 0.1
    while True:
        try:
            return await write()
        except (Throttled, Unavailable) as error:
            wait = error.retry_after if isinstance(error, Throttled) else pause
            if time.monotonic() + wait > until:
                raise
            await asyncio.sleep(wait)
            pause = min(pause * 2, 2.0)
