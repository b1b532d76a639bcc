"""Routes that read runs: history, one run, its tree, items, events, receipt and artifacts."""

from __future__ import annotations

import azure.durable_functions as df

from http_triggers.api import Answer, Call, Handler, add_scoped_route, listing
from http_triggers.runs import RUN, read_run, shown
from http_triggers.workflows import WORKFLOW, partition_of
from shared import workflows
from shared.definitions import invalid
from shared.errors import NotFound, Problem
from shared.ids import from_text, to_text
from shared.names import DocumentType, Kind
from shared.permissions import Rule
from shared.receipts import cancel_receipt, executions_of
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Compare, FieldIn, Filter, Prefix, Query
from shared.views import artifacts, event_view, execution_view

blueprint = df.Blueprint()


def _moment(call: Call, name: str) -> str | None:
    text = call.request.params.get(name)
    if text is None:
        return None
    try:
        moment = from_text(text)
        if moment.tzinfo is None:
            raise ValueError
        return to_text(moment)
    except (ValueError, OverflowError):
        raise invalid([{"field": name, "message": "must be an RFC 3339 time with an offset"}], "the query") from None


async def list_runs(call: Call) -> Answer:
    """GET {base}/{wid}/runs: newest first."""
    partition = partition_of(call)
    await workflows.get(call.services, partition)
    limit, after = call.page()
    where: list[Filter] = []
    status = call.choice("status", [status.value for status in RunStatus])
    if status is not None:
        where.append(FieldIn("status", (status,)))
    if trigger := call.request.params.get("trigger"):
        where.append(FieldIn("trigger.kind", (trigger,)))
    if since := _moment(call, "from"):
        where.append(Compare("created_at", ">=", since))
    if until := _moment(call, "to"):
        where.append(Compare("created_at", "<=", until))
    query = Query(DocumentType.RUN, partition, tuple(where), "created_at", descending=True, limit=limit, after=after)
    page = await call.query(query)
    return listing([await shown(call, run) for run in page.items], page.next)


async def get_run(call: Call) -> Answer:
    """GET {base}/{wid}/runs/{rid}."""
    return Answer(200, await shown(call, await read_run(call)))


async def list_executions(call: Call) -> Answer:
    """GET …/executions: the tree, flat, in path order."""
    return await _executions(call, ())


async def list_items(call: Call) -> Answer:
    """GET …/items: the per-document items."""
    where: list[Filter] = [FieldIn("kind", (Kind.ITEM,))]
    status = call.choice("status", [status.value for status in Ex])
    if status is not None:
        where.append(FieldIn("status", (status,)))
    return await _executions(call, tuple(where))


async def _executions(call: Call, where: tuple[Filter, ...]) -> Answer:
    run = await read_run(call)
    limit, after = call.page()
    query = Query(
        DocumentType.EXECUTION, partition_of(call), (Prefix("id", f"{run['id']}:"), *where), limit=limit, after=after
    )
    page = await call.query(query)
    return listing([execution_view(one) for one in page.items], page.next)


async def list_events(call: Call) -> Answer:
    """GET …/events: in order; `after` is the id of the last event that the caller has."""
    run = await read_run(call)
    limit, after = call.page()
    prefix = f"{run['id']}:e:"
    if after is not None and not after.startswith(prefix):
        raise invalid([{"field": "after", "message": "is not the id of an event of this run"}], "the query")
    where: list[Filter] = [Prefix("id", prefix)]
    if after is not None:
        where.append(Compare("id", ">", after))
    page = await call.query(Query(DocumentType.EVENT, partition_of(call), tuple(where), limit=limit))
    return listing([event_view(one) for one in page.items], page.items[-1]["id"] if page.next else None)


async def get_cancellation(call: Call) -> Answer:
    """GET …/cancellation: the receipt."""
    return Answer(200, await cancel_receipt(call.services, await read_run(call)))


async def get_artifacts(call: Call) -> Answer:
    """GET …/artifacts, and …/artifacts/{path}: the list, or one artifact's content."""
    run = await read_run(call)
    found = [one async for execution in executions_of(call.services, run) for one in artifacts(execution)]
    path = call.route("path")
    if not path:
        shown_fields = ("what", "size", "content_type", "execution_id", "at")
        return listing([{("path" if key == "what" else key): one[key] for key in shown_fields} for one in found], None)
    for artifact in reversed(found):
        if artifact["what"] == path:
            try:
                blob = await call.services.blobs.get(str(artifact["ref"]))
            except NotFound:
                break
            # Whatever a model wrote is never a page of this site.
            headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox"}
            return Answer(200, blob.data, headers, blob.info.content_type)
    raise Problem(404, "artifact_not_found", "there is no such artifact")


def _add(name: str, tail: str, handler: Handler) -> None:
    add_scoped_route(blueprint, name, "GET", tail, handler, Rule.WORKFLOW_VIEW)


_add("runs_list", WORKFLOW + "/runs", list_runs)
_add("runs_get", RUN, get_run)
_add("runs_executions", RUN + "/executions", list_executions)
_add("runs_items", RUN + "/items", list_items)
_add("runs_events", RUN + "/events", list_events)
_add("runs_cancellation", RUN + "/cancellation", get_cancellation)
_add("runs_artifacts", RUN + "/artifacts/{*path}", get_artifacts)
