"""Cancels under the names that users of other tools know. They find the run by its id among those that the caller may see.

`stop` is gofannon's, `cancel-tree` and `executions/{id}/cancel` are AgentField's. Same bodies and same checks as the others.
"""

from __future__ import annotations

import azure.durable_functions as df

from http_triggers.api import Answer, Call, Handler, add_route
from http_triggers.cancels import (
    CancelBody,
    ReasonBody,
    answer_cancel,
    answer_execution_cancel,
    request_of,
    woken,
)
from http_triggers.runs import RUN_ID, run_id_of, run_not_found
from shared.errors import Problem
from shared.executions import run_ref
from shared.names import DocumentType
from shared.permissions import Place, Rule
from shared.runs import request_cancel
from shared.states import RunStatus
from shared.store.port import Document, FieldIn, Filter, Query
from shared.trees import cancel_tree, tree_view

blueprint = df.Blueprint()


async def find_run(call: Call, run_id: str) -> Document:
    """The run of this id among the caller's, of the workflow that the route names, if it names one.

    Raises `Problem` 404, and 409 `run_id_ambiguous` when several workflows have a run of an id that callers chose.
    """
    if not RUN_ID.fullmatch(run_id):
        raise run_not_found()
    where: list[Filter] = [FieldIn("id", (run_id,)), FieldIn("scope", call.grant.scopes)]
    if workflow_id := call.route("wid"):
        where.append(FieldIn("workflow_id", (workflow_id,)))
    found = (await call.services.store.query(Query(DocumentType.RUN, None, tuple(where), limit=2))).items
    if not found:
        raise run_not_found()
    if len(found) > 1:
        raise Problem(409, "run_id_ambiguous", "several workflows have a run of this id: name the workflow")
    return found[0]


async def cancel(call: Call) -> Answer:
    """POST /api/runs/{rid}/cancel, and the same under /api/workflows/{wid}."""
    body, run = call.parse(CancelBody), await find_run(call, run_id_of(call))
    return await answer_cancel(call, run_ref(run).partition, run["id"], body)


async def stop(call: Call) -> Answer:
    """POST /api/runs/{rid}/stop."""
    body, found = call.parse(CancelBody), await find_run(call, run_id_of(call))
    await call.confirm(found["scope"])
    run = await request_cancel(call.services, run_ref(found).partition, found["id"], request_of(call, body))
    await woken(call, run)
    stopping = run["status"] == RunStatus.CANCELLING
    return Answer(202 if stopping else 200, {"runId": run["id"], "status": "stopping" if stopping else "stopped"})


async def cancel_whole_tree(call: Call) -> Answer:
    """POST /api/runs/{rid}/cancel-tree: results a node."""
    body, found = call.parse(CancelBody), await find_run(call, run_id_of(call))
    await call.confirm(found["scope"])
    tree = await cancel_tree(call.services, run_ref(found).partition, found["id"], request_of(call, body))
    await woken(call, tree.run)
    return Answer(202 if tree.run["status"] == RunStatus.CANCELLING else 200, tree_view(tree))


async def cancel_execution_by_id(call: Call) -> Answer:
    """POST /api/executions/{id}/cancel; the id is `{run_id}:{path}`."""
    body = call.parse(ReasonBody)
    run_id, _, path = call.route("id").partition(":")
    return await answer_execution_cancel(call, await find_run(call, run_id), path, body)


def _add(name: str, route: str, handler: Handler, *, wakes: bool = True) -> None:
    rule, place = Rule.WORKFLOW_CANCEL, Place.ANYWHERE
    add_route(blueprint, name, "POST", route, handler, rule, place=place, starts_or_wakes=wakes)


_add("alias_cancel", "api/runs/{rid}/cancel", cancel)
_add("alias_workflow_cancel", "api/workflows/{wid}/runs/{rid}/cancel", cancel)
_add("alias_stop", "api/runs/{rid}/stop", stop)
_add("alias_cancel_tree", "api/runs/{rid}/cancel-tree", cancel_whole_tree)
_add("alias_execution_cancel", "api/executions/{id}/cancel", cancel_execution_by_id, wakes=False)
