"""The one place that decides whether a caller may do what they ask, before anything is done.

What a caller may not see answers as what doesn't exist: with the same work, so in the same time and the same words. A
member of a group who lacks a right learns which role it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import Problem
from shared.identity import Caller
from shared.permissions import OPERATOR_ROLE, Access, Place, Rule


@dataclass(frozen=True, slots=True)
class Grant:
    """A decision that the caller may. `caller` None: nobody was asked for. `scopes`: where, if the rule holds in scopes."""

    access: Access
    caller: Caller | None
    scopes: tuple[str, ...] = ()


def decide(access: Access, caller: Caller | None) -> Grant:
    """Decide by what a route declared. Raises `Problem` 403 `role_required`."""
    if access.rule is Rule.ANYONE:
        return Grant(access, None)
    assert caller is not None  # who isn't signed in was told so
    if access.rule is Rule.OPERATOR and OPERATOR_ROLE not in caller.roles:
        raise Problem(403, "role_required", f"this takes the application role {OPERATOR_ROLE}")
    if access.place in (Place.PERSONAL, Place.ANYWHERE):
        return Grant(access, caller, (caller.scope,))
    return Grant(access, caller)
