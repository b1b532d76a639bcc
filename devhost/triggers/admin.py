"""`POST /admin/functions/NAME` with `{"input": "…"}`: calls a function by hand, as the host's own endpoint does.

It answers before the function has run. Like the host, it also calls functions that are disabled.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

log = logging.getLogger("devhost.triggers")

PATH = "/admin/functions/{name}"
MAX_BODY = 1024 * 1024

ByHand = Callable[[str | None], Awaitable[None]]


class _BadInvocation(Exception):
    """The body is not an invocation."""


def routes(functions: Collection[str], by_hand: Mapping[str, ByHand]) -> list[Route]:
    """The endpoint for `functions`; those in `by_hand` can be called. Names are found in any case, as in the host."""
    known = {name.lower() for name in functions}
    calls = {name.lower(): call for name, call in by_hand.items()}
    running: set[asyncio.Task[None]] = set()

    async def invoke(request: Request) -> Response:
        try:
            given = await _input(request)
        except _BadInvocation:
            return Response(status_code=400)
        name = request.path_params["name"].lower()
        if name not in known:
            return Response(status_code=404)
        if name not in calls:
            return Response("devhost calls only functions of timers, queues and blobs by hand.", 501)
        task = asyncio.create_task(_call(name, calls[name], given))
        running.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(running.discard)
        return Response(status_code=202)

    return [Route(PATH, invoke, methods=["POST"])]


async def _call(name: str, call: ByHand, given: str | None) -> None:
    try:
        await call(given)
    except Exception:
        log.exception("function %s could not be called by hand", name)


async def _input(request: Request) -> str | None:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise _BadInvocation
    try:
        invocation = json.loads(body)
    except (ValueError, RecursionError):
        raise _BadInvocation from None
    given = invocation.get("input") if isinstance(invocation, dict) else invocation
    if not isinstance(invocation, dict) or not isinstance(given, str | None):
        raise _BadInvocation
    return given
