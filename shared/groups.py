"""Groups: people who share workflows and documents, each with a role.

A group is one document, and it alone says who is a member. Every change is written on the condition that the document is
still the one that was read, and its rules are checked against that one: so of two Owners who remove each other at the same
moment one stays, and nobody acts on a role that they have just lost.
"""

from __future__ import annotations

from collections.abc import Callable

from shared import keys
from shared.documents import prefix_of
from shared.errors import ConditionFailed, Conflict, NotFound, Problem, Throttled
from shared.identity import Caller
from shared.ids import new_ulid, now
from shared.names import GROUP_ID, PROFILE_ID, DocumentType
from shared.permissions import ROLES, Role, Rule
from shared.removal import remove_blobs
from shared.services import Services
from shared.states import WorkflowStatus
from shared.store.port import (
    Check,
    Create,
    Delete,
    Document,
    FieldIn,
    HoldsOne,
    Page,
    Partition,
    Patch,
    Query,
    Replace,
)
from shared.workflows import ID_PATTERN
from shared.workflows import delete as delete_workflow

MAX_MEMBERS = 200
MAX_GROUPS = 200
"""Groups that one person may be in: what names something in any of them has to look through all."""
MAX_TRIES = 30
MAX_ACTIVE = 50
"""Active runs that a refused deletion names."""
PAGE = 100
_PART = "_group"
_PROFILE_PART = "_profile"
_ANY_GROUP = (FieldIn("type", (DocumentType.GROUP,)),)


def not_found() -> Problem:
    """The answer for a group that doesn't exist and for one that the caller is no member of."""
    return Problem(404, "group_not_found", "there is no such group")


def scope_of(group_id: str) -> str:
    """The scope of a group's workflows and documents."""
    return f"group:{group_id}"


def role_in(group: Document, member_id: str) -> Role | None:
    """The role of a person in a group, None for who is no member."""
    return next((Role(one["role"]) for one in group["members"] if one["id"] == member_id), None)


def require(group: Document, member_id: str, rule: Rule) -> None:
    """Raise `Problem` 404 unless the person is a member of the group, 403 `role_required` unless the role has the right."""
    role = role_in(group, member_id)
    if role is None:
        raise not_found()
    if role not in ROLES[rule]:
        needed = [str(one) for one in Role if one in ROLES[rule]]
        raise _role_required(f"this takes the role {' or '.join(needed)} in the group; yours is {role}")


def _role_required(detail: str) -> Problem:
    return Problem(403, "role_required", detail)


def _partition(group_id: str) -> Partition:
    """Where a group's document is. Raises `Problem` 404 for what can't be a group's id."""
    if not ID_PATTERN.fullmatch(group_id):
        raise not_found()
    return Partition(scope_of(group_id), _PART)


async def read(services: Services, group_id: str) -> Document:
    """The group. Raises `Problem` 404."""
    try:
        return await services.store.get(_partition(group_id), GROUP_ID)
    except NotFound:
        raise not_found() from None


async def read_at_accept(services: Services, group_id: str) -> Document:
    """The group as it is at this moment: no earlier change is missed, whichever process made it. Raises `Problem` 404.

    A plain read of Cosmos DB may be a moment old (session consistency). A guard is judged where writes are.
    """
    try:
        found = await services.store.transact(_partition(group_id), [Check(GROUP_ID, when=_ANY_GROUP)])
    except NotFound:
        raise not_found() from None
    assert found[0] is not None  # a check answers its document
    return found[0]


async def of_member(services: Services, member_id: str, limit: int = MAX_GROUPS, after: str | None = None) -> Page:
    """The groups that a person is a member of, newest first. Raises `ValueError` for a foreign token."""
    mine = HoldsOne("member_ids", member_id)
    return await services.store.query(
        Query(DocumentType.GROUP, None, (mine,), "created_at", descending=True, limit=limit, after=after)
    )


async def create(services: Services, caller: Caller, name: str) -> Document:
    """Create a group whose only member, an Owner, is the caller. Raises `Problem` 409 `too_many_groups`."""
    await _refuse_too_many(services, caller.id)
    group_id, moment = new_ulid(), now()
    group: Document = {
        "id": GROUP_ID,
        "type": DocumentType.GROUP,
        "group_id": group_id,
        "name": name,
        "created_at": moment,
        "updated_at": moment,
        **_membership([_member(caller.id, caller.name, Role.OWNER)]),
    }
    partition = _partition(group_id)
    return (await services.store.transact(partition, [Create(group)]))[0] or group


def _member(member_id: str, name: str, role: Role) -> dict[str, str]:
    return {"id": member_id, "name": name, "role": role, "since": now()}


def _membership(members: list[dict[str, str]]) -> Document:
    """The members, and their ids as a query finds them."""
    return {"members": members, "member_ids": [one["id"] for one in members]}


async def _refuse_too_many(services: Services, member_id: str) -> None:
    if len((await of_member(services, member_id)).items) >= MAX_GROUPS:
        raise Problem(409, "too_many_groups", f"nobody may be in more than {MAX_GROUPS} groups")


async def _change(services: Services, group_id: str, change: Callable[[Document], Document]) -> Document:
    """Write what `change` makes of the group: of the one that is there at that moment. Raises what `change` raises."""
    for _ in range(MAX_TRIES):
        group = await read(services, group_id)
        changed = {**group, **change(group), "updated_at": now()}
        try:
            written = await services.store.transact(_partition(group_id), [Replace(changed, etag=group["_etag"])])
            return written[0] or changed
        except ConditionFailed:
            continue
        except NotFound:
            raise not_found() from None
    raise Throttled(1.0)


