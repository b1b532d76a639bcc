"""Routes that cancel: the active run, one run, one execution. What they accept is durable before they answer."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import azure.durable_functions as df
from pydantic import BaseModel, ConfigDict, Field

from http_triggers.api import Answer, Call, add_scoped_route
from http_triggers.runs import RUN, read_run
from http_triggers.workflows import WORKFLOW, partition_of
from shared import workflows
from shared.errors import NotFound, Problem
from shared.executions import run_ref
from shared.names import CancelSource
from shared.narrow import cancel_execution
from shared.orchestration import wake
from shared.permissions import Rule
from shared.receipts import cancel_receipt
from shared.runs import CancelRequest, request_cancel
from shared.states import RunStatus
from shared.store.port import Document, Partition
from shared.views import link, narrow_cancel_view

SOURCES = {source.value: source for source in (CancelSource.PAGE, CancelSource.CLI, CancelSource.CLIENT)}
EXECUTION_PATH = re.compile(r"s[0-9]{2}(\.[a-z]{1,2}[0-9]{0,3}){0,40}")

blueprint = df.Blueprint()


class ReasonBody(BaseModel):
    """What every cancel takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(max_length=1000)] | None = None


class CancelBody(ReasonBody):
    """What the cancel of a run takes."""

    grace_seconds: Annotated[float, Field(ge=0, le=300)] | None = None
    force: bool = False


async def cancel_active(call: Call) -> Answer:
    """POST {base}/{wid}/cancel: the workflow's active run."""
    body = call.parse(CancelBody)
    active = (await workflows.get(call.services, partition_of(call)))["runtime"]["active_run_id"]
    if active is None:
        raise Problem(404, "no_active_run", "no run of this workflow is active")
    return await answer_cancel(call, partition_of(call), active, body)


async def cancel_run(call: Call) -> Answer:
    """POST {base}/{wid}/runs/{rid}/cancel."""
    body = call.parse(CancelBody)
    return await answer_cancel(call, partition_of(call), (await read_run(call))["id"], body)


async def answer_cancel(call: Call, partition: Partition, run_id: str, body: CancelBody) -> Answer:
    """Cancel a run and everything below it. Answers its receipt."""
    await call.confirm(partition.scope)
    run = await request_cancel(call.services, partition, run_id, request_of(call, body))
    receipt, _ = await asyncio.gather(cancel_receipt(call.services, run), woken(call, run))
    return Answer(202 if run["status"] == RunStatus.CANCELLING else 200, receipt)


async def woken(call: Call, run: Document) -> None:
    """Wake the orchestration of a run whose cancel was accepted."""
    assert call.client is not None
    await wake(call.client, run)


def request_of(call: Call, body: CancelBody) -> CancelRequest:
    """The caller's request to cancel a run."""
    return CancelRequest(call.caller.as_dict(), _source(call), body.reason, body.grace_seconds, body.force)


def _source(call: Call) -> CancelSource:
    return SOURCES.get(call.request.headers.get("x-truestop-source", ""), CancelSource.API)


async def cancel_one_execution(call: Call) -> Answer:
    """POST {base}/{wid}/runs/{rid}/executions/{path}/cancel: that execution and what is below it."""
    body = call.parse(ReasonBody)
    return await answer_execution_cancel(call, await read_run(call), call.route("path"), body)


async def answer_execution_cancel(call: Call, run: Document, path: str, body: ReasonBody) -> Answer:
    """Cancel one execution. Answers what goes on, and how to stop that. Raises `Problem` 404."""
    missing = Problem(404, "execution_not_found", "the run has no such execution")
    if not EXECUTION_PATH.fullmatch(path):
        raise missing
    request = CancelRequest(call.caller.as_dict(), _source(call), body.reason)
    await call.confirm(run["scope"])
    try:
        done = await cancel_execution(call.services, run_ref(run).partition, run["id"], path, request)
    except NotFound:
        raise missing from None
    whole = link(run["scope"], run["workflow_id"], "runs", run["id"], "cancel")
    return Answer(202, narrow_cancel_view(done.run, done.execution, done.active, whole))


add_scoped_route(
    blueprint,
    "run_cancel_active",
    "POST",
    WORKFLOW + "/cancel",
    cancel_active,
    Rule.WORKFLOW_CANCEL,
    starts_or_wakes=True,
)
add_scoped_route(
    blueprint, "run_cancel", "POST", RUN + "/cancel", cancel_run, Rule.WORKFLOW_CANCEL, starts_or_wakes=True
)
add_scoped_route(
    blueprint,
    "execution_cancel",
    "POST",
    RUN + "/executions/{path}/cancel",
    cancel_one_execution,
    Rule.WORKFLOW_CANCEL,
)
