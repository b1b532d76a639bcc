"""Routes of groups and their members, and of the caller's active group."""

from __future__ import annotations

from typing import Annotated, Any

import azure.durable_functions as df
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from http_triggers.api import Answer, Call, add_route, foreign_token, listing
from shared import groups
from shared.definitions import invalid
from shared.identity import ID_PATTERN
from shared.permissions import Place, Role, Rule
from shared.store.port import Document
from shared.views import group_view

GROUPS = "api/groups"
GROUP = GROUPS + "/{gid}"
MEMBER = GROUP + "/members/{oid}"

blueprint = df.Blueprint()


def _readable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must have something to read, and no control characters")
    return text.strip()


Name = Annotated[str, Field(min_length=1, max_length=200, strict=True), AfterValidator(_readable)]


class GroupBody(BaseModel):
    """What a group is made with, or renamed to."""

    model_config = ConfigDict(extra="forbid")
    name: Name


class MemberBody(BaseModel):
    """A member's role, and how to show them."""

    model_config = ConfigDict(extra="forbid")
    role: Role
    name: Name | None = None


class ActiveGroupBody(BaseModel):
    """The group to work in where a request names none."""

    model_config = ConfigDict(extra="forbid")
    group_id: Annotated[str, Field(strict=True, max_length=64)]


def _shown(call: Call, group: Document) -> dict[str, Any]:
    return group_view(group, groups.role_in(group, call.caller.id))


async def list_groups(call: Call) -> Answer:
    """GET /api/groups: those that the caller is a member of, newest first."""
    limit, after = call.page()
    try:
        page = await groups.of_member(call.services, call.caller.id, limit, after)
    except ValueError:
        raise foreign_token() from None
    return listing([_shown(call, one) for one in page.items], page.next)


async def create_group(call: Call) -> Answer:
    """POST /api/groups: the caller becomes its Owner."""
    group = await groups.create(call.services, call.caller, call.parse(GroupBody).name)
    return Answer(201, _shown(call, group), {"Location": f"/{GROUPS}/{group['group_id']}"})


async def get_group(call: Call) -> Answer:
    """GET /api/groups/{gid}."""
    group = await groups.read(call.services, call.route("gid"))
    groups.require(group, call.caller.id, Rule.GROUP_VIEW)  # it was read anew
    return Answer(200, _shown(call, group))


async def rename_group(call: Call) -> Answer:
    """PATCH /api/groups/{gid}."""
    name = call.parse(GroupBody).name
    return Answer(200, _shown(call, await groups.rename(call.services, call.caller, call.route("gid"), name)))


async def delete_group(call: Call) -> Answer:
    """DELETE /api/groups/{gid}: with its workflows and documents."""
    await groups.delete(call.services, call.caller, call.route("gid"))
    return Answer(204)


async def set_member(call: Call) -> Answer:
    """PUT /api/groups/{gid}/members/{oid}: add a member, or change their role."""
    body, member_id = call.parse(MemberBody), call.route("oid")
    if not ID_PATTERN.fullmatch(member_id):
        raise invalid([{"field": "oid", "message": "is nobody's object id"}], "the member")
    gid = call.route("gid")
    group = await groups.set_member(call.services, call.caller, gid, member_id, body.role, body.name)
    return Answer(200, _shown(call, group))


async def remove_member(call: Call) -> Answer:
    """DELETE /api/groups/{gid}/members/{oid}; also to leave."""
    await groups.remove_member(call.services, call.caller, call.route("gid"), call.route("oid"))
    return Answer(204)


async def set_active_group(call: Call) -> Answer:
    """PUT /api/me/active-group."""
    group_id = call.parse(ActiveGroupBody).group_id
    await groups.set_active_group(call.services, call.caller, group_id)
    return Answer(200, {"active_group": group_id})


def _add(name: str, method: str, route: str, handler: Any, rule: Rule) -> None:
    add_route(blueprint, name, method, route, handler, rule, place=Place.NAMED_GROUP)


add_route(blueprint, "groups_list", "GET", GROUPS, list_groups, Rule.SIGNED_IN)
add_route(blueprint, "groups_create", "POST", GROUPS, create_group, Rule.SIGNED_IN)
add_route(blueprint, "me_active_group", "PUT", "api/me/active-group", set_active_group, Rule.SIGNED_IN)
_add("groups_get", "GET", GROUP, get_group, Rule.GROUP_VIEW)
_add("groups_rename", "PATCH", GROUP, rename_group, Rule.GROUP_MANAGE)
_add("groups_delete", "DELETE", GROUP, delete_group, Rule.GROUP_DELETE)
_add("groups_set_member", "PUT", MEMBER, set_member, Rule.GROUP_MANAGE)
_add("groups_remove_member", "DELETE", MEMBER, remove_member, Rule.GROUP_VIEW)
