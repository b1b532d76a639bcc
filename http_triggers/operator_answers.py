"""The shapes of what operators are answered; the others are in `answers.py`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from http_triggers.answers import CodedError, FieldError, Moment, Person, RunAnswer
from shared.names import EventType
from shared.operator_cancels import JobStatus, Result
from shared.states import RunStatus


class OperatorEvent(BaseModel):
    """What an operator did."""

    id: str
    type: EventType
    by: Person
    at: Moment
    data: dict[str, Any]


class TrailEvent(BaseModel):
    """What was done to a run; `by` is null for the service itself."""

    id: str
    type: EventType
    by: Person | None
    source: str | None
    at: Moment
    data: dict[str, Any]


class Trail(BaseModel):
    """A run, and what was done to it."""

    run: RunAnswer
    trail: list[TrailEvent]


class CancelResult(BaseModel):
    """What became of one run of an order."""

    run_id: str
    scope: str | None
    workflow_id: str | None
    result: Result
    status: RunStatus | None
    error: CodedError | None


class Job(BaseModel):
    """A cancel of many runs; `selection.run_ids` is how many were named."""

    id: str
    status: JobStatus
    by: Person
    reason: str
    grace_seconds: float | None
    force: bool
    counts: dict[Result, int]
    selection: dict[str, Any]
    created_at: Moment
    updated_at: Moment
    ended_at: Moment | None
    stopped_by: Person | None
    links: dict[str, str]


class CancelResults(BaseModel):
    """A result a run, and the job that goes on with the others."""

    results: list[CancelResult]
    job: Job | None


class Wedged(BaseModel):
    """What may need an operator."""

    cancelling: list[dict[str, Any]]
    leases: list[dict[str, Any]]
    operations: list[dict[str, Any]]
    truncated: bool


class Rejected(BaseModel):
    """A queue message that could not be worked on."""

    id: str
    queue: str
    message: Any
    error: CodedError
    errors: list[FieldError]
    created_at: Moment
