"""Who calls: only what the platform vouches for counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from shared.errors import Problem
from shared.identity import identify, parse_principal

OID = "http://schemas.microsoft.com/identity/claims/objectidentifier"
ON = {"WEBSITE_AUTH_ENABLED": "true"}


def principal(*claims: tuple[str, Any], **more: Any) -> str:
    """A principal header with these claims."""
    body = {
        "auth_typ": "aad",
        "claims": [{"typ": t, "val": v} for t, v in claims],
        "name_typ": "name",
        "role_typ": "roles",
    }
    return base64.b64encode(json.dumps({**body, **more}).encode()).decode()


def test_a_principal_names_the_caller_and_roles() -> None:
    """Guards the claims that Entra sends."""
    caller = identify(
        {"x-ms-client-principal": principal((OID, "a-1"), ("name", "Ann"), ("roles", "Truestop.Admin"))}, ON
    )
    assert (caller.id, caller.name, caller.roles, caller.scope) == ("a-1", "Ann", {"Truestop.Admin"}, "user:a-1")


def test_a_principal_does_not_count_when_authentication_is_off() -> None:
    """Guards against a forged header: the platform strips it only when authentication is on."""
    with pytest.raises(Problem) as caught:
        identify({"x-ms-client-principal": principal((OID, "a-1"))}, {})
    assert (caught.value.status, caught.value.code) == (401, "unauthenticated")


def test_the_development_user_counts_off_azure_only() -> None:
    """Guards that a setting left behind opens nothing on Azure."""
    assert identify({}, {"TRUESTOP_DEV_USER": "dev"}).scope == "user:dev"
    for marker in ("WEBSITE_INSTANCE_ID", "CONTAINER_NAME"):
        with pytest.raises(Problem):
            identify({}, {"TRUESTOP_DEV_USER": "dev", marker: "x"})
    with pytest.raises(Problem):
        identify({}, {"TRUESTOP_DEV_USER": "dev", **ON})


@pytest.mark.parametrize(
    "value",
    [
        "",
        "not base64!",
        base64.b64encode(b"not json").decode(),
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b'{"claims": 5}').decode(),
        base64.b64encode(b"[" * 20_000).decode(),
        principal(),
        principal(("name", "No id")),
        principal((OID, 5)),
        principal((OID, "a"), (OID, "b")),
        principal((OID, "a/b")),
        principal((OID, "")),
        principal((OID, "x" * 200)),
        principal((OID, "a"), ("name", "x" * 40_000)),
    ],
)
def test_what_is_not_exactly_one_principal_is_nobody(value: str) -> None:
    """Guards against malformed, oversize, ambiguous and unusable principals."""
    with pytest.raises(Problem) as caught:
        parse_principal(value)
    assert caught.value.status == 401
