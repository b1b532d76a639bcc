"""Plays App Service authentication for users that a developer makes up.

The app trusts `X-MS-CLIENT-PRINCIPAL` because the platform takes away what clients send under that name and adds its own.
This does both. Who calls is said by a header, `X-Truestop-Dev-User: id[;name[;roles=a,b]]` (UTF-8), or by the cookie of
the sign-in page; there is no password, so the host listens on loopback only. A malformed header or cookie names nobody.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from shared.identity import ID_PATTERN

USER_HEADER = "x-truestop-dev-user"
COOKIE = "truestop_dev_user"
OBJECT_ID = "http://schemas.microsoft.com/identity/claims/objectidentifier"
PROVIDER = "aad"
MAX_NAME = 200
MAX_FORM_BYTES = 8192

_PLATFORM_ONLY = ("x-ms-client-", "x-ms-token-")
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class DevUser:
    """Somebody a developer made up. `roles` are application roles, such as `Truestop.Admin`."""

    id: str
    name: str
    roles: tuple[str, ...] = ()

    def as_text(self) -> str:
        """The user as `parse_user` reads one."""
        return f"{self.id};{self.name}" + (f";roles={','.join(self.roles)}" if self.roles else "")

    def claims(self) -> list[dict[str, str]]:
        """The claims that Microsoft Entra ID would give, one `{typ, val}` each."""
        pairs = [(OBJECT_ID, self.id), ("name", self.name), ("preferred_username", self.id)]
        return [{"typ": kind, "val": value} for kind, value in pairs + [("roles", role) for role in self.roles]]


@lru_cache(maxsize=1024)
def parse_user(text: str) -> DevUser | None:
    """The user in `id[;name[;roles=a,b]]`, or None if it isn't exactly that."""
    parts = [part.strip() for part in text.split(";")]
    user_id, name = parts[0], (parts[1] if len(parts) > 1 else parts[0])
    if len(parts) > 3 or not ID_PATTERN.fullmatch(user_id):
        return None
    # U+FFFD stands where the header was not UTF-8.
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "\ufffd" in name or name.startswith("roles="):
        return None
    if len(parts) < 3:
        return DevUser(user_id, name)
    if not parts[2].startswith("roles="):
        return None
    roles = tuple(role.strip() for role in parts[2].removeprefix("roles=").split(","))
    if not all(_ROLE.fullmatch(role) for role in roles):
        return None
    return DevUser(user_id, name, roles)


def user_of(headers: Mapping[str, str]) -> DevUser | None:
    """Whom a request's headers (lower-cased names) name. The header goes before the cookie, even when malformed."""
    given = headers.get(USER_HEADER)
    if given is not None:
        return parse_user(given)
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return parse_user(unquote(value))
    return None


@lru_cache(maxsize=1024)
def principal_headers(user: DevUser) -> dict[str, str]:
    """What the platform adds to a request of `user`."""
    principal = {"auth_typ": PROVIDER, "claims": user.claims(), "name_typ": "name", "role_typ": "roles"}
    return {
        "x-ms-client-principal": base64.b64encode(json.dumps(principal).encode()).decode(),
        "x-ms-client-principal-id": user.id,
        "x-ms-client-principal-name": user.name,
        "x-ms-client-principal-idp": PROVIDER,
    }


SUGGESTED = DevUser("demo", "Demo User")
"""Whom the sign-in page suggests: the owner of the demo data."""


class Authentication:
    """App Service authentication, on: what the host asks of each request for the app, and the pages below `/.auth/`."""

    def apply(self, headers: dict[str, str]) -> None:
        """Take away what only the platform may set; add the principal of the user, if there is one."""
        for name in [name for name in headers if name.startswith(_PLATFORM_ONLY)]:
            del headers[name]
        user = user_of(headers)
        headers.pop(USER_HEADER, None)
        if user is not None:
            headers.update(principal_headers(user))

    def routes(self) -> list[Route]:
        """`/.auth/login/dev` (also under the name that the real provider has), `/.auth/logout`, `/.auth/me`."""
        pages = [Route(f"/.auth/login/{name}", _login, methods=["GET", "POST"]) for name in ("dev", PROVIDER)]
        return [*pages, Route("/.auth/logout", _logout), Route("/.auth/me", _me)]


