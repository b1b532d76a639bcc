"""Routes that cancel: the active run, one run, one execution. What they accept is durable before they answer."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import azure.durable_functions as df
from pydantic import BaseModel, ConfigDict, Field

from http_triggers.api import Answer, Call, add_route
from http_triggers.runs import read_run
from http_triggers.workflows import BASE, base_of, partition_of
from shared import workflows
from shared.errors import NotFound, Problem
from shared.names import CancelSource
from shared.narrow import cancel_execution
from shared.orchestration import wake
from shared.receipts import cancel_receipt
from shared.runs import CancelRequest, request_cancel
from shared.states import RunStatus
from shared.views import narrow_cancel_view

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
    return await _cancel(call, active, body)


async def cancel_run(call: Call) -> Answer:
    """POST {base}/{wid}/runs/{rid}/cancel."""
    body = call.parse(CancelBody)
    return await _cancel(call, (await read_run(call))["id"], body)


async def _cancel(call: Call, run_id: str, body: CancelBody) -> Answer:
    assert call.client is not None
    request = CancelRequest(call.caller.as_dict(), _source(call), body.reason, body.grace_seconds, body.force)
    run = await request_cancel(call.services, partition_of(call), run_id, request)
    receipt, _ = await asyncio.gather(cancel_receipt(call.services, run), wake(call.client, run))
    return Answer(202 if run["status"] == RunStatus.CANCELLING else 200, receipt)


def _source(call: Call) -> CancelSource:
    return SOURCES.get(call.request.headers.get("x-truestop-source", ""), CancelSource.API)


async def cancel_one_execution(call: Call) -> Answer:
    """POST {base}/{wid}/runs/{rid}/executions/{path}/cancel: that execution and what is below it."""
    body, run, path = call.parse(ReasonBody), await read_run(call), call.route("path")
    missing = Problem(404, "execution_not_found", "the run has no such execution")
    if not EXECUTION_PATH.fullmatch(path):
        raise missing
    request = CancelRequest(call.caller.as_dict(), _source(call), body.reason)
    try:
        done = await cancel_execution(call.services, partition_of(call), run["id"], path, request)
    except NotFound:
        raise missing from None
    return Answer(
        202, narrow_cancel_view(done.run, done.execution, done.active, f"{base_of(call)}/runs/{run['id']}/cancel")
    )


RUN = BASE + "/{wid}/runs/{rid}"
add_route(blueprint, "run_cancel_active", "POST", BASE + "/{wid}/cancel", cancel_active, starts_or_wakes=True)
add_route(blueprint, "run_cancel", "POST", RUN + "/cancel", cancel_run, starts_or_wakes=True)
add_route(blueprint, "execution_cancel", "POST", RUN + "/executions/{path}/cancel", cancel_one_execution)
