"""Route of deliveries: what became of a workflow's notifications, dead letters with their reasons among them."""

from __future__ import annotations

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_scoped_route, listing
from http_triggers.workflows import WORKFLOW, partition_of
from shared import workflows
from shared.deliveries import DeliveryStatus
from shared.names import DocumentType
from shared.permissions import Rule
from shared.store.port import FieldIn, Filter, Query
from shared.views import delivery_view

blueprint = df.Blueprint()


async def list_deliveries(call: Call) -> Answer:
    """GET {base}/{wid}/deliveries: newest first, `?status=&run_id=`."""
    partition = partition_of(call)
    await workflows.get(call.services, partition)
    limit, after = call.page()
    where: list[Filter] = []
    status = call.choice("status", [status.value for status in DeliveryStatus])
    if status is not None:
        where.append(FieldIn("status", (status,)))
    if run_id := call.request.params.get("run_id"):
        where.append(FieldIn("run_id", (run_id,)))
    query = Query(
        DocumentType.DELIVERY,
        partition,
        tuple(where),
        order_by="created_at",
        descending=True,
        limit=limit,
        after=after,
    )
    page = await call.query(query)
    return listing([delivery_view(one) for one in page.items], page.next)


add_scoped_route(
    blueprint, "workflows_deliveries", "GET", WORKFLOW + "/deliveries", list_deliveries, Rule.WORKFLOW_VIEW
)
