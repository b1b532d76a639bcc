"""Waiting for something to become true, bounded, without guessing how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(probe: Callable[[], Awaitable[Any] | Any], seconds: float = 10.0, what: str = "") -> Any:
    """Poll `probe` until it answers something true; answer that. Fails after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = probe()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {seconds} s: {what or probe}")
        await asyncio.sleep(0.005)


def eventually_sync(probe: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """`eventually` for code without an event loop."""
    until = time.monotonic() + seconds
    while True:
        if value := probe():
            return value
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {seconds} s: {what or probe}")
        time.sleep(0.01)
