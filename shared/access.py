"""The one place that decides whether a caller may do what they ask, before anything is done.

What a caller may not see answers as what doesn't exist: with the same work, so in the same time and the same words. A
member of a group who lacks a right learns which role it takes.

A decision is as old as its read. So what changes something asks again at the last moment (`confirm`), and then learns of
every change that was made before: from who was removed while their request was at work, nothing is accepted any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared import groups
from shared.definitions import invalid
from shared.errors import Problem
from shared.identity import Caller
from shared.permissions import OPERATOR_ROLE, ROLES, Access, Place, Rule, refuse_off
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

    Raises `Problem` 403 `role_required` or `workflows_off`, 404 `group_not_found`, 422.
    """
    if access.rule is Rule.ANYONE:
        return Grant(access, None)
    assert caller is not None  # who isn't signed in was told so
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
    """Every scope that the caller has the right in."""
    mine = (await groups.of_member(services, caller.id)).items
    allowed = (one["scope"] for one in mine if groups.role_in(one, caller.id) in ROLES[rule])
    return (caller.scope, *allowed)


async def confirm(services: Services, grant: Grant, scope: str) -> None:
    """Decide about `scope` again, by what is so at this moment. Raises `Problem` as `decide` does."""
    kind, _, group_id = scope.partition(":")
    if kind == "group":
        assert grant.caller is not None
        # Sight may lag as any read does; a guard costs a write, and a page that watches comes back all the time.
        read = groups.read if grant.access.rule is Rule.WORKFLOW_VIEW else groups.read_at_accept
        groups.require(await read(services, group_id), grant.caller.id, grant.access.rule)
