"""Workflows: their definitions and who may find them. Only one run of a workflow is active at a time."""

from __future__ import annotations

import re
from typing import Any

from shared.definitions import Definition, invalid, parse_definition
from shared.errors import ConditionFailed, Conflict, NotFound, Problem
from shared.ids import from_text, new_ulid, now, to_text
from shared.integrations import secrets_after
from shared.names import SECRETS_ID, WORKFLOW_ID, DocumentType
from shared.removal import remove_history, tombstone
from shared.schedule import next_slot
from shared.services import Services
from shared.states import WorkflowStatus
from shared.store.port import Create, Delete, Document, FieldIn, Op, Partition, Patch, Replace

ID_PATTERN = re.compile(r"[a-z0-9]{26}")
READ_ONLY = ("id", "scope", "etag", "created_at", "updated_at", "runtime")
"""What an answer adds to a definition: a client may send it back, and it is ignored."""


def not_found() -> Problem:
    """The answer for a workflow that doesn't exist and for one that the caller may not see."""
    return Problem(404, "workflow_not_found", "there is no such workflow")


def partition_of(scope: str, workflow_id: str) -> Partition:
    """The partition of a workflow. Raises `Problem` 404 for what can't be a workflow's id."""
    if not ID_PATTERN.fullmatch(workflow_id):
        raise not_found()
    return Partition(scope, workflow_id)


def _plain(definition: Definition, data: dict[str, Any]) -> dict[str, Any]:
    """The definition as it is kept: its steps as they were written, without defaults, in the writer's order; no secrets."""
    kept = definition.model_dump(mode="json", exclude={"steps", "trigger"})
    trigger = definition.trigger.model_dump(mode="json", exclude_none=True)
    return {**kept, "trigger": trigger, "steps": data["steps"]}


def _next_run_at(definition: Definition, trigger_set_at: str, moment: str) -> str | None:
    """The first slot after `moment`, if the workflow's schedule is on."""
    slot = next_slot(definition.trigger, from_text(trigger_set_at), from_text(moment)) if definition.enabled else None
    return to_text(slot) if slot is not None else None


async def secrets_of(services: Services, partition: Partition) -> Document | None:
    """What a workflow keeps secret: see `integrations`. None when it has nothing to keep."""
    try:
        return await services.store.get(partition, SECRETS_ID)
    except NotFound:
        return None


def _secrets_write(services: Services, definition: Definition, known: Document | None) -> list[Op]:
    """The operation that keeps the secrets in step with a definition. Raises `Problem` 422."""
    secrets, errors = secrets_after(definition, known, plain_http=services.settings.webhook_allow_private)
    if errors:
        raise invalid(errors)
    if secrets is None:
        return []
    # On its etag: what was read may be older than the workflow that was read.
    return [Create(secrets) if known is None else Replace(secrets, etag=known["_etag"])]


def check(services: Services, data: Any) -> dict[str, Any]:
    """Whether `data` would be saved: `valid`, the `errors` by field, and the `next_run_at` that it would begin with.

    Whether secrets are there is not asked: only saving tells, since a workflow may have them already.
    """
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in READ_ONLY}
    try:
        definition = parse_definition(data, services.settings)
    except Problem as problem:
        return {"valid": False, "errors": [dict(error) for error in problem.errors], "next_run_at": None}
    moment = now()
    return {"valid": True, "errors": [], "next_run_at": _next_run_at(definition, moment, moment)}


async def create(services: Services, scope: str, data: Any) -> Document:
    """Create a workflow from a definition. Raises `Problem` 422."""
    definition = parse_definition(data, services.settings)
    workflow_id, moment = new_ulid(), now()
    document: Document = {
        "id": WORKFLOW_ID,
        "type": DocumentType.WORKFLOW,
        "scope": scope,
        "workflow_id": workflow_id,
        "revision": 1,
        "definition": _plain(definition, data),
        "created_at": moment,
        "updated_at": moment,
        "trigger_set_at": moment,
        "runtime": {
            "status": WorkflowStatus.IDLE,
            "active_run_id": None,
            "next_run_at": _next_run_at(definition, moment, moment),
            "skip_next_after": None,
            "last_run_id": None,
            "last_run_status": None,
            "last_run_started_at": None,
            "last_run_ended_at": None,
            "last_run_error": None,
            "last_run_trigger": None,
            "run_count": 0,
        },
    }
    ops = [Create(document), *_secrets_write(services, definition, None)]
    await services.store.transact(Partition(scope, workflow_id), ops)
    return document


async def get(services: Services, partition: Partition) -> Document:
    """The workflow. Raises `Problem` 404."""
    try:
        return await services.store.get(partition, WORKFLOW_ID)
    except NotFound:
        raise not_found() from None


async def change(services: Services, partition: Partition, data: Any, revision: int | None, *, merge: bool) -> Document:
    """Replace the definition, or merge `data` into it (RFC 7396). `revision`: what it must be, None for any.

    An active run keeps the definition that it began with. A changed trigger counts its slots from now on. Raises
    `Problem` 404, 412 `revision_changed`, 422.
    """
    while True:
        workflow = await get(services, partition)
        expected = workflow["revision"] if revision is None else revision
        if expected != workflow["revision"]:
            raise Problem(412, "revision_changed", "the workflow has changed since you read it")
        if isinstance(data, dict):
            data = {key: value for key, value in data.items() if key not in READ_ONLY}
        wanted = merged(workflow["definition"], data) if merge else data
        definition, moment = parse_definition(wanted, services.settings), now()
        plain = _plain(definition, wanted)
        patch = Patch(
            WORKFLOW_ID,
            set={"definition": plain, "updated_at": moment, **_replanned(workflow, definition, plain, moment)},
            increment={"revision": 1},
            when=(FieldIn("revision", (expected,)),),
        )
        secrets = _secrets_write(services, definition, await secrets_of(services, partition))
        try:
            return (await services.store.transact(partition, [patch, *secrets]))[0] or workflow
        except NotFound:
            raise not_found() from None
        except (ConditionFailed, Conflict):
            continue


def _replanned(workflow: Document, definition: Definition, plain: dict[str, Any], moment: str) -> dict[str, Any]:
    """What an edit changes of the plan: nothing, unless it sets another trigger, enables or disables."""
    before = workflow["definition"]
    if plain["trigger"] == before["trigger"] and plain["enabled"] == before["enabled"]:
        return {}
    set_at = workflow["trigger_set_at"] if plain["trigger"] == before["trigger"] else moment
    return {
        "trigger_set_at": set_at,
        "runtime.next_run_at": _next_run_at(definition, set_at, moment),
        "runtime.skip_next_after": None,
    }


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


async def delete(services: Services, partition: Partition, revision: int | None) -> None:
    """Delete a workflow and its history; `retention` finishes that. Raises `Problem` 404, 409 `workflow_busy`, 412."""
    workflow = await get(services, partition)
    if revision is not None and revision != workflow["revision"]:
        raise Problem(412, "revision_changed", "the workflow has changed since you read it")
    try:
        await services.store.transact(
            partition, [Delete(WORKFLOW_ID, when=(FieldIn("runtime.active_run_id", (None,)),)), tombstone()]
        )
    except NotFound:
        raise not_found() from None
    except ConditionFailed:
        active = (await get(services, partition))["runtime"]["active_run_id"]
        raise Problem(
            409, "workflow_busy", "a run is active: cancel it first", extra={"active_run_id": active}
        ) from None
    await remove_history(services, partition)
