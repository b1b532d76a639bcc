"""Routes of operators: everyone's runs, what seems wedged, a run's trail and events, cancels of many, rejected messages.

What an operator does or reads here is on record with their name.
"""

from __future__ import annotations

import json
import math
from typing import Annotated

import azure.durable_functions as df
from pydantic import ConfigDict, Field, model_validator

from http_triggers.api import Answer, Call, Handler, add_route, foreign_token, listing
from http_triggers.cancels import CancelBody
from http_triggers.runs import RUN_ID
from shared import operator_cancels, operator_log, operators
from shared.definitions import invalid
from shared.identity import SCOPE_PATTERN
from shared.names import QUEUES, EventType, TriggerKind
from shared.operator_cancels import MAX_RUN_IDS, Order, Selection, job_view
from shared.permissions import Rule
from shared.states import ACTIVE_RUN, RunStatus
from shared.store.port import Document
from shared.workflows import ID_PATTERN

ADMIN = "api/admin"
ACTIVE = "active"
MAX_SECONDS = 10**10

blueprint = df.Blueprint()

RunId = Annotated[str, Field(pattern=rf"^{RUN_ID.pattern}$")]


class CancelRunsBody(CancelBody):
    """Which runs to cancel, and why: those of `run_ids`, or all active ones; both narrowed by the other fields.

    `older_than`: created more than so many seconds ago; 0 means every run that is active now.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    run_ids: Annotated[list[RunId], Field(min_length=1, max_length=MAX_RUN_IDS)] | None = None
    scope: Annotated[str, Field(pattern=rf"^{SCOPE_PATTERN.pattern}$")] | None = None
    workflow_id: Annotated[str, Field(pattern=rf"^{ID_PATTERN.pattern}$")] | None = None
    older_than: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None

    @model_validator(mode="after")
    def _says_which(self) -> CancelRunsBody:
        if self.run_ids is None and self.scope is None and self.workflow_id is None and self.older_than is None:
            raise ValueError("name run_ids, scope, workflow_id or older_than; older_than 0 means all")
        if self.run_ids is not None and self.older_than is not None:
            raise ValueError("older_than is not for run_ids")
        return self


async def _look(call: Call, what: str) -> None:
    await operator_log.note_look(call.services, EventType.OPERATOR_LISTED, call.caller.as_dict(), what=what)


def _seconds(call: Call, name: str) -> float | None:
    text = call.request.params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_SECONDS:
        raise invalid([{"field": name, "message": f"must be a number of seconds from 0 to {MAX_SECONDS}"}], "the query")
    return value


async def list_runs(call: Call) -> Answer:
    """GET /api/admin/runs: everyone's, newest first, `?status=active|…&scope=&workflow_id=&older_than=&trigger=`."""
    limit, after = call.page()
    status = call.choice("status", [ACTIVE, *(status.value for status in RunStatus)]) or ACTIVE
    older_than = _seconds(call, "older_than")
    wanted = operators.RunFilter(
        ACTIVE_RUN if status == ACTIVE else (RunStatus(status),),
        call.matching("scope", SCOPE_PATTERN),
        call.matching("workflow_id", ID_PATTERN),
        operators.moment_before(older_than) if older_than is not None else None,
        call.choice("trigger", [kind.value for kind in TriggerKind]),
    )
    await _look(call, "runs")
    page = await call.query(wanted.query(limit, after, descending=True))
    return listing([await operators.shown(call.services, run) for run in page.items], page.next)


async def cancel_runs(call: Call) -> Answer:
    """POST /api/admin/runs/cancel: a result a run; 202 with a job when there are more than a request takes."""
    body = call.parse(CancelRunsBody)
    before = operators.moment_before(body.older_than or 0) if body.run_ids is None else None
    ids = tuple(dict.fromkeys(body.run_ids)) if body.run_ids is not None else None
    selection = Selection(ids, body.scope, body.workflow_id, before)
    order = Order(call.caller.as_dict(), body.reason, selection, body.grace_seconds, body.force)
    assert call.client is not None
    results, job = await operator_cancels.cancel_runs(call.services, call.client, order)
    if job is None:
        return Answer(200, {"results": results, "job": None})
    shown = job_view(job)
    return Answer(202, {"results": results, "job": shown}, {"Location": shown["links"]["self"]})


async def _run(call: Call) -> Document:
    """The run that the route and `?scope=&workflow_id=` name. Raises `Problem` 404, 409, 422."""
    scope, workflow_id = call.matching("scope", SCOPE_PATTERN), call.matching("workflow_id", ID_PATTERN)
    return await operators.find_run(call.services, call.route("rid"), scope, workflow_id)


