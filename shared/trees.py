"""Cancelling a tree, told node by node: each run and execution at and below a run, deepest first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from shared.branches import below
from shared.errors import NotFound
from shared.executions import run_ref
from shared.runs import CancelRequest, request_cancel
from shared.services import Services
from shared.states import TERMINAL_RUN, UNFINISHED_EXECUTION, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.store.port import Document, Partition

MAX_NODES = 5000
"""Nodes that are told one by one; the cancel reaches all, and the totals count all."""


ENDED = frozenset(TERMINAL_RUN)
"""Runs and executions name their ends alike."""
STOPPED = (RunStatus.CANCELLED, RunStatus.CANCELLING)


@dataclass(frozen=True, slots=True)
class _Member:
    """A run of the tree with its executions, as one look found them. `depth`: of the run in the tree, in executions."""

    run: Document
    executions: list[Document]
    depth: int


@dataclass(frozen=True, slots=True)
class Tree:
    """What a cancel of a tree came to: its top run, and each node."""

    run: Document
    nodes: list[dict[str, Any]]


async def cancel_tree(services: Services, partition: Partition, run_id: str, request: CancelRequest) -> Tree:
    """Cancel the run and everything below it; when this returns, all of it has accepted. Raises as `request_cancel` does."""
    before = await _members(services, partition, run_id, 0)
    run = await request_cancel(services, partition, run_id, request)
    # A second look, after all have accepted: nothing can begin any more, so it finds everything that there will ever be.
    after = await _members(services, partition, run_id, 0)
    known = {one["id"]: one["status"] for member in before for one in (member.run, *member.executions)}
    nodes = [node for member in after for node in _nodes(member, known)]
    return Tree(run, sorted(nodes, key=lambda node: (-node["depth"], node["run_id"], node["id"])))


async def _members(services: Services, partition: Partition, run_id: str, depth: int) -> list[_Member]:
    """The runs of the tree, this one first."""
    try:
        run = await services.store.get(partition, run_id)
    except NotFound:
        if depth == 0:
            raise
        return []  # begun in its parent, not created yet
    executions = await below(services, run_ref(run), None, *Ex)
    found = [_Member(run, executions, depth)]
    inner = await asyncio.gather(
        *(
            _members(services, Partition(link["scope"], link["workflow_id"]), link["run_id"], depth + one["depth"] + 2)
            for one in executions
            if (link := one["child"]) is not None
        )
    )
    return found + [member for members in inner for member in members]


def _nodes(member: _Member, known: dict[str, str]) -> list[dict[str, Any]]:
    run = member.run
    whole = _node(run, run, "run", member.depth, known.get(run["id"]), run["status"])
    nodes = [whole]
    for one in member.executions:
        before = known.get(one["id"])
        status = one["status"]
        if run["status"] == RunStatus.CANCELLING and status in UNFINISHED_EXECUTION:
            status = RunStatus.CANCELLING  # being stopped, or about to be stamped: nothing of it goes on
        nodes.append(_node(run, one, one["kind"], member.depth + 1 + one["depth"], before, status))
    return nodes


def _node(run: Document, one: Document, kind: str, depth: int, before: str | None, status: str) -> dict[str, Any]:
    """One node. `skip_reason`: it had ended before, or by itself while the cancel came."""
    ended_itself = status in ENDED and status != RunStatus.CANCELLED
    reason = f"already {before}" if before in ENDED else f"ended by itself: {status}" if ended_itself else None
    return {
        "id": one["id"],
        "run_id": run["id"],
        "kind": kind,
        "name": one["definition"]["name"] if kind == "run" else one["name"],
        "depth": depth,
        "previous_status": before or status,
        "status": status,
        "skip_reason": reason,
    }


def tree_view(tree: Tree) -> dict[str, Any]:
    """The answer: totals over all nodes, and at most `MAX_NODES` of them, deepest first."""
    skipped = sum(node["skip_reason"] is not None for node in tree.nodes)
    cancelled = sum(node["skip_reason"] is None and node["status"] in STOPPED for node in tree.nodes)
    return {
        "run_id": tree.run["id"],
        "status": tree.run["status"],
        "total_nodes": len(tree.nodes),
        "cancelled_count": cancelled,
        "skipped_count": skipped,
        "error_count": len(tree.nodes) - cancelled - skipped,
        "nodes": tree.nodes[:MAX_NODES],
    }
