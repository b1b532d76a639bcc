"""Who may do what: every route and trigger declares one of these rules, and `access.py` decides by them.

`docs/permissions.md` shows the same as tables; a test checks that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import Problem
from shared.settings import Settings

OPERATOR_ROLE = "Truestop.Admin"
"""The application role, among the principal's roles, of who operates the service."""


class Role(StrEnum):
    """What a member of a group is. Of their own personal scope everyone is the owner."""

    OWNER = "Owner"
    ADMIN = "Admin"
    DOCUMENT_MANAGER = "DocumentManager"
    USER = "User"


class Rule(StrEnum):
    """What a route or trigger asks of who uses it."""

    ANYONE = "anyone"
    """Also somebody who has not signed in."""
    SIGNED_IN = "signed_in"
    WORKFLOW_VIEW = "workflow.view"
    WORKFLOW_RUN = "workflow.run"
    """Start and resume."""
    WORKFLOW_CANCEL = "workflow.cancel"
    WORKFLOW_AUTHOR = "workflow.author"
    """Create and edit."""
    WORKFLOW_DELETE = "workflow.delete"
    DOCUMENTS_READ = "documents.read"
    DOCUMENTS_WRITE = "documents.write"
    GROUP_VIEW = "group.view"
    """See the group and its members, and leave it."""
    GROUP_MANAGE = "group.manage"
    """Rename it, and say who its members are. Only an Owner makes or unmakes an Owner."""
    GROUP_DELETE = "group.delete"
    OPERATOR = "operator"
    SYSTEM = "system"
    """Time, a queue or a blob: nobody can call it. What it does, it does for the workflow that it finds in the store."""


class Place(StrEnum):
    """Where a rule must hold."""

    NOWHERE = "nowhere"
    """The rule is about the caller alone."""
    PERSONAL = "personal"
    """In the caller's own scope."""
    GROUP = "group"
    """In the group that `?group_id=` names, or else in the caller's active group."""
    NAMED_GROUP = "named_group"
    """In the group that the route names."""
    ANYWHERE = "anywhere"
    """In each scope that the caller has the right in: the route names something that may be in any of them."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a route or trigger declares."""

    rule: Rule
    place: Place = Place.NOWHERE


_EVERY_ROLE = frozenset(Role)
_AUTHORS = frozenset({Role.OWNER, Role.ADMIN})
ROLES: Mapping[Rule, frozenset[Role]] = {
    Rule.WORKFLOW_VIEW: _EVERY_ROLE,
    Rule.WORKFLOW_RUN: _EVERY_ROLE,
    Rule.WORKFLOW_CANCEL: _EVERY_ROLE,
    Rule.WORKFLOW_AUTHOR: _AUTHORS,
    Rule.WORKFLOW_DELETE: _AUTHORS,
    Rule.DOCUMENTS_READ: _EVERY_ROLE,
    Rule.DOCUMENTS_WRITE: _AUTHORS | {Role.DOCUMENT_MANAGER},
    Rule.GROUP_VIEW: _EVERY_ROLE,
    Rule.GROUP_MANAGE: _AUTHORS,
    Rule.GROUP_DELETE: frozenset({Role.OWNER}),
}
"""Which roles have a right in their group. These are the rules that hold in a scope."""


class KeyScope(StrEnum):
    """What a machine's key may be made for."""

    START = "start"
    READ = "read"
    CANCEL = "cancel"


KEY_RULES: Mapping[str, frozenset[Rule]] = {
    KeyScope.START: frozenset({Rule.WORKFLOW_RUN}),
    KeyScope.READ: frozenset({Rule.WORKFLOW_VIEW, Rule.DOCUMENTS_READ}),
    KeyScope.CANCEL: frozenset({Rule.WORKFLOW_CANCEL}),
}
"""The rights that each opens, of those that its maker has. Nothing else is open to a key."""

DECLARED: dict[str, Access] = {}
"""What each function of the app declared, by its name."""


def declare(function_name: str, rule: Rule, place: Place = Place.NOWHERE) -> Access:
    """Declare the rule of a function. Raises `ValueError` for a second one, and for a place where the rule can't hold."""
    if function_name in DECLARED:
        raise ValueError(f"function {function_name!r} has a rule already")
    if (rule in ROLES) is (place is Place.NOWHERE):
        raise ValueError(f"function {function_name!r}: {rule} can't hold {place}")
    return DECLARED.setdefault(function_name, Access(rule, place))


def refuse_off(settings: Settings, scope: str) -> None:
    """Raise `Problem` 403 `workflows_off` where workflows are turned off: nothing is written or started there.

    What is there can be seen, cancelled and deleted.
    """
    personal = scope.startswith("user:")
    if not (settings.personal_workflows if personal else settings.group_workflows):
        raise Problem(403, "workflows_off", f"{'personal' if personal else 'group'} workflows are turned off here")


def system(function_name: str) -> str:
    """Declare that a function is the system's own. Answers its name."""
    declare(function_name, Rule.SYSTEM)
    return function_name
