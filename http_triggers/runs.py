"""The route that starts runs, and how a route names one. What it accepts is durable before it answers."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import azure.durable_functions as df
from pydantic import BaseModel, ConfigDict, Field

from http_triggers.api import Answer, Call, add_scoped_route
from http_triggers.workflows import WORKFLOW, partition_of
from shared import names, workflows
from shared.definitions import invalid
from shared.errors import AlreadyProduced, NotFound, Problem, Throttled, Unavailable
from shared.executions import run_ref
from shared.ids import new_ulid
from shared.names import CancelSource
from shared.orchestration import InstanceState, instance_of, start_instance
from shared.permissions import Rule
from shared.quotas import refuse_more_runs
from shared.receipts import cancel_receipt
from shared.runs import CancelRequest, request_cancel
from shared.starting import Start, start_run
from shared.states import RunStatus
from shared.store.port import Document, Partition
from shared.views import run_view

log = logging.getLogger(__name__)

RUN_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
"""It is a part of the names of blobs, none of which may end with a dot."""
MAX_INPUT_BYTES = 256 * 1024
RUN = WORKFLOW + "/runs/{rid}"

blueprint = df.Blueprint()


class StartBody(BaseModel):
    """What a start takes. `wait`: answer once the run has ended, or after so many seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)
    input: Any = None
    run_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    wait: Annotated[float, Field(ge=0, le=20)] = 0


def run_not_found() -> Problem:
    """The answer for a run that doesn't exist and for one that the caller may not see."""
    return Problem(404, "run_not_found", "there is no such run")


def run_id_of(call: Call) -> str:
    """The run that the route names. Raises `Problem` 404."""
    run_id = call.route("rid")
    if not RUN_ID.fullmatch(run_id):
        raise run_not_found()
    return run_id


async def read_run(call: Call) -> Document:
    """The run that the route names. Raises `Problem` 404."""
    partition, run_id = partition_of(call), run_id_of(call)
    try:
        run = await call.services.store.get(partition, run_id)
    except NotFound:
        raise run_not_found() from None
    if run["type"] != names.DocumentType.RUN:
        raise run_not_found()
    return run


async def shown(call: Call, run: Document) -> dict[str, Any]:
    """A run as it is answered, with its receipt when it was cancelled."""
    receipt = await cancel_receipt(call.services, run) if run["cancel"] is not None else None
    return run_view(run, receipt)


def start_of(call: Call, run_id: str | None, given: Any, partition: Partition) -> Start:
    """The caller's request to start a run, of the id that they chose, if they did. Raises `Problem` 413, 422."""
    if len(json.dumps(given)) > MAX_INPUT_BYTES:
        raise Problem(413, "body_too_large", f"the input is over {MAX_INPUT_BYTES} bytes")
    by = call.caller.as_dict()
    if run_id is None:
        made = new_ulid()
        return Start(made, made, given, by)
    if not RUN_ID.fullmatch(run_id) or run_id in names.RESERVED_IDS:
        message = (
            "must be 1 to 64 letters, digits, '.', '_' or '-', begin with a letter or digit, not end with '.', "
            "and not be reserved"
        )
        raise invalid([{"field": "run_id", "message": message}], "the body")
    # Instances are named across all users: another user's run of the same id must be another instance.
    owner = hashlib.sha256(f"{partition.scope}/{partition.workflow_id}".encode()).hexdigest()[:20]
    return Start(run_id, f"{run_id}-{owner}", given, by, keys=(run_id,))


async def start(call: Call) -> Answer:
    """POST {base}/{wid}/run."""
    partition = partition_of(call)
    workflow = await workflows.get(call.services, partition)
    body = call.parse(StartBody)
    start = start_of(call, body.run_id, body.input, partition)
    await refuse_more_runs(call.services, partition, start.run_id)
    return await answer_start(call, lambda: start_run(call.services, partition, workflow, start), body.wait)


async def answer_start(call: Call, start: Callable[[], Awaitable[tuple[Document, bool]]], wait: float) -> Answer:
    """Let a run start, and its orchestration. Answers the run, once it has ended or after `wait` seconds."""
    await call.confirm()
    try:
        run, created = await start()
    except AlreadyProduced as error:
        raise Problem(409, "run_id_taken", f"{error}; it is no longer kept") from None
    if run["status"] == RunStatus.QUEUED:
        await _start_instance(call, run, created)
    if wait:
        try:
            run = await call.services.watcher.until_ended(run_ref(run), wait)
        except (Throttled, Unavailable) as error:
            log.info("can't wait for run %s, which was started: %s", run["id"], error)
        await call.confirm()
    answer = await shown(call, run)
    return Answer(202 if created else 200, answer, {"Location": answer["links"]["self"]})


async def _start_instance(call: Call, run: Document, created: bool) -> None:
    """Start the run's orchestration. What can't be started is cancelled at once: nothing is left behind."""
    assert call.client is not None
    try:
        await start_instance(call.client, run)
    except Exception as error:
        if not created:
            if (await instance_of(call.client, run)).state == InstanceState.MISSING:
                raise Unavailable(f"the instance of run {run['id']} can't be started: {error}") from error
            log.info("instance %s was started before: %s", run["instance_id"], error)
            return
        log.exception("run %s could not be started", run["id"])
        why = CancelRequest(call.caller.as_dict(), CancelSource.RECONCILE, "its orchestration could not be started")
        await request_cancel(call.services, partition_of(call), run["id"], why)
        raise Problem(503, "start_failed", "the run could not be started; it was cancelled") from None


add_scoped_route(blueprint, "run_start", "POST", WORKFLOW + "/run", start, Rule.WORKFLOW_RUN, starts_or_wakes=True)
