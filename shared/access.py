"""The one place that decides whether a caller may do what they ask, before anything is done.

What a caller may not see answers as what doesn't exist: with the same work, so in the same time and the same words. A
member of a group who lacks a right learns which role it takes.

A decision is as old as its read. So what changes something asks again at the last moment (`confirm`), and then learns of
every change that was made before: from who was removed while their request was at work, nothing is accepted any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared import groups, keys
from shared.definitions import invalid
from shared.errors import Problem
from shared.identity import Caller, Key
from shared.permissions import KEY_RULES, OPERATOR_ROLE, ROLES, Access, Place, Rule, refuse_off
from shared.services import Services
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Grant:
    """A decision that the caller may. `caller` None: nobody was asked for. `scopes`: where, if the rule holds in scopes."""

    access: Access
    caller: Caller | None
    scopes: tuple[str, ...] = ()


async def decide(services: Services, access: Access, caller: Caller | None, group_id: str | None) -> Grant:
    """Decide by what a route declared. `group_id`: the group that the request names, if it does.

    Raises `Problem` 403 `role_required`, `key_scope` or `workflows_off`, 404 `group_not_found`, 422.
    """
    if access.rule is Rule.ANYONE:
        return Grant(access, None)
    assert caller is not None  # who isn't signed in was told so
    if caller.key is not None:
        group_id = _group_of_key(access, caller.key, group_id)
    if access.rule is Rule.OPERATOR and OPERATOR_ROLE not in caller.roles:
        raise Problem(403, "role_required", f"this takes the application role {OPERATOR_ROLE}")
    if access.place is Place.NOWHERE:
        return Grant(access, caller)
    if access.place is Place.ANYWHERE:
        return Grant(access, caller, await _scopes(services, access.rule, caller))
    if access.place is Place.PERSONAL:
        return _in_scope(services.settings, access, caller, caller.scope)
    if group_id is None:
        group_id = await _active_group(services, caller)
    groups.require(await groups.read(services, group_id), caller.id, access.rule)
    return _in_scope(services.settings, access, caller, groups.scope_of(group_id))


def _group_of_key(access: Access, key: Key, group_id: str | None) -> str | None:
    """The group that a request with a key is about. Raises `Problem` 403 `key_scope` for what the key isn't for.

    It says nothing of what exists: it is decided by the key alone.
    """
    if not any(access.rule in KEY_RULES[allowed] for allowed in key.allows):
        raise Problem(403, "key_scope", f"this key is for {', '.join(sorted(key.allows))} only")
    kind, _, own_group = key.scope.partition(":")
    elsewhere = access.place is Place.PERSONAL if kind == "group" else access.place is Place.GROUP
    if elsewhere or (access.place is Place.GROUP and group_id not in (None, own_group)):
        raise Problem(403, "key_scope", f"this key is for the workflows of {key.scope} only")
    return own_group if kind == "group" else None


def _in_scope(settings: Settings, access: Access, caller: Caller, scope: str) -> Grant:
    if access.rule in (Rule.WORKFLOW_RUN, Rule.WORKFLOW_AUTHOR):
        refuse_off(settings, scope)
    return Grant(access, caller, (scope,))


async def _active_group(services: Services, caller: Caller) -> str:
    active = await groups.active_group(services, caller)
    if active is None:
        message = "name a group, or choose your active group"
        raise invalid([{"field": "group_id", "message": message}], "the query")
    return active


async def _scopes(services: Services, rule: Rule, caller: Caller) -> tuple[str, ...]:
    """Every scope that the caller has the right in; with a key, at most its own."""
    if caller.key is not None:
        kind, _, group_id = caller.key.scope.partition(":")
        if kind == "group":
            groups.require(await groups.read(services, group_id), caller.id, rule)
        return (caller.key.scope,)
    mine = (await groups.of_member(services, caller.id)).items
    allowed = (one["scope"] for one in mine if groups.role_in(one, caller.id) in ROLES[rule])
    return (caller.scope, *allowed)


async def confirm(services: Services, grant: Grant, scope: str) -> None:
    """Decide about `scope` again, by what is so at this moment. Raises `Problem` as `decide` does."""
    assert grant.caller is not None
    if grant.caller.key is not None:
        await keys.confirm(services, grant.caller.key)
    kind, _, group_id = scope.partition(":")
    if kind == "group":
        # Sight may lag as any read does; a guard costs a write, and a page that watches comes back all the time.
        read = groups.read if grant.access.rule is Rule.WORKFLOW_VIEW else groups.read_at_accept
        groups.require(await read(services, group_id), grant.caller.id, grant.access.rule)
