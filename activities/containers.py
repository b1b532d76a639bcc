"""Containers: nodes that hold operations and are none themselves, such as a fan-out's step or an agent.

A container is never in flight. It opens and closes by one guarded transaction each, which a redelivery finds done.
"""

from __future__ import annotations

from typing import Any

from shared.branches import refusal
from shared.errors import ConditionFailed, NotFound
from shared.events import event
from shared.executions import ExecutionSpec, RunRef, new_execution
from shared.ids import now
from shared.names import OUTCOME_BRANCH_CANCELLED, EventType
from shared.operations import ENDED_EVENT, run_guard
from shared.outputs import Output
from shared.services import Services
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Create, Document, FieldIn, Op, Patch
from shared.supervisor import Outcome, outcome_of


async def find_node(services: Services, ref: RunRef, path: str) -> Document | None:
    """The execution at `path`, if it is there."""
    try:
        return await services.store.get(ref.partition, ref.execution_id(path))
    except NotFound:
        return None


async def open_container(
    services: Services, ref: RunRef, spec: ExecutionSpec, known: Document | None, **more: Any
) -> None:
    """Open a container that is not yet there (`known` None) or pending. `more`: further fields of it.

    Raises `ConditionFailed` when the guard refuses, and that or `Conflict` when another delivery was quicker.
    """
    opened = {"status": Ex.RUNNING, "started_at": now(), "attempt": 1, "input_preview": spec.input_preview, **more}
    counts = {"counts.running": 1}
    op: Op
    if known is None:
        counts["counts.total"] = 1
        op = Create({**new_execution(ref, spec, Ex.RUNNING, operation=False), **opened})
    else:
        counts["counts.pending"] = -1
        op = Patch(known["id"], set=opened, when=(FieldIn("status", (Ex.PENDING,)),))
    await services.store.transact(
        ref.partition,
        [
            Patch(ref.run_id, increment=counts, when=run_guard(ref, (RunStatus.RUNNING,), spec.path)),
            op,
            event(ref.run_id, EventType.EXECUTION_STARTED, ref.execution_id(spec.path)),
        ],
    )


async def close_container(
    services: Services, ref: RunRef, path: str, status: Ex, output: Output | None, error: dict[str, str] | None
) -> Outcome:
    """Close the container at `path`. Answers its outcome, which is an earlier delivery's if that closed it."""
    changes: dict[str, Any] = {"status": status, "ended_at": now(), "error": error}
    if output is not None:
        changes |= output.fields()
    ops: list[Op] = [
        Patch(
            ref.run_id,
            increment={"counts.running": -1, f"counts.{status}": 1},
            when=run_guard(ref, (RunStatus.RUNNING,), path),
        ),
        Patch(ref.execution_id(path), set=changes, when=(FieldIn("status", (Ex.RUNNING,)),)),
        event(ref.run_id, ENDED_EVENT[status], ref.execution_id(path), **({"error": error} if error else {})),
    ]
    try:
        await services.store.transact(ref.partition, ops)
    except ConditionFailed as refused:
        if refused.op_index == 0:
            return await refusal(services, ref, path)
        return await outcome_of(services, ref, await services.store.get(ref.partition, ref.execution_id(path)))
    if status == Ex.CANCELLED:
        return {"status": OUTCOME_BRANCH_CANCELLED}  # the guard has just seen that the run goes on
    return {"status": status, "error": error}
