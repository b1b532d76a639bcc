"""Executions: the nodes of a run's tree, and how they are addressed.

Paths are deterministic (`s02`, `s02.i004`, `s02.i004.m`), so a replay or a redelivery finds the same node.
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
    """`s02.i004.m` → (`s02`, `s02.i004`, `s02.i004.m`)."""
    parts = path.split(".")
    return tuple(".".join(parts[: i + 1]) for i in range(len(parts)))


def step_path(index: int) -> str:
    """The path of the step at `index` (from 0): `s01`, `s02`, …"""
    return f"s{index + 1:02d}"


def item_path(step: str, index: int) -> str:
    """The path of an item (from 0) of a fan-out: `s02.i001`, …"""
    return f"{step}.i{index + 1:03d}"


def new_execution(ref: RunRef, spec: ExecutionSpec, status: Ex, operation: bool) -> Document:
    """A fresh execution document."""
    parent = spec.path.rpartition(".")[0] or None
    return {
        "id": ref.execution_id(spec.path),
        "type": DocumentType.EXECUTION,
        "run_id": ref.run_id,
        "path": spec.path,
        "parent": parent,
        "depth": spec.path.count("."),
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
        "cancel": None,
        "cancel_outcome": None,
    }
