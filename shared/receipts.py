"""The receipt of a cancel: requested, observed, stopped, by whom, what was in flight and what had already been done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shared.errors import Problem
from shared.executions import run_ref
from shared.names import DocumentType
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Document, Prefix, Query
from shared.views import side_effects

if TYPE_CHECKING:
    from shared.services import Services

PAGE = 500


async def cancel_receipt(services: Services, run: Document) -> dict[str, Any]:
    """The receipt of `run`'s cancel. Raises `Problem` 404 `not_cancelled` when none was accepted.

    `in_flight`: each operation that was at work when the cancel was accepted, with `outcome`: null while it still is,
    `finished`, `stopped`, `lost` or `abandoned`.
    """
    cancel = run["cancel"]
    if cancel is None:
        raise Problem(404, "not_cancelled", "no cancel was accepted for this run")
    executions = await executions_of(services, run)
    return {
        "run_id": run["id"],
        "status": run["status"],
        **{key: cancel[key] for key in ("requested_at", "requested_by", "source", "reason", "grace_seconds")},
        **{key: cancel[key] for key in ("observed_at", "stopped_at", "acknowledged", "forced")},
        "in_flight": [_in_flight(one) for one in executions if _was_in_flight(one, run)],
        "side_effects": [effect for execution in executions for effect in side_effects(execution)],
    }


async def executions_of(services: Services, run: Document) -> list[Document]:
    """All of the run's executions, in path order."""
    own = Query(DocumentType.EXECUTION, run_ref(run).partition, (Prefix("id", f"{run['id']}:"),), limit=PAGE)
    page = await services.store.query(own)
    found = page.items
    while page.next is not None:
        page = await services.store.query(replace(own, after=page.next))
        found += page.items
    return found


def _was_in_flight(execution: Document, run: Document) -> bool:
    if execution["ended_cancelling"]:
        return True  # one that was cancelled alone before has an outcome too, but was not in flight any more
    return bool(run["status"] == RunStatus.CANCELLING and execution["operation"] and execution["status"] == Ex.RUNNING)


def _in_flight(execution: Document) -> dict[str, Any]:
    return {
        "execution_id": execution["id"],
        "kind": execution["kind"],
        "name": execution["name"],
        "started_at": execution["started_at"],
        "ended_at": execution["ended_at"],
        "outcome": execution["cancel_outcome"],
    }
