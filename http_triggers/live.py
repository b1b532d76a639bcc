"""Routes of the live view: a snapshot, and the stream that goes on from it.

The host can't stream an answer, so each request of a stream is a short window: an `EventSource` opens the next by itself,
with the last event's id, and stops at 204. Nothing depends on a window: closing one cancels nothing.
"""

from __future__ import annotations

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_scoped_route
from http_triggers.runs import RUN_ID, run_not_found
from http_triggers.workflows import WORKFLOW, partition_of
from shared import workflows
from shared.activity import activity
from shared.definitions import invalid
from shared.errors import NotFound, Problem
from shared.names import RESERVED_IDS, WORKFLOW_ID
from shared.permissions import Rule

WINDOW_SECONDS = 20.0
MAX_TOKEN = 4096
LAST_EVENT_ID = "last-event-id"

blueprint = df.Blueprint()


def _run_id(call: Call) -> str | None:
    """The run to follow, if one is named. Raises `Problem` 404."""
    run_id: str | None = call.request.params.get("run_id")
    if run_id is not None and (run_id in RESERVED_IDS or not RUN_ID.fullmatch(run_id)):
        raise run_not_found()
    return run_id


def _missing(error: NotFound) -> Problem:
    return workflows.not_found() if error.document_id == WORKFLOW_ID else run_not_found()


async def get_activity(call: Call) -> Answer:
    """GET {base}/{wid}/activity."""
    partition, run_id = partition_of(call), _run_id(call)
    try:
        return Answer(200, await activity(call.services, partition, run_id))
    except NotFound as error:
        raise _missing(error) from None


async def stream(call: Call) -> Answer:
    """GET {base}/{wid}/stream: one window. An `EventSource` repeats its URL, so the header is the later place."""
    partition, run_id = partition_of(call), _run_id(call)
    source = "Last-Event-ID" if call.request.headers.get(LAST_EVENT_ID) else "after"
    token = call.request.headers.get(LAST_EVENT_ID) or call.request.params.get("after")
    try:
        if token is not None and len(token) > MAX_TOKEN:
            raise ValueError
        body = await call.services.live.window(call.services, partition, token, run_id, WINDOW_SECONDS)
    except ValueError:
        raise invalid([{"field": source, "message": "is not a token of this feed"}], "the request") from None
    except NotFound as error:
        raise _missing(error) from None
    await call.confirm()  # whoever was removed meanwhile sees no more
    return Answer(204) if body is None else Answer(200, body, content_type="text/event-stream")


add_scoped_route(blueprint, "live_activity", "GET", WORKFLOW + "/activity", get_activity, Rule.WORKFLOW_VIEW)
add_scoped_route(blueprint, "live_stream", "GET", WORKFLOW + "/stream", stream, Rule.WORKFLOW_VIEW)
