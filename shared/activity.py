"""A workflow at a glance: itself, its active or last run, and what happened lately, with the token that follows it live.

The token is read first. What changes while the rest is read is in the snapshot or after the token, perhaps in both; a view
is a state, and replaces an older one of the same id.
"""

from __future__ import annotations

import asyncio
from typing import Any

from shared.errors import NotFound
from shared.live_views import shown
from shared.names import WORKFLOW_ID, DocumentType
from shared.services import Services
from shared.store.port import Document, Partition, Prefix, Query
from shared.views import event_view, execution_view, link, workflow_view

RECENT = 50


async def activity(services: Services, partition: Partition, run_id: str | None) -> dict[str, Any]:
    """The snapshot of a workflow and of its run `run_id` (None: the active one, or the last). Raises `NotFound`."""
    feed = await services.store.position(partition)
    workflow = await services.store.get(partition, WORKFLOW_ID)
    run = await _run(services, partition, workflow, run_id)
    lately = (DocumentType.EXECUTION, "started_at"), (DocumentType.EVENT, "id")
    executions, events = [], []
    if run is not None:
        executions, events = await asyncio.gather(*(_recent(services, partition, run, *one) for one in lately))
    view = None if run is None else await shown(services, run)
    return {
        "workflow": workflow_view(workflow),
        "run": None if view is None else view.view,
        "executions": [execution_view(one) for one in executions],
        "events": [event_view(one) for one in events],
        "feed": feed,
        "links": {"stream": link(partition.scope, partition.workflow_id, "stream")},
    }


async def _run(services: Services, partition: Partition, workflow: Document, run_id: str | None) -> Document | None:
    runtime = workflow["runtime"]
    wanted = run_id or runtime["active_run_id"] or runtime["last_run_id"]
    if wanted is None:
        return None
    try:
        run = await services.store.get(partition, wanted)
    except NotFound:
        if run_id is None:
            return None  # the last one is no longer kept
        raise
    if run["type"] != DocumentType.RUN:
        raise NotFound(wanted)
    return run


async def _recent(
    services: Services, partition: Partition, run: Document, kind: DocumentType, order_by: str
) -> list[Document]:
    """The run's latest documents of a kind, newest first."""
    own = (Prefix("id", f"{run['id']}:"),)
    query = Query(kind, partition, own, order_by=order_by, descending=True, limit=RECENT)
    return (await services.store.query(query)).items
