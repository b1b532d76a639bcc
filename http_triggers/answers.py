"""The shapes of answers, as the API's description has them. Answers may gain fields; those named here stay.

The domain builds answers as plain objects (`shared/views.py`); tests hold them against these shapes.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from shared.deliveries import DeliveryStatus
from shared.names import CancelOutcome, CancelSource, EventType, Kind, TriggerKind
from shared.permissions import KeyScope, Role
from shared.states import ExecutionStatus, RunStatus, WorkflowStatus

Item = TypeVar("Item")
Moment = str
"""RFC 3339 UTC with milliseconds."""


class Listing(BaseModel, Generic[Item]):
    """A page of a list; `next` is the `after` of the page after it, null when there is none."""

    items: list[Item]
    next: str | None


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ProblemDetails(BaseModel):
    """A refusal (RFC 9457). `code` is stable: docs/errors.md lists all."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldError] = []


class CodedError(BaseModel):
    """Why something failed."""

    code: str
    message: str


class Person(BaseModel):
    """Who asked; `key`: the machine's key that was used."""

    id: str
    name: str
    key: str | None = None


class Me(BaseModel):
    """The caller."""

    id: str
    name: str
    roles: list[str]
    active_group: str | None


class Health(BaseModel):
    """`up` or `down`, of the whole and of each part; `look_at`: settings that can be the cause."""

    status: str
    store: str
    queue: str
    blobs: str
    model: str
    look_at: dict[str, list[str]] = {}


class ToolAnswer(BaseModel):
    """A tool that steps and agents may name."""

    name: str
    description: str
    parameters: dict[str, Any]
    side_effects: Any


class RuntimeFacts(BaseModel):
    """What a workflow does and did."""

    status: WorkflowStatus
    active_run_id: str | None
    next_run_at: Moment | None
    last_run_id: str | None
    last_run_status: RunStatus | None
    last_run_started_at: Moment | None
    last_run_ended_at: Moment | None
    last_run_error: CodedError | None
    last_run_trigger: TriggerKind | None
    run_count: int


class WorkflowAnswer(BaseModel):
    """A workflow: its definition (see `Definition`; its secrets are never shown), and what it does."""

    id: str
    scope: str
    etag: str
    name: str
    description: str
    enabled: bool
    grace_seconds: float
    after_cancel: str
    trigger: dict[str, Any]
    steps: list[dict[str, Any]]
    created_at: Moment
    updated_at: Moment
    runtime: RuntimeFacts


class DryRun(BaseModel):
    """A definition is valid; when it would run first."""

    next_run_at: Moment | None


class InFlight(BaseModel):
    """An operation that was at work when the cancel was accepted; `outcome` is null while it still is."""

    execution_id: str
    kind: Kind
    name: str
    started_at: Moment | None
    ended_at: Moment | None
    outcome: CancelOutcome | None


class SideEffectAnswer(BaseModel):
    """What others can see of an execution; with `done` false, what it may have done."""

    execution_id: str
    kind: str
    what: str
    at: Moment
    done: bool


class Receipt(BaseModel):
    """The receipt of a cancel: requested, observed, stopped, by whom; what was in flight, what had already been done."""

    run_id: str
    status: RunStatus
    requested_at: Moment
    requested_by: Person
    source: CancelSource
    reason: str | None
    grace_seconds: float
    observed_at: Moment | None
    stopped_at: Moment | None
    acknowledged: bool | None
    forced: bool
    in_flight: list[InFlight]
    side_effects: list[SideEffectAnswer]


class TriggerAnswer(BaseModel):
    """What started a run."""

    kind: TriggerKind
    key: str | None


class RunAnswer(BaseModel):
    """A run."""

    id: str
    workflow_id: str
    scope: str
    status: RunStatus
    trigger: TriggerAnswer
    requested_by: Person
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    input: Any
    output_preview: Any
    error: CodedError | None
    counts: dict[str, int]
    resumed_from: str | None
    parent: dict[str, Any] | None
    cancel: Receipt | None
    links: dict[str, str]


class ExecutionAnswer(BaseModel):
    """A node of a run's tree."""

    id: str
    path: str
    parent: str | None
    depth: int
    kind: Kind
    name: str
    status: ExecutionStatus
    attempt: int
    started_at: Moment | None
    ended_at: Moment | None
    input_preview: Any
    output_preview: Any
    output_ref: str | None
    error: CodedError | None
    side_effects: list[SideEffectAnswer]


class EventAnswer(BaseModel):
    """An event of a run."""

    id: str
    type: EventType
    run_id: str
    execution_id: str | None
    at: Moment
    data: dict[str, Any]


class ActivityAnswer(BaseModel):
    """A workflow at a glance; `feed` is where the stream goes on."""

    workflow: WorkflowAnswer
    run: RunAnswer | None
    executions: list[ExecutionAnswer]
    events: list[EventAnswer]
    feed: str
    links: dict[str, str]


class NarrowCancel(BaseModel):
    """What was cancelled of a run, what goes on, and where to stop that too."""

    scope: str
    execution_id: str
    status: ExecutionStatus
    run_id: str
    run_status: RunStatus
    remaining_active_in_run: int
    active: list[dict[str, Any]]
    suggested_endpoint: str
    warning: str


class Stopping(BaseModel):
    """The short answer to a stop."""

    runId: str
    status: str


class TreeAnswer(BaseModel):
    """The cancel of a tree, node by node, deepest first."""

    run_id: str
    status: RunStatus
    total_nodes: int
    cancelled_count: int
    skipped_count: int
    error_count: int
    nodes: list[dict[str, Any]]


class DeliveryAnswer(BaseModel):
    """A notification to a webhook."""

    id: str
    run_id: str
    execution_id: str | None
    webhook: str
    event: str
    status: DeliveryStatus
    attempts: Any
    created_at: Moment
    next_attempt_at: Moment | None


class DocumentAnswer(BaseModel):
    """A document without its bytes."""

    name: str
    size: int
    etag: str
    content_type: str
    modified_at: Moment


class ArtifactAnswer(BaseModel):
    """An artifact without its bytes."""

    path: str
    size: int
    content_type: str
    execution_id: str
    at: Moment


class MemberAnswer(BaseModel):
    """A member of a group."""

    id: str
    name: str
    role: Role
    since: Moment


class GroupAnswer(BaseModel):
    """A group, as a member with this role sees it."""

    id: str
    name: str
    role: Role
    members: list[MemberAnswer]
    created_at: Moment
    updated_at: Moment


class ActiveGroup(BaseModel):
    """The group in which the caller works."""

    active_group: str


class KeyAnswer(BaseModel):
    """A machine's key, without what proves it."""

    id: str
    name: str
    allows: list[KeyScope]
    made_by: Person
    created_at: Moment
    expires_at: Moment
    last_used_at: Moment | None
    expired: bool


class NewKey(KeyAnswer):
    """A key that was just made; `key` is shown this once."""

    key: str


class KeyEvent(BaseModel):
    """What happened to a key."""

    id: str
    type: EventType
    key_id: str
    name: str
    by: Person
    at: Moment