def local_path(given: str | None) -> str:
    """`given` if it is a path on this host, else `/`: a redirect must not lead anywhere else."""
    if not given or not given.startswith("/") or given.startswith("//"):
        return "/"
    if "\\" in given or not given.isprintable() or not given.isascii() or " " in given:
        return "/"  # browsers read a backslash as a slash, and drop tabs and line breaks
    return given


def _headers(headers: Headers) -> dict[str, str]:
    # Starlette decodes as latin-1; the user header is UTF-8.
    return {name: value.encode("latin-1").decode("utf-8", "replace") for name, value in headers.items()}


async def _login(request: Request) -> Response:
    if request.method == "POST":
        return await _sign_in(request)
    target = local_path(request.query_params.get("post_login_redirect_uri"))
    return _page(target, user_of(_headers(request.headers)))


async def _sign_in(request: Request) -> Response:
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return Response("Sign in from this host's own page.", 403, media_type="text/plain")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return Response("The form is too large.", 413, media_type="text/plain")
    form = {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
    user_id, target = form.get("id", "").strip(), local_path(form.get("target"))
    text = ";".join([user_id, form.get("name", "").strip() or user_id])
    roles = form.get("roles", "").strip()
    user = parse_user(f"{text};roles={roles}" if roles else text)
    if user is None:
        return _page(target, None, "That is not a usable user: an id has letters, digits and . _ @ + - only.", 400)
    response = RedirectResponse(target, 303)
    response.set_cookie(COOKIE, quote(user.as_text(), safe=""), path="/", httponly=True, samesite="lax")
    return response


async def _logout(request: Request) -> Response:
    response = RedirectResponse(local_path(request.query_params.get("post_logout_redirect_uri")), 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
    return response


async def _me(request: Request) -> Response:
    user = user_of(_headers(request.headers))
    found: list[dict[str, Any]] = []
    if user is not None:
        found.append({"provider_name": PROVIDER, "user_id": user.name, "user_claims": user.claims()})
    return JSONResponse(found, headers={"cache-control": "no-store"})


_FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sign in - Truestop development host</title>
<style>
:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:4rem auto;padding:0 1rem}}
label{{display:block;margin:1rem 0 .25rem}}input{{width:100%;box-sizing:border-box;font:inherit;padding:.5rem}}
button{{font:inherit;margin-top:1.5rem;padding:.5rem 1.5rem}}small{{display:block;margin-top:2rem}}
</style></head><body><main>
<h1>Sign in</h1><p>{note}</p>
<form method="post" action="/.auth/login/dev"><input type="hidden" name="target" value="{target}">
<label for="id">User id</label><input id="id" name="id" value="{id}" required autofocus autocomplete="username">
<label for="name">Name</label><input id="name" name="name" value="{name}" maxlength="200" autocomplete="name">
<label for="roles">Application roles, comma-separated</label>
<input id="roles" name="roles" value="{roles}" placeholder="Truestop.Admin" autocomplete="off">
<button type="submit">Sign in</button></form>
<small>This is the development host's stand-in for App Service authentication: any user will do.</small>
</main></body></html>
"""


def _page(target: str, user: DevUser | None, problem: str | None = None, status: int = 200) -> Response:
    note = problem or (f"You are signed in as {user.name}." if user else "Choose who you are on this machine.")
    user = user or SUGGESTED
    values = {"note": note, "target": target, "id": user.id, "name": user.name, "roles": ",".join(user.roles)}
    safe = {name: html.escape(value) for name, value in values.items()}
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(_FORM.format(**safe), status, {"content-security-policy": policy, "cache-control": "no-store"})
