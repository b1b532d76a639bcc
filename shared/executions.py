"""Executions: the nodes of a run's tree, and how they are addressed.

Paths are deterministic (`s02`, `s02.i004`, `s02.i004.m`), so a replay or a redelivery finds the same node. A turn of an
agent is a part of paths (`s03.t01.m`, `s03.t01.c0`) but no node: nothing begins or ends with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shared.names import DocumentType, Kind
from shared.states import ExecutionStatus as Ex
from shared.store.port import Document, Partition


class RunRef(NamedTuple):
    """Which run, and the epoch under which the caller works. Travels in Durable payloads."""

    scope: str
    workflow_id: str
    run_id: str
    epoch: int

    @property
    def partition(self) -> Partition:
        """Where the run's documents are."""
        return Partition(self.scope, self.workflow_id)

    def execution_id(self, path: str) -> str:
        """The document id of the node at `path`."""
        return f"{self.run_id}:{path}"


def run_ref(run: Document) -> RunRef:
    """How to address `run` under its present epoch."""
    return RunRef(run["scope"], run["workflow_id"], run["id"], run["epoch"])


@dataclass(frozen=True, slots=True)
class ExecutionSpec:
    """A node to begin. `input_preview`: what it was given, as text (16 KB at most). `child`: the run that it stands for."""

    path: str
    kind: Kind
    name: str
    input_preview: str | None = None
    child: Mapping[str, str] | None = None


def ancestors(path: str) -> tuple[str, ...]:
    """The nodes from the step down to `path`: `s03.t01.c1.t02.m` → (`s03`, `s03.t01.c1`, `s03.t01.c1.t02.m`)."""
    parts = path.split(".")
    return tuple(".".join(parts[: i + 1]) for i, part in enumerate(parts) if not part.startswith("t"))


def step_path(index: int) -> str:
    """The path of the step at `index` (from 0): `s01`, `s02`, …"""
    return f"s{index + 1:02d}"


def item_path(step: str, index: int) -> str:
    """The path of an item (from 0) of a fan-out: `s02.i001`, …"""
    return f"{step}.i{index + 1:03d}"


def turn_model_path(agent: str, turn: int) -> str:
    """The path of the model call of an agent's turn (from 1): `s03.t01.m`."""
    return f"{agent}.t{turn:02d}.m"


def turn_call_path(agent: str, turn: int, index: int) -> str:
    """The path of a tool call (from 0) of an agent's turn (from 1): `s03.t01.c0`."""
    return f"{agent}.t{turn:02d}.c{index}"


def split_call_path(path: str) -> tuple[str, int, int]:
    """What `turn_call_path` put together."""
    agent, turn, call = path.rsplit(".", 2)
    return agent, int(turn[1:]), int(call[1:])


def new_execution(ref: RunRef, spec: ExecutionSpec, status: Ex, operation: bool) -> Document:
    """A fresh execution document."""
    above = ancestors(spec.path)[:-1]
    return {
        "id": ref.execution_id(spec.path),
        "type": DocumentType.EXECUTION,
        "run_id": ref.run_id,
        "path": spec.path,
        "parent": above[-1] if above else None,
        "depth": len(above),
        "kind": spec.kind,
        "name": spec.name,
        "status": status,
        "operation": operation,
        "top": None,
        "attempt": 0,
        "failures": 0,
        "heartbeat_at": None,
        "started_at": None,
        "ended_at": None,
        "input_preview": spec.input_preview,
        "output_preview": None,
        "output_ref": None,
        "output_format": None,
        "error": None,
        "halted": False,
        "side_effects": [],
        "child": spec.child,
        "items_total": None,
        "reused_from": None,
        "cancel": None,
        "cancel_outcome": None,
        "ended_cancelling": False,
    }
