"""`python -m bench cost`: the request units of Cosmos DB that runs take, by the protocol test double's estimate."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from shared.store.cosmos_client import initialise
from tests.cosmos_double.fixtures import account_of
from tests.cosmos_double.server import Double, running_double
from tests.support.world import at_once, open_world, streaming

IDLE_SECONDS = 12.0
ITEMS = 20
Row = tuple[str, str, str, str]


def _row(what: str, charges: Counter[str], scale: float = 1.0) -> Row:
    total = sum(charges.values()) / 100 * scale
    parts = ", ".join(f"{kind} {units / 100 * scale:.0f}" for kind, units in charges.most_common())
    return what, f"{total:.0f} RU", parts, ""


async def _idle(double: Double, folder: Path, settings: dict[str, str]) -> Row:
    """A run whose one model call is silent: what watching it and its heartbeats take."""
    async with open_world(folder, streaming(1, 3600.0), **settings) as world:
        ref = await world.start(await world.workflow({"kind": "model", "prompt": "Go"}))
        driving = asyncio.create_task(world.drive(ref))
        while not world.model.open:
            await asyncio.sleep(0.05)
        double.trouble.charges.clear()
        await asyncio.sleep(IDLE_SECONDS)
        row = _row("one silent operation, a minute", double.trouble.charges.copy(), 60 / IDLE_SECONDS)
        await world.cancel(ref)
        await driving
        return row


async def _items(double: Double, folder: Path, settings: dict[str, str]) -> Row:
    async with open_world(folder, at_once, **settings) as world:
        for i in range(ITEMS):
            await world.services.blobs.put(f"documents/user:alice/{i:02d}.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up."}
        workflow = await world.workflow(step)
        double.trouble.charges.clear()
        assert await world.drive(await world.start(workflow)) == "completed"
        return _row(f"a run of {ITEMS} items, start to settle", double.trouble.charges.copy())


async def cost() -> list[Row]:
    """Both figures, on the settings that a deployed app has by default."""
    with running_double() as double:
        await initialise(account_of(double))
        settings = {
            "store": "cosmos",
            "cosmos_endpoint": double.endpoint,
            "cosmos_key": double.key,
            "poll_seconds": "0.25",
            "fence_seconds": "10",
        }
        rows = []
        for measure in (_idle, _items):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(await measure(double, Path(folder), settings))
        return rows
