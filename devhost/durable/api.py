"""The HTTP management API of Durable Functions, which is also what the Python SDK's client calls.

Paths, statuses, headers and answers are those of the recordings (golden `http.jsonl`); URLs in answers are built from
the request, so they work through whatever address the caller used.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devhost.durable import events, views
from devhost.durable.events import Event, compact
from devhost.durable.hub import InstanceEnded, InstanceExists, UnknownInstance

if TYPE_CHECKING:
    from devhost.durable.engine import DurableEngine

WEBHOOKS = "/runtime/webhooks/durabletask"
RPC = "/durabletask"
CODE = "code=devhost"
RETRY_START_SECONDS = "10"
RETRY_STATUS_SECONDS = "5"
LONGEST_ID = 256

_OPERATIONS = {
    "sendEventPostUri": "/raiseEvent/{eventName}",
    "terminatePostUri": "/terminate?reason={text}",
    "rewindPostUri": "/rewind?reason={text}",
    "purgeHistoryDeleteUri": "",
    "restartPostUri": "/restart",
    "suspendPostUri": "/suspend?reason={text}",
    "resumePostUri": "/resume?reason={text}",
}


def management_urls(base_url: str, hub: str, instance_id: str) -> dict[str, str]:
    """Where to ask for, and act on, an instance."""
    instance = f"{base_url}{WEBHOOKS}/instances/{quote(instance_id, safe=':')}"
    query = f"taskHub={hub}&connection=Storage&{CODE}"
    urls = {"id": instance_id, "statusQueryGetUri": f"{instance}?{query}"}
    for name, suffix in _OPERATIONS.items():
        urls[name] = f"{instance}{suffix}{'&' if '?' in suffix else '?'}{query}"
    return urls


def client_binding(base_url: str, hub: str) -> str:
    """The JSON for a `durableClient` parameter."""
    start = f"{base_url}{WEBHOOKS}/orchestrators/{{functionName}}[/{{instanceId}}]"
    wait = "timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}"
    return compact(
        {
            "taskHubName": hub,
            "connectionName": None,
            "creationUrls": {
                "createNewInstancePostUri": f"{start}?{CODE}",
                "createAndWaitOnNewInstancePostUri": f"{start}?{wait}&{CODE}",
            },
            "managementUrls": management_urls(base_url, hub, "INSTANCEID"),
            "baseUrl": f"{base_url}{WEBHOOKS}",
            "requiredQueryStringParameters": CODE,
            "rpcBaseUrl": f"{base_url}{RPC}/",
            "httpBaseUrl": None,
            "maxGrpcMessageSizeInBytes": None,
            "grpcHttpClientTimeout": None,
        }
    )


def routes(engine: DurableEngine) -> list[Route]:
    """The API's routes, under both prefixes."""
    handlers = _Api(engine)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/orchestrators/{name}", handlers.start),
        ("POST", "/orchestrators/{name}/{instance_id}", handlers.start),
        ("GET", "/instances", handlers.list),
        ("GET", "/instances/", handlers.list),
        ("DELETE", "/instances", handlers.purge_many),
        ("DELETE", "/instances/", handlers.purge_many),
        ("GET", "/instances/{instance_id}", handlers.status),
        ("DELETE", "/instances/{instance_id}", handlers.purge),
        ("POST", "/instances/{instance_id}/raiseEvent/{event}", handlers.raise_event),
        ("POST", "/instances/{instance_id}/terminate", partial(handlers.tell, events.execution_terminated)),
        ("POST", "/instances/{instance_id}/suspend", partial(handlers.tell, events.execution_suspended)),
        ("POST", "/instances/{instance_id}/resume", partial(handlers.tell, events.execution_resumed)),
        ("POST", "/instances/{instance_id}/rewind", handlers.unsupported),
        ("POST", "/instances/{instance_id}/restart", handlers.unsupported),
    ]
    return [
        Route(prefix + path, _answering(handler), methods=[method])
        for prefix in (WEBHOOKS, RPC)
        for method, path, handler in table
    ]


