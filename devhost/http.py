"""HTTP triggers: makes the request that a function gets and writes the response it returns, as the Functions host does.

Where the host is surprising we are too (see FACTS "Functions host: HTTP" in the design): an app that works only here
would be worth nothing. Nothing that a function does reaches further than its own request.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from azure.functions import HttpResponse
from azure.functions.http import HttpRequest
from starlette.types import Receive, Scope, Send

from devhost.bindings import client_parameters, is_disabled
from devhost.functions import HostedFunction
from devhost.routing import Router

log = logging.getLogger("devhost.http")

DEFAULT_BODY_LIMIT = 104_857_600
"""Bytes, unless FUNCTIONS_REQUEST_BODY_SIZE_LIMIT says otherwise."""
_BODILESS = frozenset({204, 205, 304})
_SET_BY_US = frozenset({"content-length", "transfer-encoding", "connection", "set-cookie"})


class RequestAuthentication(Protocol):
    """Plays App Service authentication on a request's headers (lower-cased names), in place."""

    def apply(self, headers: dict[str, str]) -> None:
        """Take away what only the platform may set, and add the caller's principal."""
        ...


@dataclass(frozen=True, slots=True)
class _Endpoint:
    function: HostedFunction
    clients: tuple[str, ...]


class HttpFunctions:
    """The app's HTTP functions as one ASGI application. Functions of other kinds are passed over."""

    def __init__(
        self,
        functions: Iterable[HostedFunction],
        prefix: str,
        client_binding: str,
        authentication: RequestAuthentication,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`prefix` comes before every route (host.json), `client_binding` is what a durableClient parameter receives.

        Raises `RouteError` and `Unserved`.
        """
        self._client_binding = client_binding
        self._authentication = authentication
        self._body_limit = int(environment.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT") or DEFAULT_BODY_LIMIT)
        self._router: Router[_Endpoint] = Router()
        for function in functions:
            if function.kind != "httpTrigger":
                continue
            endpoint = _Endpoint(function, client_parameters(function))
            if is_disabled(function.name, environment):
                log.info("function %s is disabled", function.name)
                continue
            trigger: Any = function.trigger
            route = function.name if trigger.route is None else str(trigger.route)
            methods = [str(getattr(method, "value", method)) for method in trigger.methods or ()]
            self._router.add(function.name, methods, f"{prefix}/{route}", endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (an ASGI `http` scope)."""
        found = self._router.match(scope["method"], scope["raw_path"].decode("ascii", "replace"))
        if found is None:
            await _write(send, 404)
            return
        endpoint, parameters = found
        headers = request_headers(scope["headers"])
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            await _write(send, 400)
            return
        if length > self._body_limit:
            await _write(send, 413, [(b"connection", b"close")])
            return
        body = await _read(receive) if length else b""
        if body is None:
            return
        self._authentication.apply(headers)
        request = HttpRequest(
            method=scope["method"],
            url=_url(scope, headers),
            headers=headers,
            params=_query(scope["query_string"]),
            route_params=parameters,
            body_type="bytes",
            body=body,
        )
        await _respond(send, await self._call(endpoint, request))

    async def _call(self, endpoint: _Endpoint, request: HttpRequest) -> HttpResponse | None:
        """The function's response; None when it has none to give (the log says why)."""
        function = endpoint.function
        arguments: dict[str, Any] = dict.fromkeys(endpoint.clients, self._client_binding)
        arguments[function.parameter] = request
        try:
            response = await function.call(**arguments)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the host is stopping
            log.exception("function %s failed on %s %s", function.name, request.method, request.url)
            return None
        if isinstance(response, HttpResponse):
            return response
        log.error("function %s returned a %s; return an HttpResponse", function.name, type(response).__name__)
        return None


def request_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-cased name; one given several times is joined with commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("utf-8", "replace")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _url(scope: Scope, headers: dict[str, str]) -> str:
    host = headers.get("host")
    if host is None:
        name, port = scope["server"]
        host = f"{name}:{port}"
    query = scope["query_string"]
    path = scope["raw_path"].decode("ascii", "replace")
    return f"{scope['scheme']}://{host}{path}{'?' + query.decode('ascii', 'replace') if query else ''}"


def _query(query: bytes) -> dict[str, str]:
    """Query parameters. Empty values are dropped; a name given several times (in any case) has its values joined."""
    if not query:
        return {}
    values: dict[str, str] = {}
    spelling: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("utf-8", "replace")):
        first = spelling.setdefault(name.lower(), name)
        values[first] = f"{values[first]},{value}" if first in values else value
    return values


async def _read(receive: Receive) -> bytes | None:
    """The request's body; None when its sender went away first."""
    message = await receive()
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else parts[0]
        message = await receive()
    return None


async def _respond(send: Send, response: HttpResponse | None) -> None:
    if response is None:
        await _write(send, 500)
        return
    try:
        status = int(response.status_code)
        headers = _response_headers(response)
        if not 200 <= status <= 599:
            raise ValueError(f"status {status} can't be sent")
    except ValueError:
        log.exception("a response can't be sent")
        await _write(send, 500)
        return
    await _write(send, status, headers, response.get_body())


def _response_headers(response: HttpResponse) -> list[tuple[bytes, bytes]]:
    """Header lines: of one given twice the last wins, cookies excepted. Raises `ValueError` for what HTTP can't carry."""
    given: dict[str, str] = {}
    cookies = []
    for name, value in response.headers.items():
        lowered = name.lower()
        if lowered == "set-cookie":
            cookies.append(str(value))
        given[lowered] = str(value)
    if "content-type" not in given:
        text = response.mimetype.startswith("text/")
        given["content-type"] = f"{response.mimetype}; charset={response.charset}" if text else response.mimetype
    lines = [(name, value) for name, value in given.items() if name not in _SET_BY_US]
    lines += [("set-cookie", cookie) for cookie in cookies]
    for name, value in lines:
        if not name.isascii() or not value.isascii() or "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"header {name!r} has a character that HTTP can't carry")
    return [(name.encode(), value.encode()) for name, value in lines]


async def _write(send: Send, status: int, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b"") -> None:
    headers = headers or []
    if status in _BODILESS:
        body = b""
    else:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
