"""Machines' keys: a key acts for the person who made it, in one scope, for what it was made for, until it expires.

So it never may more than its maker may at that moment: who leaves a group takes their keys for it out of use. A key says
where it is kept, so that looking it up is one read; only a hash of its secret is kept, and it is shown once. All keys of a
scope are one document, so their number and their names are bounded exactly.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.errors import ConditionFailed, Conflict, NotFound, Problem, Throttled
from shared.identity import SCOPE_PATTERN, Caller, Key
from shared.ids import from_text, new_ulid, now, to_text
from shared.names import KEYS_ID, DocumentType, EventType
from shared.permissions import KeyScope
from shared.services import Services
from shared.store.port import Check, Create, Delete, Document, FieldIn, Op, Partition, Patch, Prefix, Query, Replace

PREFIX = "truestop_"
"""What every key begins with, so that scanners for leaked secrets can know it."""
TOKEN = re.compile(r"truestop_([A-Za-z0-9_-]{1,250})\.([0-9a-z]{26})\.([A-Za-z0-9_-]{43})")
SCHEME = "bearer "
MAX_TRIES = 30
USE_SECONDS = 60
"""Uses are noted this far apart, at most."""
KEPT_SECONDS = 400 * 24 * 3600
USES_KEPT_SECONDS = 30 * 24 * 3600
_PART = "_keys"
_NOBODY = hashlib.sha256(b"").hexdigest()


def _partition(scope: str) -> Partition:
    return Partition(scope, _PART)


def _hash(secret: str) -> str:
    """A secret of 256 random bits needs no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _event(key_id: str, event_type: EventType, by: Mapping[str, str], name: str) -> Create:
    kept = USES_KEPT_SECONDS if event_type is EventType.KEY_USED else KEPT_SECONDS
    return Create(
        {
            "id": f"{key_id}:{new_ulid()}",
            "type": DocumentType.KEY_EVENT,
            "event_type": event_type,
            "by": dict(by),
            "name": name,
            "at": now(),
            "ttl": kept,
        }
    )


async def _read(services: Services, scope: str) -> Document | None:
    try:
        return await services.store.get(_partition(scope), KEYS_ID)
    except NotFound:
        return None


async def of_scope(services: Services, scope: str) -> list[Document]:
    """The keys of a scope, oldest first."""
    found = await _read(services, scope)
    return sorted(found["keys"].values(), key=lambda one: str(one["id"])) if found is not None else []


async def make(
    services: Services, caller: Caller, scope: str, name: str, allows: Sequence[KeyScope], days: int
) -> tuple[Document, str]:
    """Make a key that acts for the caller in `scope`. Answers it, and its text, which nothing can show again.

    Keys that have expired make room. Raises `Problem` 409 `key_name_taken`, `too_many_keys`.
    """
    key_id, secret = new_ulid(), secrets.token_urlsafe(32)
    key: Document = {
        "id": key_id,
        "name": name,
        "allows": sorted(set(allows)),
        "hash": _hash(secret),
        "made_by": caller.as_dict(),
        "created_at": now(),
        "expires_at": to_text(datetime.now(UTC) + timedelta(days=days)),
        "last_used_at": None,
    }

    def added(known: Mapping[str, Document]) -> dict[str, Document]:
        live = {one["id"]: one for one in known.values() if not _expired(one)}
        if any(one["name"] == name for one in live.values()):
            raise Problem(409, "key_name_taken", f"there is a key named {name!r} already")
        if len(live) >= services.settings.keys_max:
            raise Problem(409, "too_many_keys", f"there may be at most {services.settings.keys_max} keys: revoke one")
        return {**live, key_id: key}

    await _change(services, scope, added, _event(key_id, EventType.KEY_CREATED, caller.as_dict(), name))
    place = base64.urlsafe_b64encode(scope.encode()).decode().rstrip("=")
    return key, f"{PREFIX}{place}.{key_id}.{secret}"


async def revoke(services: Services, caller: Caller, scope: str, key_id: str) -> None:
    """Revoke a key: when this returns, nothing more is accepted with it. Raises `Problem` 404."""
    found = await _read(services, scope)
    key = (found["keys"] if found is not None else {}).get(key_id)
    if key is None:
        raise not_found()

    def removed(known: Mapping[str, Document]) -> dict[str, Document]:
        if key_id not in known:
            raise not_found()
        return {one: value for one, value in known.items() if one != key_id}

    await _change(services, scope, removed, _event(key_id, EventType.KEY_REVOKED, caller.as_dict(), key["name"]))


def not_found() -> Problem:
    """The answer for a key that the scope doesn't have."""
    return Problem(404, "key_not_found", "there is no such key")


