"""Whether the service and what it needs are up, and who the caller is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_route
from shared import groups
from shared.errors import NotFound, Unavailable
from shared.names import QUEUE_NOTIFICATIONS
from shared.permissions import Rule
from shared.services import Services
from shared.store.port import Partition

log = logging.getLogger(__name__)
PROBE_SECONDS = 3.0

blueprint = df.Blueprint()


async def _store(services: Services) -> None:
    try:
        await services.store.get(Partition("health", "health"), "health")
    except NotFound:
        pass  # it answered


async def _blobs(services: Services) -> None:
    await services.blobs.list("health/", 1, None)


async def _queue(services: Services) -> None:
    await services.queue.peek(QUEUE_NOTIFICATIONS, 1)


async def _model(services: Services) -> None:
    await services.model.probe()


PROBES: dict[str, Callable[[Services], Awaitable[None]]] = {
    "store": _store,
    "queue": _queue,
    "blobs": _blobs,
    "model": _model,
}


@dataclass(frozen=True, slots=True)
class State:
    """Whether a part is up, and which settings can be the cause if it isn't."""

    up: bool
    settings: tuple[str, ...] = ()


async def _probe(name: str, services: Services) -> State:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await PROBES[name](services)
    except Exception as error:
        log.warning("%s is down: %s", name, error or f"no answer within {PROBE_SECONDS:g} s")
        return State(False, error.settings if isinstance(error, Unavailable) else ())
    return State(True)


async def health(call: Call) -> Answer:
    """GET /api/health: for anyone; names settings and no secrets."""
    found = dict(zip(PROBES, await asyncio.gather(*(_probe(name, call.services) for name in PROBES)), strict=True))
    well = all(state.up for state in found.values())
    body: dict[str, Any] = {"status": _word(well)} | {name: _word(state.up) for name, state in found.items()}
    if look_at := {name: list(state.settings) for name, state in found.items() if state.settings}:
        body["look_at"] = look_at
    return Answer(200 if well else 503, body)


def _word(up: bool) -> str:
    return "up" if up else "down"


async def me(call: Call) -> Answer:
    """GET /api/me."""
    active = await groups.active_group(call.services, call.caller)
    return Answer(200, {**call.caller.as_dict(), "roles": sorted(call.caller.roles), "active_group": active})


add_route(blueprint, "health", "GET", "api/health", health, Rule.ANYONE)
add_route(blueprint, "me", "GET", "api/me", me, Rule.SIGNED_IN)