def _answering(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except UnknownInstance:
            return Response(status_code=404)
        except InstanceEnded:
            return Response(status_code=410)
        except InstanceExists as error:
            return _json(409, {"Message": str(error)})
        except ValueError as error:
            return _json(400, {"Message": str(error)})

    return endpoint


def _json(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status_code=status, headers=headers, media_type="application/json; charset=utf-8")


class _Api:
    def __init__(self, engine: DurableEngine) -> None:
        self._engine = engine

    async def start(self, request: Request) -> Response:
        given = request.path_params.get("instance_id")
        if given is not None:
            _check_id(given)
        body = await _json_body(request)
        instance_id = await self._engine.start_instance(request.path_params["name"], given, body)
        urls = management_urls(_base_url(request), self._engine.hub, instance_id)
        urls.pop("rewindPostUri")  # only the client binding lists it
        return _json(202, urls, {"Location": urls["statusQueryGetUri"], "Retry-After": RETRY_START_SECONDS})

    async def status(self, request: Request) -> Response:
        instance = self._engine.instance(request.path_params["instance_id"])
        body = views.status(instance, show_input=_flag(request, "showInput", True))
        if _flag(request, "showHistory", False):
            history = await self._engine.history(instance.id)
            body["historyEvents"] = views.history(history, show_output=_flag(request, "showHistoryOutput", False))
        if instance.ended:
            return _json(200, body)
        return _json(202, body, {"Location": str(request.url), "Retry-After": RETRY_STATUS_SECONDS})

    async def list(self, request: Request) -> Response:
        chosen = views.matching(await self._engine.instances(), request.query_params)
        show_input = _flag(request, "showInput", True)
        return _json(200, [views.status(instance, show_input=show_input) for instance in chosen])

    async def purge(self, request: Request) -> Response:
        instance = self._engine.instance(request.path_params["instance_id"])
        if not instance.ended:
            return _json(
                409, {"Message": f"Instance '{instance.id}' is {instance.status}; only one that ended can be purged"}
            )
        await self._engine.purge([instance.id])
        return _json(200, {"instancesDeleted": 1})

    async def purge_many(self, request: Request) -> Response:
        found = views.matching(await self._engine.instances(), request.query_params)
        doomed = [instance.id for instance in found if instance.ended]
        if not doomed:
            return Response(status_code=404)
        await self._engine.purge(doomed)
        return _json(200, {"instancesDeleted": len(doomed)})

    async def raise_event(self, request: Request) -> Response:
        instance_id, name = request.path_params["instance_id"], request.path_params["event"]
        if self._engine.instance(instance_id).ended:
            raise InstanceEnded(instance_id)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ValueError("Only application/json request content is supported")
        body = await _json_body(request)
        if body is None:
            raise ValueError("An event needs a JSON body; send null for none")
        text = compact(json.loads(body))
        await self._engine.send(instance_id, lambda at: events.event_raised(at, name, text))
        return Response(status_code=202)

    async def tell(self, make: Callable[[float, str | None], Event], request: Request) -> Response:
        reason = request.query_params.get("reason")
        await self._engine.send(request.path_params["instance_id"], lambda at: make(at, reason))
        return Response(status_code=202)

    async def unsupported(self, request: Request) -> Response:
        operation = request.url.path.rpartition("/")[2]
        return _json(501, {"Message": f"{operation} is not supported by devhost"})


def _base_url(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


def _flag(request: Request, name: str, default: bool) -> bool:
    value = request.query_params.get(name)
    return default if value is None else value.lower() == "true"


async def _json_body(request: Request) -> str | None:
    """The body as JSON text, or None if there is none. Raises ValueError."""
    raw = await request.body()
    if not raw.strip():
        return None
    try:
        text = raw.decode()
        json.loads(text)
    except ValueError as error:
        raise ValueError("Invalid JSON content") from error
    return text


def _check_id(instance_id: str) -> None:
    """The rules of the Azure Storage backend. Raises ValueError."""
    bad = not instance_id or len(instance_id) > LONGEST_ID or instance_id.startswith("@")
    if bad or any(character in "/\\#?" or ord(character) < 32 for character in instance_id):
        raise ValueError(
            f"Instance ids have 1 to {LONGEST_ID} characters, none of them / \\ # ? or a control character, and do not "
            "begin with @."
        )
