"""Routes of workflows: list, create, read, replace, merge, delete."""

from __future__ import annotations

import contextlib

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_scoped_route, listing
from shared import workflows
from shared.errors import Problem
from shared.names import DocumentType
from shared.permissions import Rule
from shared.quotas import refuse_more_workflows
from shared.states import WorkflowStatus
from shared.store.port import Contains, FieldIn, Filter, Partition, Query
from shared.views import etag, link, workflow_view

WORKFLOWS = "workflows"
WORKFLOW = WORKFLOWS + "/{wid}"

blueprint = df.Blueprint()


def partition_of(call: Call) -> Partition:
    """The partition of the call's workflow. Raises `Problem` 404."""
    return workflows.partition_of(call.scope, call.route("wid"))


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
    query = Query(
        DocumentType.WORKFLOW,
        call.scope,
        tuple(where),
        order_by="created_at",
        descending=True,
        limit=limit,
        after=after,
    )
    page = await call.query(query)
    return listing([workflow_view(one) for one in page.items], page.next)


async def create_workflow(call: Call) -> Answer:
    """POST {base}. With `?dry_run=true` nothing is created: 200 says whether it would be."""
    data = call.json()
    if call.choice("dry_run", ["true", "false"]) == "true":
        return Answer(200, workflows.check(call.services, data))
    await refuse_more_workflows(call.services, call.scope)
    await call.confirm()
    workflow = await workflows.create(call.services, call.scope, data)
    try:
        await call.confirm()
    except Problem:  # its group was deleted under it, and nobody would ever see it
        with contextlib.suppress(Problem):  # the deletion of the group found it
            await workflows.delete(call.services, Partition(call.scope, workflow["workflow_id"]), None)
        raise
    headers = {"Location": link(workflow["scope"], workflow["workflow_id"]), "ETag": etag(workflow)}
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
    data, revision = call.json(), call.revision()
    await call.confirm()
    workflow = await workflows.change(call.services, partition_of(call), data, revision, merge=merge)
    return Answer(200, workflow_view(workflow), {"ETag": etag(workflow)})


async def delete_workflow(call: Call) -> Answer:
    """DELETE {base}/{wid}."""
    await call.confirm()
    await workflows.delete(call.services, partition_of(call), call.revision())
    return Answer(204)


add_scoped_route(blueprint, "workflows_list", "GET", WORKFLOWS, list_workflows, Rule.WORKFLOW_VIEW)
add_scoped_route(blueprint, "workflows_create", "POST", WORKFLOWS, create_workflow, Rule.WORKFLOW_AUTHOR)
add_scoped_route(blueprint, "workflows_get", "GET", WORKFLOW, get_workflow, Rule.WORKFLOW_VIEW)
add_scoped_route(blueprint, "workflows_replace", "PUT", WORKFLOW, replace_workflow, Rule.WORKFLOW_AUTHOR)
add_scoped_route(blueprint, "workflows_merge", "PATCH", WORKFLOW, merge_workflow, Rule.WORKFLOW_AUTHOR)
add_scoped_route(blueprint, "workflows_delete", "DELETE", WORKFLOW, delete_workflow, Rule.WORKFLOW_DELETE)
