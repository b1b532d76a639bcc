"""Routes of machines' keys: one's own, and a group's. A key's text is in the answer that made it, and nowhere else."""

from __future__ import annotations

from typing import Annotated

import azure.durable_functions as df
from pydantic import BaseModel, ConfigDict, Field

from http_triggers.api import Answer, Call, Handler, add_route, listing
from http_triggers.groups import GROUP, Name
from shared import keys
from shared.definitions import invalid
from shared.permissions import KeyScope, Place, Rule

KEYS = "keys"
KEY = KEYS + "/{id}"
DEFAULT_DAYS = 90

blueprint = df.Blueprint()


class KeyBody(BaseModel):
    """What a key is made with. `allows`: what it may do of what its maker may."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(max_length=100)]
    allows: Annotated[list[KeyScope], Field(min_length=1, max_length=len(KeyScope))]
    expires_in_days: Annotated[int, Field(strict=True, ge=1, le=3650)] | None = None


def _scope(call: Call) -> str:
    return call.scope if call.grant.scopes else call.caller.scope


async def list_keys(call: Call) -> Answer:
    """GET …/keys: oldest first."""
    return listing([keys.key_view(one) for one in await keys.of_scope(call.services, _scope(call))], None)


async def make_key(call: Call) -> Answer:
    """POST …/keys: `key` in the answer is shown this once."""
    body, longest = call.parse(KeyBody), call.services.settings.key_days_max
    days = min(DEFAULT_DAYS, longest) if body.expires_in_days is None else body.expires_in_days
    if days > longest:
        message = f"must be at most {longest} (TRUESTOP_KEY_DAYS_MAX)"
        raise invalid([{"field": "expires_in_days", "message": message}], "the body")
    if call.grant.scopes:
        await call.confirm()
    key, text = await keys.make(call.services, call.caller, _scope(call), body.name, body.allows, days)
    return Answer(201, {**keys.key_view(key), "key": text})


async def revoke_key(call: Call) -> Answer:
    """DELETE …/keys/{id}: nothing is accepted with it any more."""
    if call.grant.scopes:
        await call.confirm()
    await keys.revoke(call.services, call.caller, _scope(call), call.route("id"))
    return Answer(204)


async def list_key_events(call: Call) -> Answer:
    """GET …/keys/{id}/events: made, used (at most once a minute), revoked; newest first."""
    limit, after = call.page()
    page = await call.query(keys.events(_scope(call), call.route("id"), limit, after))
    if after is None and not page.items:
        raise keys.not_found()
    return listing([keys.key_event_view(one) for one in page.items], page.next)


def _add(name: str, method: str, tail: str, handler: Handler) -> None:
    add_route(blueprint, name, method, f"api/{tail}", handler, Rule.SIGNED_IN)
    route = f"{GROUP}/{tail}"
    add_route(blueprint, f"groups_{name}", method, route, handler, Rule.GROUP_MANAGE, place=Place.NAMED_GROUP)


_add("keys_list", "GET", KEYS, list_keys)
_add("keys_make", "POST", KEYS, make_key)
_add("keys_revoke", "DELETE", KEY, revoke_key)
_add("keys_events", "GET", KEY + "/events", list_key_events)
