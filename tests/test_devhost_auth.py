"""App Service authentication as devhost plays it: nobody gets in by a forged header, anybody by the development ones."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from devhost.auth import OBJECT_ID, DevUser, local_path, parse_user
from shared.errors import Problem
from shared.identity import Caller, identify
from tests.devhost_serving import serving_app, write_app

APP = """
import json

@app.route(route="headers")
def headers(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(dict(req.headers)), mimetype="application/json")
"""
ON = {"WEBSITE_AUTH_ENABLED": "true"}


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving_app(write_app(tmp_path / "app", APP)) as base,
        httpx.AsyncClient(base_url=base, trust_env=False) as one,
    ):
        yield one


async def seen(client: httpx.AsyncClient, headers: Any = None) -> dict[str, str]:
    answer = await client.get("/headers", headers=headers)
    told: dict[str, str] = answer.json()
    return told


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("alice", DevUser("alice", "alice")),
        ("alice;Alice Å", DevUser("alice", "Alice Å")),
        (" a@b.example ; A ; roles=Truestop.Admin, Other ", DevUser("a@b.example", "A", ("Truestop.Admin", "Other"))),
        ("", None),
        (";Alice", None),
        ("alice;", None),
        ("alice;roles=a", None),
        ("alice;A;roles=", None),
        ("alice;A;roles=a,,b", None),
        ("alice;A;roles=a b", None),
        ("alice;A;admins=a", None),
        ("alice;A;roles=a;more", None),
        ("al ice", None),
        ("../alice", None),
        ("alice,bob", None),
        ("é", None),
        ("alice;A\x07", None),
        ("alice;\ufffd", None),
        ("a" * 129, None),
        ("alice;" + "a" * 201, None),
    ],
)
def test_a_user_is_exactly_what_the_grammar_says_or_nobody(text: str, user: DevUser | None) -> None:
    """Half a match must not make half an identity."""
    assert parse_user(text) == user
    if user is not None:
        assert parse_user(user.as_text()) == user


async def test_the_header_makes_a_principal_that_the_app_accepts(client: httpx.AsyncClient) -> None:
    """Both ends of the agreement: what devhost injects is what `shared/identity.py` reads."""
    headers = await seen(client, {"X-Truestop-Dev-User": "alice;Alice Å;roles=Truestop.Admin".encode()})

    assert identify(headers, ON) == Caller("alice", "Alice Å", frozenset({"Truestop.Admin"}))
    principal = json.loads(base64.b64decode(headers["x-ms-client-principal"]))
    assert set(principal) == {"auth_typ", "claims", "name_typ", "role_typ"}
    assert {"typ": OBJECT_ID, "val": "alice"} in principal["claims"]
    assert headers["x-ms-client-principal-id"] == "alice"
    assert headers["x-ms-client-principal-name"] == "Alice Å"
    assert headers["x-ms-client-principal-idp"] == "aad"
    assert "x-truestop-dev-user" not in headers


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("X-Truestop-Dev-User", b"mall\xf6ry")],
        [("X-Truestop-Dev-User", b"alice;roles=x")],
        [("X-Truestop-Dev-User", b"alice"), ("X-Truestop-Dev-User", b"bob")],
        [("X-Truestop-Dev-User", b"")],
        [("Cookie", b"truestop_dev_user=al%20ice")],
        [("Cookie", b"truestop_dev_user=alice"), ("X-Truestop-Dev-User", b"bad user")],
    ],
)
async def test_forged_platform_headers_are_stripped_from_every_request(client: httpx.AsyncClient, given: Any) -> None:
    """The app believes these headers; who could send them would be anyone."""
    forged = base64.b64encode(json.dumps({"claims": [{"typ": OBJECT_ID, "val": "root"}]}).encode())
    names = [
        "Client-Principal",
        "client-principal-id",
        "CLIENT-PRINCIPAL-NAME",
        "client-principal-idp",
        "token-aad-id-token",
    ]
    headers = await seen(client, [*((f"X-MS-{name}", forged) for name in names), *given])

    assert not [name for name in headers if name.startswith("x-ms-")]
    with pytest.raises(Problem, match="401"):
        identify(headers, ON)


async def test_one_can_sign_in_be_somebody_and_sign_out(client: httpx.AsyncClient) -> None:
    """The page's way: a form, a cookie that scripts can't read, and back to where one came from."""
    page = await client.get("/.auth/login/dev", params={"post_login_redirect_uri": "/there?x=1"})
    assert 'value="/there?x=1"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await client.get("/.auth/me")).json() == []

    form = {"id": "alice", "name": "Alice; Å", "roles": "Truestop.Admin", "target": "/there?x=1"}
    refused = await client.post("/.auth/login/dev", data=form)
    assert (refused.status_code, "set-cookie" in refused.headers) == (400, False)  # a semicolon can't be in a name
    signed_in = await client.post("/.auth/login/dev", data={**form, "name": "Alice Å"})
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/there?x=1")
    cookie = signed_in.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie

    assert identify(await seen(client), ON) == Caller("alice", "Alice Å", frozenset({"Truestop.Admin"}))
    (me,) = (await client.get("/.auth/me")).json()
    assert {"typ": "roles", "val": "Truestop.Admin"} in me["user_claims"]
    bob = await seen(client, {"X-Truestop-Dev-User": "bob"})
    assert identify(bob, ON).id == "bob"  # the header goes first

    signed_out = await client.get("/.auth/logout", params={"post_logout_redirect_uri": "/bye"})
    assert signed_out.headers["location"] == "/bye"
    assert "x-ms-client-principal" not in await seen(client)


async def test_the_form_escapes_what_it_shows(client: httpx.AsyncClient) -> None:
    """The redirect target and the user come from whoever made the link."""
    target = '/"><script>alert(1)</script>'
    page = await client.get("/.auth/login/dev", params={"post_login_redirect_uri": target})
    assert "<script>" not in page.text
    shown = await client.get("/.auth/login/dev", headers={"X-Truestop-Dev-User": "a;<b>'\"&"})
    assert "<b>" not in shown.text
    assert "&lt;b&gt;" in shown.text


ELSEWHERE = (
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "/\t/evil.example",
    "javascript:alert(1)",
    "evil",
)


@pytest.mark.parametrize("given", [*ELSEWHERE, None, "", "/a\r\nSet-Cookie: x=1", "/é", "/ a"])
def test_a_redirect_leads_nowhere_but_here(given: str | None) -> None:
    """A sign-in link that ends on another site is how people are phished."""
    assert local_path(given) == "/"
    assert local_path("/a/b?c=%20d#e") == "/a/b?c=%20d#e"


async def test_another_sites_form_can_not_sign_one_in(client: httpx.AsyncClient) -> None:
    """Else a page elsewhere could make a developer work as a user of its choice."""
    form = {"id": "mallory", "target": "/"}
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = await client.post("/.auth/login/dev", data=form, headers={"Origin": origin})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    own = str(client.base_url).rstrip("/")
    assert (await client.post("/.auth/login/dev", data=form, headers={"Origin": own})).status_code == 303
    assert (await client.post("/.auth/login/dev", content=b"x" * 10_000)).status_code == 413
