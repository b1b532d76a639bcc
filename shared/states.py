"""Statuses of runs, executions and workflows, and which may follow which.

They are persisted and part of the HTTP contract: changing one is an API change.
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    """Accepted and durable; its orchestration has not begun it yet."""
    RUNNING = "running"
    """Its steps are being worked on."""
    CANCELLING = "cancelling"
    """A cancel was accepted: nothing new begins; what is in flight is being stopped or waited for."""
    CANCELLED = "cancelled"
    """The cancel is complete."""
    COMPLETED = "completed"
    """Every step ended as its settings ask."""
    FAILED = "failed"
    """A step failed and its settings stop the run."""
    SKIPPED = "skipped"
    """A slot or event that found its workflow busy."""


class ExecutionStatus(StrEnum):
    """Where a node of a run's tree is."""

    PENDING = "pending"
    """Not begun, or waiting to be tried again."""
    RUNNING = "running"
    """At work, or (a container) something below it is."""
    COMPLETED = "completed"
    """Ended with an output."""
    FAILED = "failed"
    """Ended with an error."""
    CANCELLED = "cancelled"
    """Stopped by a cancel, or never begun because of one."""
    SKIPPED = "skipped"
    """Never begun, because something before it failed."""


class WorkflowStatus(StrEnum):
    """What a workflow is doing."""

    IDLE = "idle"
    """No run is active."""
    RUNNING = "running"
    """A run is queued or running."""
    CANCELLING = "cancelling"
    """Its active run is being cancelled."""


RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLING}),
    RunStatus.RUNNING: frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLING}),
    RunStatus.CANCELLING: frozenset({RunStatus.CANCELLED}),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.SKIPPED: frozenset(),
}

EXECUTION_TRANSITIONS: dict[ExecutionStatus, frozenset[ExecutionStatus]] = {
    ExecutionStatus.PENDING: frozenset({ExecutionStatus.RUNNING, ExecutionStatus.CANCELLED, ExecutionStatus.SKIPPED}),
    ExecutionStatus.RUNNING: frozenset(
        {
            ExecutionStatus.RUNNING,  # taken over by another attempt
            ExecutionStatus.PENDING,  # failed, and will be tried again
            ExecutionStatus.COMPLETED,
            ExecutionStatus.FAILED,
            ExecutionStatus.CANCELLED,
        }
    ),
    ExecutionStatus.COMPLETED: frozenset(),
    ExecutionStatus.FAILED: frozenset(),
    ExecutionStatus.CANCELLED: frozenset(),
    ExecutionStatus.SKIPPED: frozenset(),
}

ACTIVE_RUN = tuple(status for status, following in RUN_TRANSITIONS.items() if following)
"""A run that is in one of these holds its workflow's lock."""
TERMINAL_RUN = tuple(status for status, following in RUN_TRANSITIONS.items() if not following)
"""A run that is in one of these never changes again."""
UNFINISHED_EXECUTION = tuple(status for status, following in EXECUTION_TRANSITIONS.items() if following)
"""What settling stamps."""


def sources(target: RunStatus) -> tuple[RunStatus, ...]:
    """The statuses from which a run may enter `target`: the guard of the write that does so."""
    return tuple(status for status, following in RUN_TRANSITIONS.items() if target in following)


def execution_sources(target: ExecutionStatus) -> tuple[ExecutionStatus, ...]:
    """The same of an execution."""
    return tuple(status for status, following in EXECUTION_TRANSITIONS.items() if target in following)
