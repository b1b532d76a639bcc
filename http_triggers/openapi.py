"""The API's description (OpenAPI 3.1), made of the route table and the models; and a page to read it, without any script."""

from __future__ import annotations

import base64
import hashlib
import html
import inspect
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import azure.durable_functions as df
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from http_triggers import answers
from http_triggers.api import DEFAULT_PAGE, MAX_PAGE, ROUTES, Answer, Call, Route, add_route
from http_triggers.contract import (
    JSON,
    OBJECT,
    OPERATIONS,
    Operation,
    Schema,
    Shape,
    changes_something,
    operation_of,
    problems_of,
)
from shared.permissions import Place, Rule

REFERENCE = "#/components/schemas/{model}"
PROBLEM = "application/problem+json"
PARAMETER = re.compile(r"\{(\*?)(\w+)(:[^}]*)?\??\}")
ABOUT = """Runs of AI workflows whose cancel really stops the work.

Errors are problem details (RFC 9457) with a stable `code`. Lists go on with `after` = `next` of the page before. A browser's
request that changes something also carries `X-Requested-With: truestop`."""
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font:13px/1.45 ui-monospace,monospace;overflow-x:auto}summary{cursor:pointer;padding:.25rem 0}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top}"
    "details>div{padding:0 0 .8rem 1.2rem}h2{margin-top:2rem}"
)

blueprint = df.Blueprint()


def _models(modes: dict[type[BaseModel], str]) -> tuple[dict[type[BaseModel], Schema], dict[str, Schema]]:
    """A reference to each model, and all definitions."""
    wanted: list[Any] = list(modes.items())
    references, schema = models_json_schema(wanted, ref_template=REFERENCE)
    by_model: dict[Any, Schema] = {model: reference for (model, _), reference in references.items()}
    return by_model, schema.get("$defs", {})


def _all_models() -> dict[type[BaseModel], str]:
    """Every model of the contract, and whether it is read or written."""
    found: dict[type[BaseModel], str] = {answers.ProblemDetails: "serialization"}
    for operation in OPERATIONS.values():
        if isinstance(operation.body, type):
            found[operation.body] = "validation"
        for shape in operation.answers.values():
            if isinstance(shape, type):
                found[shape] = "serialization"
        if isinstance(operation.items, type):
            found[answers.Listing[operation.items]] = "serialization"  # type: ignore[name-defined]
    return found


@lru_cache(maxsize=1)
def describe() -> dict[str, Any]:
    """The description of every route."""
    references, definitions = _models(_all_models())
    paths: dict[str, dict[str, Any]] = {}
    for name, route in sorted(ROUTES.items(), key=lambda item: item[1].route):
        for path, described in _operations(name, route, references):
            paths.setdefault(path, {})[route.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Truestop", "version": "0.1.0", "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "signIn": {"type": "apiKey", "in": "cookie", "name": "AppServiceAuthSession"},
                "key": {"type": "http", "scheme": "bearer", "description": "A machine's key."},
            },
        },
    }


