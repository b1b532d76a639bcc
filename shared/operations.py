"""Operations: the guarded writes that begin and end everything a run does.

Whatever costs or shows something is an *operation*. It exists only through three writes, each one transaction:

1. `begin`: creates or re-opens its executions and counts it in flight, **guarded** by *the run is running, its epoch is
   mine, nothing above me was cancelled*. The store orders it against the accept of a cancel: after the accept, none lands.
2. `record`: renews the heartbeat and keeps partial text, conditional on epoch and attempt.
3. `finish`: ends the executions and takes the operation out of flight, conditional on epoch and attempt.

A group is an operation's executions: the last is the operation itself, those before it are containers (a step) that begin
and end with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import ConditionFailed, Conflict, NotFound
from shared.events import event
from shared.executions import ExecutionSpec, RunRef, ancestors, new_execution
from shared.ids import new_ulid, now
from shared.names import CancelOutcome, DocumentType, EventType
from shared.outputs import Output
from shared.states import UNFINISHED_EXECUTION, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.store.port import (
    Check,
    Condition,
    Create,
    Document,
    DocumentStore,
    FieldIn,
    HoldsNone,
    Op,
    Patch,
    Prefix,
    Query,
)

MAX_REAPED = 40
"""Operations that can lie inside one: a reap is one transaction of at most 100 writes."""


@dataclass(slots=True)
class Begun:
    """An operation that began: what every later write of it is conditional on."""

    ref: RunRef
    group: tuple[ExecutionSpec, ...]
    attempts: dict[str, int]
    """The attempt of each path of the group."""
    failures: int
    """How often this operation failed before and was tried again."""
    run: Document
    """The run as the begin left it."""
    side_effects: tuple[dict[str, Any], ...] = ()
    """Those of the operation's earlier attempts."""

    @property
    def leaf(self) -> ExecutionSpec:
        """The operation itself."""
        return self.group[-1]

    @property
    def attempt(self) -> int:
        """The operation's attempt."""
        return self.attempts[self.leaf.path]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The operation ended before: its execution, whose outcome the caller adopts."""

    execution: Document


@dataclass(frozen=True, slots=True)
class Busy:
    """Another attempt is on record as working; `heartbeat` is its last one."""

    execution: Document

    @property
    def heartbeat(self) -> str | None:
        """The value of its heartbeat: opaque, compared only with itself."""
        value: str | None = self.execution["heartbeat_at"]
        return value


@dataclass(frozen=True, slots=True)
class Refused:
    """The guard refused: the run isn't running any more, or not under this epoch, or a branch above was cancelled."""

    run: Document


@dataclass(frozen=True, slots=True)
class Halted:
    """The guard on another execution refused (its fan-out stopped at the first failure)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an operation ends. `status` PENDING means: failed, and to be tried again."""

    status: Ex
    output: Output | None = None
    error: dict[str, str] | None = None
    cancel_outcome: CancelOutcome | None = None
    halts: str | None = None
    """Path of the fan-out's step that stops because this item failed."""
    events: tuple[Create, ...] = field(default=())


class Superseded(Exception):
    """A write of an operation was refused: another attempt, or a settled run, has the say."""


def run_guard(ref: RunRef, statuses: Sequence[RunStatus], path: str | None = None) -> tuple[Condition, ...]:
    """The conditions on the run that guard a write: its status, my epoch, and that no branch above `path` is cancelled."""
    guard: tuple[Condition, ...] = (FieldIn("status", tuple(statuses)), FieldIn("epoch", (ref.epoch,)))
    return guard if path is None else (*guard, HoldsNone("cancelled_executions", ancestors(path)))


async def _current(store: DocumentStore, ref: RunRef, path: str) -> Document | None:
    try:
        return await store.get(ref.partition, ref.execution_id(path))
    except NotFound:
        return None


def _open(ref: RunRef, spec: ExecutionSpec, known: Document | None, operation: bool, top: str) -> Op:
    started: dict[str, Any] = {"status": Ex.RUNNING, "top": top, "started_at": now(), "heartbeat_at": new_ulid()}
    if known is None:
        return Create({**new_execution(ref, spec, Ex.RUNNING, operation), **started, "attempt": 1})
    if known["started_at"] is not None:
        del started["started_at"]
    return Patch(
        known["id"],
        set={
            **started,
            "attempt": known["attempt"] + 1,
            "input_preview": spec.input_preview,
            "error": None,
            "operation": operation,
        },
        when=(FieldIn("status", (known["status"],)), FieldIn("attempt", (known["attempt"],))),
    )


