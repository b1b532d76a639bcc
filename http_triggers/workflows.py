"""Routes of workflows: list, create, read, replace, merge, delete."""

from __future__ import annotations

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_route, listing
from shared import workflows
from shared.definitions import invalid
from shared.names import DocumentType
from shared.states import WorkflowStatus
from shared.store.port import Contains, FieldIn, Filter, Partition, Query
from shared.views import etag, workflow_view

BASE = "api/user/workflows"

blueprint = df.Blueprint()


def base_of(call: Call) -> str:
    """The path of the call's workflow."""
    return f"/{BASE}/{call.route('wid')}"


def partition_of(call: Call) -> Partition:
    """The partition of the call's workflow. Raises `Problem` 404."""
    return workflows.partition_of(call.caller.scope, call.route("wid"))


async def list_workflows(call: Call) -> Answer:
    """GET {base}: the caller's workflows, newest first."""
    limit, after = call.page()
    where: list[Filter] = []
    status = call.choice("status", [status.value for status in WorkflowStatus])
    if status is not None:
        where.append(FieldIn("runtime.status", (status,)))
    enabled = call.choice("enabled", ["true", "false"])
    if enabled is not None:
        where.append(FieldIn("definition.enabled", (enabled == "true",)))
    if text := call.request.params.get("q"):
        where.append(Contains("definition.name", text[:200]))
    try:
        page = await call.services.store.query(
            Query(
                DocumentType.WORKFLOW,
                call.caller.scope,
                tuple(where),
                order_by="created_at",
                descending=True,
                limit=limit,
                after=after,
            )
        )
    except ValueError:
        raise invalid([{"field": "after", "message": "is not a token of this list"}], "the query") from None
    return listing([workflow_view(one) for one in page.items], page.next)


async def create_workflow(call: Call) -> Answer:
    """POST {base}."""
    workflow = await workflows.create(call.services, call.caller.scope, call.json())
    headers = {"Location": f"/{BASE}/{workflow['workflow_id']}", "ETag": etag(workflow)}
    return Answer(201, workflow_view(workflow), headers)


async def get_workflow(call: Call) -> Answer:
    """GET {base}/{wid}."""
    workflow = await workflows.get(call.services, partition_of(call))
    return Answer(200, workflow_view(workflow), {"ETag": etag(workflow)})


async def replace_workflow(call: Call) -> Answer:
    """PUT {base}/{wid}."""
    return await _change(call, merge=False)


async def merge_workflow(call: Call) -> Answer:
    """PATCH {base}/{wid}: JSON merge patch."""
    return await _change(call, merge=True)


async def _change(call: Call, *, merge: bool) -> Answer:
    workflow = await workflows.change(call.services, partition_of(call), call.json(), call.revision(), merge=merge)
    return Answer(200, workflow_view(workflow), {"ETag": etag(workflow)})


async def delete_workflow(call: Call) -> Answer:
    """DELETE {base}/{wid}."""
    await workflows.delete(call.services, partition_of(call), call.revision())
    return Answer(204)


add_route(blueprint, "workflows_list", "GET", BASE, list_workflows)
add_route(blueprint, "workflows_create", "POST", BASE, create_workflow)
add_route(blueprint, "workflows_get", "GET", BASE + "/{wid}", get_workflow)
add_route(blueprint, "workflows_replace", "PUT", BASE + "/{wid}", replace_workflow)
add_route(blueprint, "workflows_merge", "PATCH", BASE + "/{wid}", merge_workflow)
add_route(blueprint, "workflows_delete", "DELETE", BASE + "/{wid}", delete_workflow)
