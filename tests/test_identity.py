"""Who calls: only what the platform vouches for counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Problem
from shared.identity import ID_PATTERN, SET_BY_AZURE, identify, parse_principal

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


GOOD = principal((OID, "a-1"), ("name", "Ann"))


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
    for marker in SET_BY_AZURE:
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
        base64.b64encode(b'{"claims": {"typ": "oid", "val": "a"}}').decode(),
        base64.b64encode(b'{"claims": "oid"}').decode(),
        base64.b64encode(b'{"claims": [["typ", "val"]]}').decode(),
        base64.b64encode(b"[" * 20_000).decode(),
        base64.b64encode(json.dumps({"claims": [{"typ": OID, "val": "a"}]}).encode("utf-16")).decode(),
        base64.b64encode(b'{"claims": [], "claims": [{"typ": "oid", "val": "a"}]}').decode(),
        base64.b64encode(b'{"claims": [{"typ": "oid", "val": "a", "val": "b"}]}').decode(),
        f"{GOOD},{GOOD}",
        f"{GOOD}\n",
        GOOD[:-2],
        GOOD + "A",
        principal(),
        principal(("name", "No id")),
        principal((OID, 5)),
        principal((OID, "a"), (OID, "b")),
        principal((OID, "a"), ("oid", "b")),
        principal((OID, "a"), ("name", None)),
        principal((OID, "a"), ("name", "\ud800")),
        principal((OID, "a"), ("roles", ["Truestop.Admin"])),
        principal((OID, "a\n")),
        principal((OID.upper(), "a")),
        principal((OID, "user:a")),
        principal((OID, "..")),
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


@pytest.mark.parametrize(
    ("claims", "more", "roles"),
    [
        ([("roles", "Truestop.Admin")], {}, {"Truestop.Admin"}),
        ([("roles", "A"), ("roles", "B"), ("roles", "A")], {}, {"A", "B"}),
        ([("urn:role", "Truestop.Admin")], {"role_typ": "urn:role"}, {"Truestop.Admin"}),
        ([("roles", "Truestop.Admin")], {"role_typ": "urn:role"}, {"Truestop.Admin"}),
        ([("urn:role", "Truestop.Admin")], {}, set()),
        ([("role", "Truestop.Admin"), ("groups", "Truestop.Admin"), ("name", "Truestop.Admin")], {}, set()),
        ([("roles", "Truestop.Admin")], {"role_typ": 5}, {"Truestop.Admin"}),
        ([("roles", "Truestop.Admin,Other")], {}, {"Truestop.Admin,Other"}),
    ],
)
def test_roles_come_from_the_roles_claim_and_the_type_that_the_principal_names(
    claims: list[tuple[str, Any]], more: dict[str, Any], roles: set[str]
) -> None:
    """Guards the operators' role: `role_typ` is honoured, and no other claim makes anybody an operator."""
    assert parse_principal(principal((OID, "a"), *claims, **more)).roles == roles


def test_a_name_is_one_readable_line() -> None:
    """Guards logs and pages against names with line breaks or characters that turn text around."""
    assert parse_principal(principal((OID, "a"), ("name", " An\n\u202en\x00 "))).name == "An n"
    assert (
        parse_principal(principal((OID, "a"), ("name", "\n"), ("preferred_username", "ann@x.test"))).name
        == "ann@x.test"
    )
    assert parse_principal(principal((OID, "a"), ("name", "x" * 500))).name == "x" * 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["typ", "val", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
some_claims = st.lists(
    st.fixed_dictionaries(
        {"typ": st.sampled_from([OID, "oid", "name", "roles", "x"]), "val": st.text(max_size=8) | json_values}
    )
    | json_values,
    max_size=4,
)


@given(
    st.binary(max_size=60)
    | st.fixed_dictionaries({"claims": some_claims | json_values}, optional={"role_typ": json_values})
)
def test_whatever_is_sent_is_a_caller_or_nobody(sent: Any) -> None:
    """Guards against a header that makes an error of ours, or a caller that can't be stored or answered."""
    data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    try:
        caller = parse_principal(base64.b64encode(data).decode())
    except Problem as problem:
        assert problem.status == 401
    else:
        assert ID_PATTERN.fullmatch(caller.id)
        assert caller.name.isprintable()
        json.dumps({**caller.as_dict(), "roles": sorted(caller.roles)}, ensure_ascii=False).encode()