async def begin(
    store: DocumentStore,
    ref: RunRef,
    group: Sequence[ExecutionSpec],
    *,
    inside: Begun | None = None,
    expired_heartbeat: str | None = None,
    unless_halted: str | None = None,
) -> Begun | Recorded | Busy | Refused | Halted:
    """Begin an operation, if the run still runs.

    `inside`: the caller's operation around it, so an older attempt of it is known to be gone; raises `Superseded` when that
    one has no say any more. `expired_heartbeat`: the value that was seen unchanged for as long as a fence takes; only that
    very attempt is taken over. `unless_halted`: path of a fan-out's step; refused when that was halted by a failure.
    """
    leaf = group[-1]
    while True:
        known = {spec.path: await _current(store, ref, spec.path) for spec in group}
        recorded = known[leaf.path]
        taking_over = False
        if recorded is not None and recorded["status"] not in UNFINISHED_EXECUTION:
            return Recorded(recorded)
        if recorded is not None and recorded["status"] == Ex.RUNNING:
            if inside is None and (expired_heartbeat is None or recorded["heartbeat_at"] != expired_heartbeat):
                return Busy(recorded)
            taking_over = True
        again = inside is None and recorded is not None and recorded["attempt"] > 0
        left = await running_inside(store, ref, leaf.path) if again else []
        ops, opened = _begin_ops(ref, group, known, taking_over, left)
        if inside is not None:
            ops.insert(1, Check(ref.execution_id(inside.leaf.path), when=_mine(inside, inside.leaf)))
        elif unless_halted is not None:
            ops.insert(1, Check(ref.execution_id(unless_halted), when=(FieldIn("halted", (False,)),)))
        try:
            run = (await store.transact(ref.partition, ops))[0]
        except (ConditionFailed, Conflict, NotFound) as error:
            if error.op_index == 0:
                return Refused(await store.get(ref.partition, ref.run_id))
            if inside is not None and error.op_index == 1:
                raise Superseded from error
            if unless_halted is not None and error.op_index == 1:
                return Halted()
            continue  # an execution changed under us: look again
        assert run is not None
        attempts = {spec.path: (one["attempt"] if (one := known[spec.path]) else 0) for spec in group}
        for path in opened:
            attempts[path] += 1
        failures, effects = (recorded["failures"], recorded["side_effects"]) if recorded else (0, ())
        return Begun(ref, tuple(group), attempts, failures, run, tuple(effects))


def _begin_ops(
    ref: RunRef,
    group: Sequence[ExecutionSpec],
    known: dict[str, Document | None],
    taking_over: bool,
    left: Sequence[Document],
) -> tuple[list[Op], list[str]]:
    """The transaction of a begin, and the paths that it opens (whose attempt rises).

    `left`: what a lost attempt left at work inside. It becomes pending: this attempt may never come to it.
    """
    leaf = group[-1]
    ops: list[Op] = []
    opened: list[str] = []
    total = pending = running = 0
    for spec in group:
        before = known[spec.path]
        if before is not None and before["status"] == Ex.RUNNING and not (spec is leaf and taking_over):
            continue  # a container that is open already
        opened.append(spec.path)
        ops.append(_open(ref, spec, before, spec is leaf, group[0].path))
        total += before is None
        pending -= before is not None and before["status"] == Ex.PENDING
        running += before is None or before["status"] == Ex.PENDING
        ops.append(event(ref.run_id, EventType.EXECUTION_STARTED, ref.execution_id(spec.path)))
    for one in left:
        ops.append(Patch(one["id"], set={"status": Ex.PENDING, "error": LOST}, when=as_seen(one)))
        ops.append(event(ref.run_id, EventType.EXECUTION_FAILED, one["id"], error=LOST))
    in_flight = int(not taking_over) - sum(bool(one["operation"]) for one in left)
    increments = {"in_flight": in_flight, "counts.total": total}
    increments |= {"counts.pending": pending + len(left), "counts.running": running - len(left)}
    guard = Patch(
        ref.run_id,
        increment={name: by for name, by in increments.items() if by},
        when=run_guard(ref, (RunStatus.RUNNING,), leaf.path),
    )
    return [guard, *ops], opened


LOST = {"code": "lost_contact", "message": "its process was gone"}
"""The error of an attempt that ended without a word."""


async def running_inside(store: DocumentStore, ref: RunRef, path: str) -> list[Document]:
    """What is on record as working inside the operation at `path`."""
    below = (Prefix("id", ref.execution_id(f"{path}.")), FieldIn("status", (Ex.RUNNING,)))
    return (await store.query(Query(DocumentType.EXECUTION, ref.partition, below, limit=MAX_REAPED))).items


def as_seen(execution: Document) -> tuple[Condition, ...]:
    """The conditions that an execution is where it was when it was read."""
    return (FieldIn("status", (execution["status"],)), FieldIn("attempt", (execution["attempt"],)))


