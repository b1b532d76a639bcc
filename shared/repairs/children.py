"""Child runs whose parent died: before it told them of its cancel, before it heard of their end, or with them at work."""

from __future__ import annotations

from shared.errors import NotFound
from shared.names import CancelSource
from shared.repairs.work import ACTORS, Work
from shared.runs import CancelRequest, cancel_children
from shared.settling import report_to_parent
from shared.states import TERMINAL_RUN
from shared.states import ExecutionStatus as Ex
from shared.store.port import Document, Partition


async def cancel_orphan(work: Work, run: Document) -> bool:
    """Cancel `run` if it is a child whose parent no longer waits for it. Answers whether it did."""
    link = run["parent"]
    if link is None:
        return False
    partition = Partition(link["scope"], link["workflow_id"])
    execution = await work.find(partition, link["execution_id"])
    if execution is not None and execution["status"] == Ex.RUNNING:
        return False
    parent = await work.find(partition, link["run_id"])
    why = "its parent's run is no longer kept" if parent is None else "its parent's run no longer waits for it"
    await work.cancel(run, CancelSource.PARENT, why)
    return True


async def pass_on(work: Work, run: Document) -> None:
    """Bring the cancel of `run` to its child runs, in case whoever accepted it died in between."""
    request = CancelRequest(ACTORS[CancelSource.RECONCILE], CancelSource.RECONCILE, run["cancel"]["reason"])
    await cancel_children(work.services, run, request)


async def report(work: Work, execution: Document) -> None:
    """Tell the run of `execution` that the child for which that stands has ended, if it has."""
    link = execution["child"]
    try:
        child = await work.services.store.get(Partition(link["scope"], link["workflow_id"]), link["run_id"])
    except NotFound:
        return  # it may be about to be created; if not, the cancel of its parent leaves a tombstone
    if child["status"] not in TERMINAL_RUN:
        return
    await report_to_parent(work.services, child)
