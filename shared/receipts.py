"""The receipt of a cancel: requested, observed, stopped, by whom, what was in flight and what had already been done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from shared.errors import Problem
from shared.executions import run_ref
from shared.names import DocumentType
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.paging import every
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
    in_flight: list[dict[str, Any]] = []
    effects: list[dict[str, Any]] = []
    async for one in executions_of(services, run):
        effects += side_effects(one)
        if _was_in_flight(one, run):
            in_flight.append(_in_flight(one))
    return {
        "run_id": run["id"],
        "status": run["status"],
        **{key: cancel[key] for key in ("requested_at", "requested_by", "source", "reason", "grace_seconds")},
        **{key: cancel[key] for key in ("observed_at", "stopped_at", "acknowledged", "forced")},
        "in_flight": in_flight,
        "side_effects": effects,
    }


def executions_of(services: Services, run: Document) -> AsyncIterator[Document]:
    """All of the run's executions in path order, a page at a time: there may be many, each with its previews."""
    own = (Prefix("id", f"{run['id']}:"),)
    return every(services.store, Query(DocumentType.EXECUTION, run_ref(run).partition, own, limit=PAGE))


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