async def _change(
    services: Services, scope: str, change: Callable[[Mapping[str, Document]], dict[str, Document]], told: Create
) -> None:
    """Write what `change` makes of the keys that are there at that moment. Raises what `change` raises."""
    for _ in range(MAX_TRIES):
        found = await _read(services, scope)
        keys = change(found["keys"] if found is not None else {})
        document = {"id": KEYS_ID, "type": DocumentType.KEYS, "keys": keys}
        write: Op = Create(document) if found is None else Replace(document, etag=found["_etag"])
        try:
            await services.store.transact(_partition(scope), [write, told])
            return
        except (ConditionFailed, Conflict, NotFound):
            continue  # another change, or a use, was quicker
    raise Throttled(1.0)


async def forget(services: Services, scope: str) -> None:
    """Remove all keys of a scope that is deleted."""
    try:
        await services.store.transact(_partition(scope), [Delete(KEYS_ID)])
    except NotFound:
        pass


def token_of(headers: Mapping[str, str]) -> str | None:
    """The key that a request with these (lower-case) headers brings, if it brings one of ours, well-formed or not."""
    value = headers.get("authorization", "")
    token = value[len(SCHEME) :].strip() if value[: len(SCHEME)].lower() == SCHEME else ""
    return token if token.startswith(PREFIX) else None


async def caller_of(services: Services, token: str) -> Caller:
    """Who acts with a key, and notes its use. Raises `Problem` 401, in the same words whatever is wrong with it."""
    refusal = _not_valid()
    parts = _parts(token)
    if parts is None:
        raise refusal
    scope, key_id, secret = parts
    found = await _read(services, scope)
    key = (found["keys"] if found is not None else {}).get(key_id)
    right = hmac.compare_digest(_hash(secret), key["hash"] if key is not None else _NOBODY)
    if key is None or not right or _expired(key):
        raise refusal
    maker = key["made_by"]
    caller = Caller(maker["id"], maker["name"], key=Key(key_id, key["name"], scope, frozenset(key["allows"])))
    await _note_use(services, scope, key, caller)
    return caller


def _not_valid() -> Problem:
    return Problem(401, "unauthenticated", "the key is not valid: wrong, expired or revoked")


def _parts(token: str) -> tuple[str, str, str] | None:
    """Scope, id and secret of a key's text."""
    match = TOKEN.fullmatch(token)
    if match is None:
        return None
    place, key_id, secret = match.groups()
    try:
        scope = base64.b64decode(place + "=" * (-len(place) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return (scope, key_id, secret) if SCOPE_PATTERN.fullmatch(scope) else None


def _expired(key: Document) -> bool:
    return bool(from_text(key["expires_at"]) <= datetime.now(UTC))


async def _note_use(services: Services, scope: str, key: Document, caller: Caller) -> None:
    """Note that a key is used, at most once in `USE_SECONDS`."""
    last = key["last_used_at"]
    if last is not None and datetime.now(UTC) - from_text(last) < timedelta(seconds=USE_SECONDS):
        return
    at = f"keys.{key['id']}"
    same = (FieldIn(f"{at}.hash", (key["hash"],)), FieldIn(f"{at}.last_used_at", (last,)))
    used = Patch(KEYS_ID, set={f"{at}.last_used_at": now()}, when=same)
    try:
        told = _event(key["id"], EventType.KEY_USED, caller.as_dict(), key["name"])
        await services.store.transact(_partition(scope), [used, told])
    except (ConditionFailed, NotFound):
        pass  # noted by another request, or revoked meanwhile


async def confirm(services: Services, key: Key) -> None:
    """Ask again, where writes are judged, whether a key is still there. Raises `Problem` 401.

    A plain read of Cosmos DB may be a moment old; of a key that was revoked before this, nothing is accepted.
    """
    there = FieldIn(f"keys.{key.id}.id", (key.id,))
    try:
        await services.store.transact(_partition(key.scope), [Check(KEYS_ID, when=(there,))])
    except (ConditionFailed, NotFound):
        raise _not_valid() from None


def events(scope: str, key_id: str, limit: int, after: str | None) -> Query:
    """What happened to a key, newest first; also of one that was revoked."""
    where = (Prefix("id", f"{key_id}:"),)
    return Query(DocumentType.KEY_EVENT, _partition(scope), where, descending=True, limit=limit, after=after)


def key_view(key: Document) -> dict[str, Any]:
    """A key, without what proves it."""
    shown = ("id", "name", "allows", "made_by", "created_at", "expires_at", "last_used_at")
    return {**{name: key[name] for name in shown}, "expired": _expired(key)}


def key_event_view(event: Document) -> dict[str, Any]:
    """An event of a key."""
    shown = {name: event[name] for name in ("id", "name", "by", "at")}
    return {"type": event["event_type"], "key_id": event["id"].partition(":")[0], **shown}
