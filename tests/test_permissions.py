"""Every way into the app has a rule, and the page about them says what the source says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devhost.functions import HostedFunction, load_app
from shared.access import decide
from shared.errors import Problem
from shared.identity import Caller
from shared.permissions import DECLARED, OPERATOR_ROLE, ROLES, Access, Place, Role, Rule, declare
from tests.support.world import World

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/permissions.md").read_text()
BASE = re.compile("^/api/(user|group)/")
ROOT_ROUTE = "{ignored:maxlength(0)?}"
"""How a route says that it is `/`."""
INSIDE = ("orchestrationTrigger", "activityTrigger")
"""Called by orchestrations alone, which the app itself starts."""


@pytest.fixture(scope="module")
def functions() -> list[HostedFunction]:
    """What the app registers."""
    return [one for one in load_app(ROOT) if one.kind not in INSIDE]


def test_every_way_into_the_app_has_a_rule(functions: list[HostedFunction]) -> None:
    """Guards against a route or trigger that nobody decided about, and a rule of something that is gone."""
    assert {one.name for one in functions} == set(DECLARED)


def test_only_what_nobody_can_call_is_the_systems(functions: list[HostedFunction]) -> None:
    """Guards against a route that declares itself out of every check."""
    system = {name for name, access in DECLARED.items() if access.rule is Rule.SYSTEM}
    assert system == {one.name for one in functions if one.kind != "httpTrigger"}


def test_routes_hold_their_rule_where_their_path_says(functions: list[HostedFunction]) -> None:
    """Guards against a route of one scope that asks for rights in another."""
    for one in functions:
        if one.kind == "httpTrigger":
            place, route = DECLARED[one.name].place, one.trigger.route
            said = [
                found
                for found, start in (
                    (Place.PERSONAL, "api/user/"),
                    (Place.GROUP, "api/group/"),
                    (Place.NAMED_GROUP, "api/groups/{gid}"),
                )
                if route.startswith(start)
            ]
            assert (said or [place]) == [place], one.name
            assert said or place in (Place.NOWHERE, Place.ANYWHERE), one.name


def test_the_page_lists_every_route(functions: list[HostedFunction]) -> None:
    """Guards `docs/permissions.md`: a new route without a line there fails, and so does a line without a route."""
    rows = re.findall(r"^\| (\w+) `([^`]+)` \| `([\w.]+)` \|$", PAGE, re.M)
    served = {
        (
            one.trigger.methods[0].value,
            BASE.sub("{base}/", f"/{one.trigger.route}".replace(ROOT_ROUTE, "")),
            str(DECLARED[one.name].rule),
        )
        for one in functions
        if one.kind == "httpTrigger"
    }
    assert len(rows) == len(set(rows))
    assert set(rows) == served


def test_the_page_about_groups_names_routes_that_exist(functions: list[HostedFunction]) -> None:
    """Guards `docs/groups.md`: every group route is there, and no other."""
    page = (ROOT / "docs/groups.md").read_text()
    told = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/api/[^`]+)`", page))
    served = {(one.trigger.methods[0].value, f"/{one.trigger.route}") for one in functions if one.kind == "httpTrigger"}
    assert told == {(method, route) for method, route in served if re.match("/api/groups|/api/me/active", route)}


def test_the_page_shows_which_role_has_which_right() -> None:
    """Guards the table of roles."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", PAGE, re.M)
    listed = {
        rule: {role for role, mark in zip(Role, cells.split(" | "), strict=True) if mark == "yes"}
        for rule, cells in rows
    }
    assert listed == {str(rule): set(roles) for rule, roles in ROLES.items()}


def test_a_function_has_one_rule_that_can_hold_where_it_is_declared() -> None:
    """Guards the declarations themselves."""
    for name, rule, place in (
        ("me", Rule.SIGNED_IN, Place.NOWHERE),
        ("new", Rule.WORKFLOW_VIEW, Place.NOWHERE),
        ("new", Rule.OPERATOR, Place.PERSONAL),
    ):
        with pytest.raises(ValueError, match=name):
            declare(name, rule, place)
    assert "new" not in DECLARED


async def test_only_operators_may_do_what_operators_do(world: World) -> None:
    """Guards the application role: it is neither a group's role nor anything like it."""
    access = Access(Rule.OPERATOR)
    operator = Caller("o", "O", frozenset({OPERATOR_ROLE}))
    assert (await decide(world.services, access, operator, None)).caller is operator
    for roles in (set(), {"Owner", "Admin"}, {OPERATOR_ROLE.lower()}):
        with pytest.raises(Problem) as caught:
            await decide(world.services, access, Caller("o", "O", frozenset(roles)), None)
        assert (caught.value.status, caught.value.code) == (403, "role_required")