async def _note_read(call: Call, event_type: EventType, run: Document) -> None:
    about = {"scope": run["scope"], "workflow_id": run["workflow_id"], "run_id": run["id"]}
    await operator_log.note(call.services, event_type, call.caller.as_dict(), **about)


async def get_trail(call: Call) -> Answer:
    """GET /api/admin/runs/{rid}/trail: who asked, who cancelled and from where, repairs, operators."""
    run = await _run(call)
    await _note_read(call, EventType.OPERATOR_READ_TRAIL, run)
    return Answer(200, await operators.trail(call.services, run))


async def export_events(call: Call) -> Answer:
    """GET /api/admin/runs/{rid}/events: as JSON lines, `?after=`; `Truestop-Next` names the last one if more are left."""
    run = await _run(call)
    after = call.request.params.get("after")
    if after is not None and not after.startswith(f"{run['id']}:e:"):
        raise invalid([{"field": "after", "message": "is not the id of an event of this run"}], "the query")
    await _note_read(call, EventType.OPERATOR_EXPORTED, run)
    events, following = await operators.export(call.services, run, after)
    lines = "".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in events)
    headers = {"Content-Disposition": f'attachment; filename="{run["id"]}.jsonl"'}
    if following is not None:
        headers["Truestop-Next"] = following
    return Answer(200, lines.encode(), headers, "application/jsonl")


async def list_wedged(call: Call) -> Answer:
    """GET /api/admin/wedged: cancelling past grace, leases expired, in flight for too long."""
    limit, _ = call.page()
    await _look(call, "wedged")
    return Answer(200, await operators.wedged(call.services, limit))


async def list_rejected(call: Call) -> Answer:
    """GET /api/admin/rejected: queue messages that could not be worked on, newest first, `?queue=`."""
    limit, after = call.page()
    queue = call.choice("queue", list(QUEUES))
    await _look(call, "rejected")
    page = await call.query(operators.rejected(queue, limit, after))
    return listing([operators.rejected_view(one) for one in page.items], page.next)


async def list_events(call: Call) -> Answer:
    """GET /api/admin/events: what operators did, newest first, `?run_id=`."""
    limit, after = call.page()
    page = await call.query(operator_log.entries(call.request.params.get("run_id"), limit, after))
    return listing([operator_log.entry_view(one) for one in page.items], page.next)


async def list_jobs(call: Call) -> Answer:
    """GET /api/admin/jobs: newest first."""
    limit, after = call.page()
    page = await call.query(operator_cancels.jobs(limit, after))
    return listing([job_view(one) for one in page.items], page.next)


async def get_job(call: Call) -> Answer:
    """GET /api/admin/jobs/{id}."""
    return Answer(200, job_view(await operator_cancels.get_job(call.services, call.route("id"))))


async def get_results(call: Call) -> Answer:
    """GET /api/admin/jobs/{id}/results: a result a run, a batch a page."""
    job = await operator_cancels.get_job(call.services, call.route("id"))
    try:
        results, following = await operator_cancels.results_of(call.services, job, call.request.params.get("after"))
    except ValueError:
        raise foreign_token() from None
    return listing(results, following)


async def stop_job(call: Call) -> Answer:
    """POST /api/admin/jobs/{id}/stop: it cancels no more; what it cancelled stays cancelled."""
    stopped = await operator_cancels.stop_job(call.services, call.route("id"), call.caller.as_dict())
    return Answer(200, job_view(stopped))


def _add(name: str, method: str, tail: str, handler: Handler, *, wakes: bool = False) -> None:
    add_route(blueprint, f"admin_{name}", method, f"{ADMIN}/{tail}", handler, Rule.OPERATOR, starts_or_wakes=wakes)


_add("runs", "GET", "runs", list_runs)
_add("cancel", "POST", "runs/cancel", cancel_runs, wakes=True)
_add("trail", "GET", "runs/{rid}/trail", get_trail)
_add("export", "GET", "runs/{rid}/events", export_events)
_add("wedged", "GET", "wedged", list_wedged)
_add("rejected", "GET", "rejected", list_rejected)
_add("events", "GET", "events", list_events)
_add("jobs", "GET", "jobs", list_jobs)
_add("job", "GET", "jobs/{id}", get_job)
_add("job_results", "GET", "jobs/{id}/results", get_results)
_add("job_stop", "POST", "jobs/{id}/stop", stop_job)
