"""Runs that other systems ask for, by a message on the queue `run-requests`.

Whoever can write to the queue can write any message, so a message proves what it may ask for: it carries the token that the
workflow's people gave to its sender. A request is idempotent by its key, for good. While the workflow is busy, or the store
away, it waits on the queue, in growing pauses; what never started is a `skipped` run of the workflow, with the reason.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Literal

from pydantic import Field

from shared import workflows
from shared.errors import AlreadyProduced, NotFound, Problem, Throttled, Unavailable
from shared.identity import SCOPE_PATTERN
from shared.ids import new_ulid
from shared.integrations import Name, may_ask
from shared.names import QUEUE_RUN_REQUESTS, TriggerKind
from shared.orchestration import Orchestrations, start_instance
from shared.queue_intake import poison, read_message, reject
from shared.services import Services
from shared.starting import Start, skip_run, start_run
from shared.states import RunStatus
from shared.steps import Strict
from shared.store.port import Document, Partition

log = logging.getLogger(__name__)

MAX_TRIES = 5
FIRST_PAUSE_SECONDS = 30
"""Pause after a first try in vain; each further one is four times as long: 42 minutes in all."""
KEY = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$"

Outcome = Literal["started", "repeated", "waiting", "skipped", "rejected"]


class RunRequest(Strict):
    """A message: see `docs/run-requests.md`. `tries` is our own count."""

    scope: str = Field(pattern=rf"^{SCOPE_PATTERN.pattern}$")
    workflow_id: str = Field(pattern=rf"^{workflows.ID_PATTERN.pattern}$")
    sender: str = Field(pattern=Name)
    token: str = Field(max_length=200)
    key: str = Field(pattern=KEY)
    input: Any = None
    tries: int = Field(default=1, ge=1, le=MAX_TRIES)

    @property
    def partition(self) -> Partition:
        """Where the workflow is."""
        return Partition(self.scope, self.workflow_id)


async def handle(services: Services, orchestrations: Orchestrations, text: str) -> Outcome:
    """Work on one message; idempotent. Raises `Throttled`, `Unavailable`: the host then delivers it again."""
    try:
        request = read_message(text, RunRequest)
        try:
            workflow = await _asked_for(services, request)
            return await _start(services, orchestrations, request, workflow)
        except (Throttled, Unavailable) as error:
            if request.tries == MAX_TRIES:
                raise
            log.warning("a run request waits: %s", error)
            return await _send_again(services, request)
    except Problem as problem:
        await reject(services, QUEUE_RUN_REQUESTS, text, problem)
        return "rejected"


async def _asked_for(services: Services, request: RunRequest) -> Document:
    """The workflow, if its people let the sender ask for runs of it. Raises `Problem`."""
    workflow = await workflows.get(services, request.partition)
    if not may_ask(await workflows.secrets_of(services, request.partition), request.sender, request.token):
        raise Problem(403, "sender_not_allowed", f"{request.sender!r} with this token may not ask for this workflow")
    return workflow


async def _start(
    services: Services, orchestrations: Orchestrations, request: RunRequest, workflow: Document
) -> Outcome:
    run_id = new_ulid()
    by = {"id": f"sender:{request.sender}", "name": request.sender}
    keys = (f"{request.sender}:{request.key}",)  # two senders may count alike
    start = Start(run_id, run_id, request.input, by, TriggerKind.REQUEST, keys)
    if not workflow["definition"]["enabled"]:
        return await _skip(services, request, workflow, start, "the workflow is disabled")
    try:
        run, _ = await start_run(services, request.partition, workflow, start)
    except AlreadyProduced as error:
        return await _again(services, orchestrations, request, error)
    except Problem as problem:
        if problem.code == "workflows_off":
            return await _skip(services, request, workflow, start, problem.detail)
        if problem.code != "workflow_busy":
            raise
        return await _wait(services, request, workflow, start, problem.detail)
    await _start_instance(orchestrations, run)
    return "started"


async def _again(
    services: Services, orchestrations: Orchestrations, request: RunRequest, error: AlreadyProduced
) -> Outcome:
    """A request that came before: see that its run was really started."""
    try:
        run = await services.store.get(request.partition, error.run_id)
    except NotFound:
        return "repeated"
    if run["status"] == RunStatus.QUEUED:
        await _start_instance(orchestrations, run)
    return "repeated"


async def _start_instance(orchestrations: Orchestrations, run: Document) -> None:
    try:
        await start_instance(orchestrations, run)
    except Exception as error:
        # The run is accepted and durable: if this wasn't because it runs already, reconcile starts it.
        log.warning("instance %s was not started here: %s", run["instance_id"], error)


async def _wait(services: Services, request: RunRequest, workflow: Document, start: Start, busy: str) -> Outcome:
    """Try again later, or never."""
    if request.tries == MAX_TRIES:
        return await _skip(services, request, workflow, start, f"{busy} at each of {MAX_TRIES} tries")
    return await _send_again(services, request)


async def _send_again(services: Services, request: RunRequest) -> Outcome:
    """Put the request back, for its next try."""
    later = {**request.model_dump(), "tries": request.tries + 1}
    await services.queue.send(QUEUE_RUN_REQUESTS, later, FIRST_PAUSE_SECONDS * 4 ** (request.tries - 1))
    return "waiting"


async def _skip(services: Services, request: RunRequest, workflow: Document, start: Start, why: str) -> Outcome:
    """Record that the request came to nothing: its key starts nothing any more."""
    try:
        await skip_run(services, request.partition, workflow, start, why)
    except AlreadyProduced:
        return "repeated"
    await poison(services, QUEUE_RUN_REQUESTS, json.dumps(request.model_dump()), why)
    return "skipped"