def _operations(
    name: str, route: Route, references: dict[type[BaseModel], Schema]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths of a route: one, or two for one that ends in an optional path."""
    operation = operation_of(name)
    path = "/" + PARAMETER.sub(lambda found: "" if found[2] == "ignored" else f"{{{found[2]}}}", route.route)
    if operation.items is not None:
        listed = answers.Listing[operation.items]  # type: ignore[name-defined]
        listing = Operation({200: listed}, query=operation.query, paged=operation.paged)
        shorter = path.rpartition("/")[0]
        yield shorter, _described(f"{name}_list", name, route, listing, shorter, references)
        operation = Operation(operation.answers, operation.body)
    yield path, _described(name, name, route, operation, path, references)


def _described(
    operation_id: str,
    name: str,
    route: Route,
    operation: Operation,
    path: str,
    references: dict[type[BaseModel], Schema],
) -> dict[str, Any]:
    """One operation."""
    text = inspect.cleandoc(route.handler.__doc__ or name)
    described: dict[str, Any] = {
        "operationId": operation_id,
        "summary": text.splitlines()[0],
        "tags": [route.handler.__module__.rpartition(".")[2]],
        "parameters": [*_path_parameters(path), *_query_parameters(route, operation), *_headers(route)],
        "responses": _responses(name, operation, references),
        "x-rule": str(route.access.rule),
    }
    if route.access.rule is Rule.ANYONE:
        described["security"] = []
    else:
        described["security"] = [{"signIn": []}, {"key": []}]
    if operation.body is not None:
        content = _content(operation.body, references)
        described["requestBody"] = {"content": content, "required": operation.body not in _OPTIONAL_BODIES}
    return described


_OPTIONAL_BODIES = {
    operation.body
    for operation in OPERATIONS.values()
    if isinstance(operation.body, type) and not any(one.is_required() for one in operation.body.model_fields.values())
}
"""Bodies that may be left out, since nothing in them must be there."""


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(route: Route, operation: Operation) -> Iterator[dict[str, Any]]:
    query: dict[str, Schema] = dict(operation.query)
    if operation.paged:
        limits = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}
        query |= {"limit": limits, "after": {"type": "string"}}
    if route.access.place is Place.GROUP:
        query["group_id"] = {"type": "string", "description": "Default: the caller's active group."}
    for name, schema in query.items():
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _headers(route: Route) -> Iterator[dict[str, Any]]:
    if changes_something(route):
        schema = {"type": "string", "const": "truestop"}
        yield {"name": "X-Requested-With", "in": "header", "required": False, "schema": schema}
    if 412 in problems_of(next(name for name, one in ROUTES.items() if one is route)):
        yield {"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}}


def _content(shape: Shape, references: dict[type[BaseModel], Schema]) -> dict[str, Any]:
    """The content of a body of this shape."""
    if isinstance(shape, type):
        return {JSON: {"schema": references[shape]}}
    if shape == OBJECT:
        return {JSON: {"schema": {"type": "object"}}}
    if shape == "application/octet-stream":
        return {"*/*": {"schema": {}}}
    return {str(shape): {"schema": {"type": "string"}}}


def _responses(name: str, operation: Operation, references: dict[type[BaseModel], Schema]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in sorted(problems_of(name)):
        content = {PROBLEM: {"schema": references[answers.ProblemDetails]}}
        found[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    for status, shape in sorted(operation.answers.items()):
        answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if shape is not None:
            answer["content"] = _content(shape, references)
        found[str(status)] = answer
    return found


async def openapi(_call: Call) -> Answer:
    """GET /api/openapi.json: this description."""
    return Answer(200, describe())


@lru_cache(maxsize=1)
def page() -> bytes:
    """The description as a page."""
    described = describe()
    by_tag: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            by_tag.setdefault(one["tags"][0], []).append(_shown(method.upper(), path, one))
    parts = [f"<h2>{html.escape(tag)}</h2>{''.join(shown)}" for tag, shown in sorted(by_tag.items())]
    schemas = "".join(
        f'<details id="{html.escape(name)}"><summary><code>{html.escape(name)}</code></summary>'
        f"<div><pre>{html.escape(json.dumps(schema, indent=2))}</pre></div></details>"
        for name, schema in sorted(described["components"]["schemas"].items())
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Truestop API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>Truestop API</h1>'
        f'<p>{html.escape(ABOUT)}</p><p><a href="/api/openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}<h2>Shapes</h2>{schemas}</html>"
    ).encode()


def _shown(method: str, path: str, one: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{html.escape(parameter['name'])}</code><td>{parameter['in']}"
        f"<td><code>{html.escape(json.dumps(parameter['schema']))}</code>"
        for parameter in one["parameters"]
    )
    body = _linked(one["requestBody"]["content"]) if "requestBody" in one else "none"
    responses = "".join(
        f"<tr><td>{status}<td>{html.escape(answer['description'])}<td>{_linked(answer.get('content', {}))}"
        for status, answer in sorted(one["responses"].items())
    )
    return (
        f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> {html.escape(one['summary'])}</summary><div>"
        f"<p>Rule: <code>{html.escape(one['x-rule'])}</code>. Body: {body}.</p>"
        f"<table>{parameters}</table><table>{responses}</table></div></details>"
    )


def _linked(content: dict[str, Any]) -> str:
    """What a body is: a link to its shape, or its media type."""
    found = []
    for media, value in content.items():
        name = value["schema"].get("$ref", "").rpartition("/")[2]
        shown = f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' if name else html.escape(media)
        found.append(shown)
    return ", ".join(found)


STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def docs(_call: Call) -> Answer:
    """GET /api/docs: the description to read."""
    return Answer(200, page(), {"Content-Security-Policy": POLICY}, "text/html")


add_route(blueprint, "openapi", "GET", "api/openapi.json", openapi, Rule.ANYONE)
add_route(blueprint, "openapi_docs", "GET", "api/docs", docs, Rule.ANYONE)