async def rename(services: Services, caller: Caller, group_id: str, name: str) -> Document:
    """Give the group another name. Raises `Problem` 403, 404."""

    def change(group: Document) -> Document:
        require(group, caller.id, Rule.GROUP_MANAGE)
        return {"name": name}

    return await _change(services, group_id, change)


async def set_member(
    services: Services, caller: Caller, group_id: str, member_id: str, role: Role, name: str | None
) -> Document:
    """Add a member, or change their role. `name`: how to show them. Raises `Problem` 403, 404, 409."""
    found = await read(services, group_id)
    require(found, caller.id, Rule.GROUP_MANAGE)
    if role_in(found, member_id) is None:
        await _refuse_too_many(services, member_id)

    def change(group: Document) -> Document:
        require(group, caller.id, Rule.GROUP_MANAGE)
        before = next((one for one in group["members"] if one["id"] == member_id), None)
        if before is None and len(group["members"]) >= MAX_MEMBERS:
            raise Problem(409, "too_many_members", f"a group has at most {MAX_MEMBERS} members")
        _refuse_above(group, caller, before["role"] if before else None, role)
        if before is None:
            return _membership([*group["members"], _member(member_id, name or member_id, role)])
        after = {**before, "role": role, "name": name or before["name"]}
        return _checked([after if one is before else one for one in group["members"]])

    return await _change(services, group_id, change)


async def remove_member(services: Services, caller: Caller, group_id: str, member_id: str) -> Document:
    """Remove a member; everyone may remove themselves. Their sight and rights end with this; the group's runs go on.

    Raises `Problem` 403, 404, 409 `last_owner`.
    """

    def change(group: Document) -> Document:
        require(group, caller.id, Rule.GROUP_VIEW if member_id == caller.id else Rule.GROUP_MANAGE)
        role = role_in(group, member_id)
        if role is None:
            raise Problem(404, "member_not_found", "the group has no such member")
        if member_id != caller.id:
            _refuse_above(group, caller, role)
        return _checked([one for one in group["members"] if one["id"] != member_id])

    return await _change(services, group_id, change)


def _refuse_above(group: Document, caller: Caller, *roles: str | None) -> None:
    """Only an Owner makes or unmakes an Owner."""
    if Role.OWNER in roles and role_in(group, caller.id) is not Role.OWNER:
        raise _role_required("only an Owner makes or unmakes an Owner")


def _checked(members: list[dict[str, str]]) -> Document:
    """The members, among whom an Owner must stay."""
    if not any(one["role"] == Role.OWNER for one in members):
        raise Problem(409, "last_owner", "the last Owner of a group stays: make somebody else Owner first")
    return _membership(members)


async def delete(services: Services, caller: Caller, group_id: str) -> None:
    """Delete a group with its workflows and documents. Raises `Problem` 403, 404, 409 `group_busy`.

    Nothing is deleted while runs are active. The group goes last, so that a deletion that dies, or meets a run that a
    trigger starts meanwhile, can be asked for again.
    """
    require(await read(services, group_id), caller.id, Rule.GROUP_DELETE)
    scope = scope_of(group_id)
    working = FieldIn("runtime.status", (WorkflowStatus.RUNNING, WorkflowStatus.CANCELLING))
    active = await services.store.query(Query(DocumentType.WORKFLOW, scope, (working,), limit=MAX_ACTIVE))
    if active.items:
        raise _busy([one["runtime"]["active_run_id"] for one in active.items])
    await _empty(services, scope)
    for _ in range(MAX_TRIES):
        group = await read(services, group_id)
        require(group, caller.id, Rule.GROUP_DELETE)
        try:
            await services.store.transact(_partition(group_id), [Delete(GROUP_ID, etag=group["_etag"])])
            break
        except (ConditionFailed, NotFound):
            continue
    else:
        raise Throttled(1.0)
    await keys.forget(services, scope)
    await _empty(services, scope)  # what was on its way while the group was still there


def _busy(run_ids: list[str]) -> Problem:
    return Problem(409, "group_busy", "runs are active: cancel them first", extra={"active_run_ids": run_ids})


async def _empty(services: Services, scope: str) -> None:
    """Delete the workflows and documents of a scope."""
    while found := (await services.store.query(Query(DocumentType.WORKFLOW, scope, limit=PAGE))).items:
        for workflow in found:
            try:
                await delete_workflow(services, Partition(scope, workflow["workflow_id"]), None)
            except Problem as problem:
                if problem.code == "workflow_busy":
                    raise _busy([problem.extra["active_run_id"]]) from None
    await remove_blobs(services, prefix_of(scope))


def _profile(caller: Caller) -> Partition:
    return Partition(caller.scope, _PROFILE_PART)


async def active_group(services: Services, caller: Caller) -> str | None:
    """The id of the group that the caller works in when a request names none."""
    try:
        return str((await services.store.get(_profile(caller), PROFILE_ID))["active_group"])
    except NotFound:
        return None


async def set_active_group(services: Services, caller: Caller, group_id: str) -> None:
    """Choose it. Raises `Problem` 404."""
    require(await read(services, group_id), caller.id, Rule.GROUP_VIEW)
    profile = {"id": PROFILE_ID, "type": DocumentType.PROFILE, "active_group": group_id}
    while True:
        try:
            await services.store.transact(_profile(caller), [Patch(PROFILE_ID, set={"active_group": group_id})])
            return
        except NotFound:
            pass
        try:
            await services.store.transact(_profile(caller), [Create(profile)])
            return
        except Conflict:
            continue  # another request of theirs was quicker
