"""Who calls: the one place that turns headers into a caller.

App Service authentication hands the signed-in user over in `X-MS-CLIENT-PRINCIPAL`. When it is on, the platform strips what
clients send under that name; when it is off it strips nothing, so the header counts only when the platform says that it is
on. Without it, and only off Azure, `TRUESTOP_DEV_USER` names the caller.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import Problem

PRINCIPAL_HEADER = "x-ms-client-principal"
MAX_PRINCIPAL = 32 * 1024
MAX_NAME = 200
OBJECT_ID_CLAIMS = ("http://schemas.microsoft.com/identity/claims/objectidentifier", "oid")
NAME_CLAIMS = ("name", "preferred_username", "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress")
SET_BY_AZURE = (
    "WEBSITE_INSTANCE_ID",
    "CONTAINER_NAME",
    "WEBSITE_POD_NAME",
    "LEGION_SERVICE_HOST",
    "MANAGED_ENVIRONMENT",
)
"""By which the Functions host knows its plan (`EnvironmentExtensions.cs`). Flex Consumption may set only the pod's name."""
# What may stand in a scope: document ids and partition keys can't hold / \ # ?
ID_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,126}[A-Za-z0-9_@+-])?")

SCOPE_PATTERN = re.compile(rf"(user|group):{ID_PATTERN.pattern}")


@dataclass(frozen=True, slots=True)
class Key:
    """A machine's key, as a request brought it: it narrows what its maker may do to `allows`, in one scope."""

    id: str
    name: str
    scope: str
    allows: frozenset[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in user: object id, display name, application roles. `key`: a machine acts for them, with a key of theirs."""

    id: str
    name: str
    roles: frozenset[str] = frozenset()
    key: Key | None = None

    @property
    def scope(self) -> str:
        """The caller's own scope."""
        return f"user:{self.id}"

    def as_dict(self) -> dict[str, str]:
        """As documents and answers name a person, and the key that a machine of theirs used."""
        person = {"id": self.id, "name": self.name}
        return person if self.key is None else {**person, "key": self.key.name}


def _unauthenticated(why: str) -> Problem:
    return Problem(401, "unauthenticated", why)


def on_azure(environment: Mapping[str, str]) -> bool:
    """Whether this process runs on Azure: the platform sets one of these, Core Tools and devhost don't."""
    return any(environment.get(name) for name in SET_BY_AZURE)


def identify(headers: Mapping[str, str], environment: Mapping[str, str]) -> Caller:
    """The caller of a request with these (lower-case) headers. Raises `Problem` 401 `unauthenticated`."""
    if environment.get("WEBSITE_AUTH_ENABLED", "").strip().lower() in ("true", "1"):
        return parse_principal(headers.get(PRINCIPAL_HEADER, ""))
    user = environment.get("TRUESTOP_DEV_USER", "")
    if user and not on_azure(environment):
        if not ID_PATTERN.fullmatch(user):
            raise _unauthenticated("TRUESTOP_DEV_USER is not a usable id")
        return Caller(user, user)
    raise _unauthenticated("sign in first")


def parse_principal(value: str) -> Caller:
    """The caller in an `X-MS-CLIENT-PRINCIPAL`. Raises `Problem` 401 for anything that isn't exactly one."""
    if not value:
        raise _unauthenticated("sign in first")
    if len(value) > MAX_PRINCIPAL:
        raise _unauthenticated("the principal is too large")
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
        principal = json.loads(text, object_pairs_hook=_without_duplicates)
        claims = [_claim(claim) for claim in principal["claims"]]
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError):
        raise _unauthenticated("the principal is malformed") from None
    ids = {given for kind, given in claims if kind in OBJECT_ID_CLAIMS}
    if len(ids) != 1:
        raise _unauthenticated("the principal has no single object id")
    oid = ids.pop()
    if not ID_PATTERN.fullmatch(oid):
        raise _unauthenticated("the principal's object id is not usable")
    names = (_readable(given) for kind in NAME_CLAIMS for typ, given in claims if typ == kind)
    name = next((name for name in names if name), oid)
    return Caller(oid, name, _roles(principal, claims))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of two keys alike, one reader takes the first and another the last: refused."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _claim(claim: Any) -> tuple[str, str]:
    kind, given = claim["typ"], claim["val"]
    if not isinstance(kind, str) or not isinstance(given, str):
        raise TypeError("a claim is two strings")
    given.encode()  # half of a surrogate pair can be neither stored nor answered
    return kind, given


def _readable(text: str) -> str:
    """A name as it can be shown anywhere: one line, without control or bidirectional characters."""
    shown = "".join(one if one.isprintable() else " " if one.isspace() else "" for one in text)
    return " ".join(shown.split())[:MAX_NAME]


def _roles(principal: Mapping[str, Any], claims: list[tuple[str, str]]) -> frozenset[str]:
    role_type = principal.get("role_typ")
    kinds = {"roles", *([role_type] if isinstance(role_type, str) else [])}
    return frozenset(given for kind, given in claims if kind in kinds)
