"""What every route shares: who calls, what they sent, and how they are answered.

A handler takes a `Call` and returns an `Answer` or raises `Problem`. Everything else (identity, whether the caller may,
cross-site requests, body limits, unexpected errors) is decided here, once, before the handler runs.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import azure.durable_functions as df
import azure.functions as func
from pydantic import BaseModel, ValidationError

from shared import keys
from shared.access import Grant, confirm, decide
from shared.definitions import invalid, validation_errors
from shared.errors import Misconfigured, Problem, Throttled, TooLarge, Unavailable
from shared.identity import Caller, identify
from shared.jsontext import parsed
from shared.permissions import Access, Place, Rule, declare
from shared.services import Services, get_services
from shared.store.port import Page, Query

log = logging.getLogger(__name__)

MAX_JSON_BYTES = 1024 * 1024
MAX_PAGE, DEFAULT_PAGE = 200, 50
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer that doesn't say otherwise."""
SAFE_METHODS = ("GET", "HEAD")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer: `body` is JSON-able, or bytes with a `content_type`; None: no body."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in: its route's rule holds."""

    request: func.HttpRequest
    services: Services
    grant: Grant
    client: df.DurableOrchestrationClient | None = None

    @property
    def caller(self) -> Caller:
        """Who calls. Not for routes that anyone may call."""
        assert self.grant.caller is not None
        return self.grant.caller

    @property
    def scope(self) -> str:
        """The scope that the call is about. For routes whose rule holds in one scope."""
        (scope,) = self.grant.scopes
        return scope

    async def confirm(self, scope: str | None = None) -> None:
        """Decide again (about `scope`, default: the call's), just before something is accepted. Raises `Problem`."""
        await confirm(self.services, self.grant, scope or self.scope)

    def route(self, name: str) -> str:
        """A route parameter; empty when it is absent."""
        value: str = self.request.route_params.get(name, "")
        return value

    def raw(self, limit: int) -> bytes:
        """The body. Raises `Problem` 413 `body_too_large` over `limit` bytes."""
        body: bytes = self.request.get_body()
        if len(body) > limit:
            raise Problem(413, "body_too_large", f"the body is over {limit} bytes")
        return body

    def json(self) -> Any:
        """The body as JSON, `{}` when empty. Raises `Problem` 400 `malformed_json`, 413."""
        body = self.raw(MAX_JSON_BYTES)
        if not body.strip():
            return {}
        try:
            return parsed(body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise Problem(400, "malformed_json", f"the body is not JSON: {error}") from None

    def parse(self, model: type[Model]) -> Model:
        """The body as `model`. Raises `Problem` 422 `invalid` with an error a field."""
        try:
            return model.model_validate(self.json())
        except ValidationError as error:
            raise invalid(validation_errors(error), "the body") from None

    def page(self) -> tuple[int, str | None]:
        """`limit` and `after`. Raises `Problem` 422."""
        text = self.request.params.get("limit", str(DEFAULT_PAGE))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= MAX_PAGE:
            raise invalid([{"field": "limit", "message": f"must be a whole number from 1 to {MAX_PAGE}"}], "the query")
        return int(text), self.request.params.get("after")

    def matching(self, name: str, pattern: re.Pattern[str]) -> str | None:
        """A query parameter that matches `pattern`, or None. Raises `Problem` 422."""
        value: str | None = self.request.params.get(name)
        if value is not None and not pattern.fullmatch(value):
            raise invalid([{"field": name, "message": f"must match {pattern.pattern}"}], "the query")
        return value

    async def query(self, query: Query) -> Page:
        """One page of a list. Raises `Problem` 422 for an `after` that isn't this list's."""
        try:
            return await self.services.store.query(query)
        except ValueError:
            raise foreign_token() from None

    def choice(self, name: str, allowed: list[str]) -> str | None:
        """A query parameter that is one of `allowed`, or None. Raises `Problem` 422."""
        value: str | None = self.request.params.get(name)
        if value is not None and value not in allowed:
            raise invalid([{"field": name, "message": f"must be one of {', '.join(allowed)}"}], "the query")
        return value

    def revision(self) -> int | None:
        """The revision in `If-Match`; None when any will do. Raises `Problem` 412 for one that can't match."""
        value = self.request.headers.get("if-match", "*").strip()
        if value == "*":
            return None
        text = value.removeprefix("W/").strip('"')
        if not text.isascii() or not text.isdigit():
            raise Problem(412, "revision_changed", "If-Match names no revision of this workflow")
        return int(text[:18])


def foreign_token() -> Problem:
    """The answer for an `after` that isn't this list's."""
    return invalid([{"field": "after", "message": "is not a token of this list"}], "the query")


def listing(items: list[Any], after: str | None) -> Answer:
    """A page of a list."""
    return Answer(200, {"items": items, "next": after})


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A registered route: what the API's description is made of."""

    method: str
    route: str
    handler: Handler
    access: Access


ROUTES: dict[str, Route] = {}
"""Every route, by its function's name."""


def add_route(
    blueprint: df.Blueprint,
    name: str,
    method: str,
    route: str,
    handler: Handler,
    rule: Rule,
    *,
    place: Place = Place.NOWHERE,
    starts_or_wakes: bool = False,
) -> None:
    """Register `handler` for one method of a route, for those of whom `rule` holds at `place`.

    `starts_or_wakes`: it needs the Durable client.
    """
    access = declare(name, rule, place)
    ROUTES[name] = Route(method, route, handler, access)

    async def plain(request: func.HttpRequest) -> func.HttpResponse:
        return await respond(access, handler, request, None)

    async def durable(request: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
        return await respond(access, handler, request, client)

    function: Any = durable if starts_or_wakes else plain
    # The worker checks the annotations themselves, so they can't be the strings that this module's future import makes.
    function.__annotations__ = {"request": func.HttpRequest, "return": func.HttpResponse}
    if starts_or_wakes:
        function = blueprint.durable_client_input(client_name="client")(function)
    function = blueprint.route(route=route, methods=[method], trigger_arg_name="request")(function)
    blueprint.function_name(name)(function)


def add_scoped_route(
    blueprint: df.Blueprint,
    name: str,
    method: str,
    tail: str,
    handler: Handler,
    rule: Rule,
    *,
    starts_or_wakes: bool = False,
) -> None:
    """Register `handler` for personal scopes and for groups; `tail` is the route below `api/user/` and `api/group/`."""
    for prefix, kind, place in (("", "user", Place.PERSONAL), ("group_", "group", Place.GROUP)):
        route = f"api/{kind}/{tail}"
        add_route(blueprint, prefix + name, method, route, handler, rule, place=place, starts_or_wakes=starts_or_wakes)


async def respond(
    access: Access, handler: Handler, request: func.HttpRequest, client: df.DurableOrchestrationClient | None
) -> func.HttpResponse:
    """Let the caller in and run `handler`. Whatever happens becomes an answer (an exception would be an empty 500)."""
    try:
        headers = {name.lower(): value for name, value in request.headers.items()}
        refuse_cross_site(request.method, headers)
        services = get_services()
        caller = await _caller(services, access, headers)
        grant = await decide(services, access, caller, _group_of(access, request))
        answer = await handler(Call(request, services, grant, client))
    except Problem as problem:
        answer = problem_answer(problem, request, _retry_after(problem))
    except (Throttled, Unavailable) as error:
        log.warning("%s %s: %s", request.method, request.url, error)
        answer = store_answer(error, request)
    except TooLarge as error:
        answer = problem_answer(Problem(413, "too_large", str(error)), request)
    except Exception:
        log.exception("%s %s failed", request.method, request.url)
        answer = problem_answer(Problem(500, "internal_error", "something went wrong; it was logged"), request)
    return write(answer)


async def _caller(services: Services, access: Access, headers: Mapping[str, str]) -> Caller | None:
    """Who calls, None if anyone may. Raises `Problem` 401, and 429 `rate_limited`."""
    if access.rule is Rule.ANYONE:
        return None
    token = keys.token_of(headers)
    caller = identify(headers, os.environ) if token is None else await keys.caller_of(services, token)
    services.limits.refuse(access.rule, caller)
    return caller


def _retry_after(problem: Problem) -> dict[str, str]:
    seconds = problem.extra.get("retry_after")
    return {"Retry-After": str(seconds)} if seconds is not None else {}


def _group_of(access: Access, request: func.HttpRequest) -> str | None:
    """The group that a request names, if it does."""
    if access.place is Place.NAMED_GROUP:
        return str(request.route_params["gid"])
    named: str | None = request.params.get("group_id")
    return named


def store_answer(error: Throttled | Unavailable, request: func.HttpRequest) -> Answer:
    """What a caller is told of the store: no addresses, and which setting an operator should look at."""
    if isinstance(error, Misconfigured):
        look = f"an operator should look at {' and '.join(error.settings)}; the log says more"
        problem = Problem(503, "store_misconfigured", f"the store refuses this service, or lacks what it needs: {look}")
        return problem_answer(problem, request, {"Retry-After": "30"})
    after = str(max(1, round(error.retry_after))) if isinstance(error, Throttled) else "2"
    busy = Problem(503, "store_unavailable", "the store can't be reached just now; try again")
    return problem_answer(busy, request, {"Retry-After": after})


def write(answer: Answer) -> func.HttpResponse:
    """The response of an answer, which is private: nothing in between may keep it, and no page may be made of it."""
    headers = {**HEADERS, **answer.headers}
    body = answer.body
    if body is None:
        return func.HttpResponse(status_code=answer.status, headers=headers)
    if not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return func.HttpResponse(body, status_code=answer.status, headers=headers, mimetype=answer.content_type)


def problem_answer(problem: Problem, request: func.HttpRequest, headers: Mapping[str, str] | None = None) -> Answer:
    """A problem as RFC 9457 has it."""
    path = "/" + request.url.split("://", 1)[-1].partition("/")[2].partition("?")[0]
    body: dict[str, Any] = {
        "type": f"urn:truestop:error:{problem.code}",
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
        "code": problem.code,
        **problem.extra,
    }
    if problem.errors:
        body["errors"] = [dict(error) for error in problem.errors]
    return Answer(problem.status, body, headers or {}, "application/problem+json")


def refuse_cross_site(method: str, headers: Mapping[str, str]) -> None:
    """A state-changing request from a browser must come from our own page. Raises `Problem` 403 `cross_origin`."""
    origin = headers.get("origin")
    if method in SAFE_METHODS or (origin is None and "cookie" not in headers):
        return
    same = origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()
    if not same or headers.get("x-requested-with") != "truestop":
        raise Problem(
            403, "cross_origin", "a browser's request must come from this site with X-Requested-With: truestop"
        )