async def record(store: DocumentStore, begun: Begun, previews: dict[str, str]) -> Document:
    """Renew the heartbeat and keep partial text (`previews`: path → text). Answers the run. Raises `Superseded`."""
    ref = begun.ref
    changes: dict[str, Any] = {"heartbeat_at": new_ulid()}
    inner = dict(previews)
    if (own := inner.pop(begun.leaf.path, None)) is not None:
        changes["output_preview"] = own
    while True:
        ops: list[Op] = [
            Check(ref.run_id, when=run_guard(ref, (RunStatus.RUNNING, RunStatus.CANCELLING))),
            Patch(ref.execution_id(begun.leaf.path), set=changes, when=_mine(begun, begun.leaf)),
        ]
        paths = list(inner)
        for path in paths:
            shown = {"output_preview": inner[path]}
            ops.append(Patch(ref.execution_id(path), set=shown, when=(FieldIn("status", (Ex.RUNNING,)),)))
        try:
            run = (await store.transact(ref.partition, ops))[0]
        except (ConditionFailed, NotFound) as error:
            if error.op_index is None or error.op_index < 2:
                raise Superseded from error
            del inner[paths[error.op_index - 2]]  # it has just ended, which says nothing about this operation
            continue
        assert run is not None
        return run


async def record_side_effects(
    store: DocumentStore, begun: Begun, effects: Sequence[dict[str, Any]], new: bool
) -> Refused | None:
    """Record all side effects of an operation. A `new` one takes the guard of a begin, which may refuse.

    Raises `Superseded`.
    """
    ref, path = begun.ref, begun.leaf.path
    guard = run_guard(ref, (RunStatus.RUNNING,), path)
    if not new:
        guard = run_guard(ref, (RunStatus.RUNNING, RunStatus.CANCELLING))
    noted = Patch(ref.execution_id(path), set={"side_effects": list(effects)}, when=_mine(begun, begun.leaf))
    try:
        await store.transact(ref.partition, [Check(ref.run_id, when=guard), noted])
    except (ConditionFailed, NotFound) as error:
        if error.op_index == 0 and new:
            return Refused(await store.get(ref.partition, ref.run_id))
        raise Superseded from error
    return None


def _mine(begun: Begun, spec: ExecutionSpec) -> tuple[Condition, ...]:
    return (FieldIn("status", (Ex.RUNNING,)), FieldIn("attempt", (begun.attempts[spec.path],)))


ENDED_EVENT = {
    Ex.COMPLETED: EventType.EXECUTION_COMPLETED,
    Ex.FAILED: EventType.EXECUTION_FAILED,
    Ex.CANCELLED: EventType.EXECUTION_CANCELLED,
    Ex.PENDING: EventType.EXECUTION_FAILED,
}


async def finish(store: DocumentStore, begun: Begun, ending: Ending) -> Document:
    """End an operation: its outcome, its output, out of flight. Answers the run after it. Raises `Superseded`.

    An operation that ends while its run is cancelling says how (`finished`, or what `ending.cancel_outcome` says), which the
    receipt shows; it is never set to be tried again then.
    """
    try:
        if ending.cancel_outcome is None:
            try:
                return await _finish(store, begun, ending, RunStatus.RUNNING)
            except ConditionFailed as error:
                if error.op_index != 0:
                    raise
        return await _finish_cancelling(store, begun, ending)
    except (ConditionFailed, NotFound) as error:
        raise Superseded from error


async def _finish_cancelling(store: DocumentStore, begun: Begun, ending: Ending) -> Document:
    status = Ex.FAILED if ending.status == Ex.PENDING else ending.status
    outcome = ending.cancel_outcome or CancelOutcome.FINISHED
    changed = Ending(status, ending.output, ending.error, outcome, ending.halts, ending.events)
    try:
        return await _finish(store, begun, changed, RunStatus.CANCELLING)
    except ConditionFailed as error:
        # A branch of a run that goes on was cancelled, not the run.
        if error.op_index != 0 or ending.cancel_outcome is None:
            raise
        return await _finish(store, begun, changed, RunStatus.RUNNING)


async def _finish(store: DocumentStore, begun: Begun, ending: Ending, run_status: RunStatus) -> Document:
    ref, size = begun.ref, len(begun.group)
    ops: list[Op] = [
        Patch(
            ref.run_id,
            increment={"in_flight": -1, "counts.running": -size, f"counts.{ending.status}": size},
            when=run_guard(ref, (run_status,)),
        )
    ]
    for spec in begun.group:
        leaf = spec is begun.leaf
        changes: dict[str, Any] = {"status": ending.status, "error": ending.error}
        if ending.status != Ex.PENDING:
            changes["ended_at"] = now()
        elif leaf:
            changes["failures"] = begun.failures + 1
        if ending.output is not None:
            changes |= ending.output.fields()
        if leaf and ending.cancel_outcome is not None:
            changes["cancel_outcome"] = ending.cancel_outcome
            changes["ended_cancelling"] = run_status == RunStatus.CANCELLING
        ops.append(Patch(ref.execution_id(spec.path), set=changes, when=_mine(begun, spec)))
        data = {"error": ending.error} if ending.error else {}
        if ending.status == Ex.PENDING:
            data["will_retry"] = {"failures": str(begun.failures + 1)}
        ops.append(event(ref.run_id, ENDED_EVENT[ending.status], ref.execution_id(spec.path), **data))
    if ending.halts is not None:
        ops.append(Patch(ref.execution_id(ending.halts), set={"halted": True}))
    ops.extend(ending.events)
    run = (await store.transact(ref.partition, ops))[0]
    assert run is not None
    return run
