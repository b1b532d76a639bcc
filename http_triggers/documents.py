"""Routes of a scope's documents: list, upload, download, delete."""

from __future__ import annotations

from dataclasses import asdict

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_scoped_route, foreign_token, listing
from shared.blobs import BlobInfo
from shared.definitions import invalid
from shared.documents import Documents, validate_name
from shared.errors import NotFound, Problem, StepFailed
from shared.permissions import Rule

DOCUMENT = "documents/{*path}"

blueprint = df.Blueprint()


def _documents(call: Call) -> Documents:
    return Documents(call.services.blobs, call.scope)


def _name(call: Call) -> str:
    name = call.route("path")
    try:
        validate_name(name)
    except ValueError as error:
        raise invalid([{"field": "path", "message": str(error)}], "the document's name") from None
    return name


def _not_found() -> Problem:
    return Problem(404, "document_not_found", "there is no such document")


async def read(call: Call) -> Answer:
    """GET /api/user/documents (list, `?prefix=`), and /api/user/documents/{path}."""
    if not call.route("path"):
        return await _list(call)
    try:
        blob = await _documents(call).get(_name(call))
    except NotFound:
        raise _not_found() from None
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox", "ETag": f'"{blob.info.etag}"'}
    return Answer(200, blob.data, headers, blob.info.content_type)


async def _list(call: Call) -> Answer:
    limit, after = call.page()
    prefix = call.request.params.get("prefix", "")
    try:
        validate_name(f"{prefix}x")
    except ValueError as error:
        raise invalid([{"field": "prefix", "message": str(error)}], "the query") from None
    try:
        page = await _documents(call).list(prefix, limit, after)
    except ValueError:
        raise foreign_token() from None
    return listing([_shown(info) for info in page.items], page.next)


def _shown(info: BlobInfo) -> dict[str, object]:
    return asdict(info)


async def put(call: Call) -> Answer:
    """PUT /api/user/documents/{path}: the body is the document."""
    body = call.raw(call.services.settings.document_max_bytes)
    if not body:
        raise invalid([{"field": "body", "message": "is empty"}], "the document")
    content_type = call.request.headers.get("content-type", "application/octet-stream")[:200]
    await call.confirm()
    try:
        info = await _documents(call).put(_name(call), body, content_type)
    except StepFailed as error:
        raise Problem(413, "body_too_large", error.detail) from None
    return Answer(200, _shown(info))


async def delete(call: Call) -> Answer:
    """DELETE /api/user/documents/{path}."""
    name, documents = _name(call), _documents(call)
    try:
        await documents.get(name)
    except NotFound:
        raise _not_found() from None
    await call.confirm()
    await documents.delete(name)
    return Answer(204)


add_scoped_route(blueprint, "documents_read", "GET", DOCUMENT, read, Rule.DOCUMENTS_READ)
add_scoped_route(blueprint, "documents_put", "PUT", DOCUMENT, put, Rule.DOCUMENTS_WRITE)
add_scoped_route(blueprint, "documents_delete", "DELETE", DOCUMENT, delete, Rule.DOCUMENTS_WRITE)
