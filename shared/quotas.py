"""How many workflows and active runs a scope may have. Counted before, so a few asked for at once may pass together.

Only what people and machines ask for over HTTP is refused: slots, files and messages are bounded by a scope's workflows,
each of which has one active run.
"""

from __future__ import annotations

from shared.errors import NotFound, Problem
from shared.names import DocumentType
from shared.services import Services
from shared.store.port import Partition, Query


async def refuse_more_workflows(services: Services, scope: str) -> None:
    """Raise `Problem` 409 `too_many_workflows` when the scope has all that it may."""
    most = services.settings.workflows_max
    if len((await services.store.query(Query(DocumentType.WORKFLOW, scope, limit=most))).items) >= most:
        raise Problem(409, "too_many_workflows", f"there may be at most {most} workflows here: delete one")


async def refuse_more_runs(services: Services, partition: Partition, run_id: str) -> None:
    """Raise `Problem` 409 `too_many_active_runs` when the scope has all that it may, unless the run is there already.

    Counts locks: an active run has one, and they are small.
    """
    settings = services.settings
    most = settings.user_runs_max if partition.scope.startswith("user:") else settings.group_runs_max
    if len((await services.store.query(Query(DocumentType.LOCK, partition.scope, limit=most))).items) < most:
        return
    try:
        await services.store.get(partition, run_id)
    except NotFound:
        message = f"{most} runs are active here, which is the most there may be: wait for one, or cancel it"
        raise Problem(409, "too_many_active_runs", message) from None
