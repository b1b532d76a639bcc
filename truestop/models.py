"""What the service answers, as typed, immutable objects. `raw` is the whole answer, also what this version doesn't know."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from truestop import display
from truestop.errors import UnexpectedAnswer

FINAL = ("completed", "failed", "cancelled", "skipped")
"""Statuses that a run never leaves."""
V = TypeVar("V", bound="View")


@dataclass(frozen=True)
class View:
    """An answer of the service."""

    raw: Mapping[str, Any] = field(repr=False, compare=False, kw_only=True)

    @classmethod
    def of(cls: type[V], data: Any) -> V:
        """Read an answer. Raises `UnexpectedAnswer` when it lacks something or has another type."""
        if not isinstance(data, Mapping):
            raise UnexpectedAnswer(200, f"{cls.__name__}: not a JSON object")
        own: Any = cls  # a type checker takes an abstract class for something that can't be hashed
        try:
            values = {name: _value(hint, data.get(name)) for name, hint in _hints(own).items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise UnexpectedAnswer(200, f"{cls.__name__}: {error}") from None
        return cls(**values, raw=data)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {one.name: hints[one.name] for one in fields(cls) if one.name != "raw"}


def _value(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        return None if value is None else _value(inner[0], value)
    if origin is tuple:
        return tuple(_value(get_args(hint)[0], one) for one in value or ())
    if hint is datetime:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 reads no Z
    if isinstance(hint, type) and issubclass(hint, View):
        return hint.of(value)
    expected = (int, float) if hint is float else hint
    if hint in (str, int, bool, float) and not isinstance(value, expected):
        raise TypeError(f"{value!r} is no {hint.__name__}")
    return value


@dataclass(frozen=True)
class Person(View):
    """Who did something."""

    id: str
    name: str | None


@dataclass(frozen=True)
class Failure(View):
    """Why something failed: a stable code, and a message for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Workflow(View):
    """A workflow. `runtime` says what it is doing; `raw` holds its steps and settings."""

    id: str
    scope: str
    etag: str
    name: str
    description: str | None
    enabled: bool
    steps: tuple[Any, ...]
    trigger: Any
    created_at: datetime
    updated_at: datetime
    runtime: Any

    @property
    def definition(self) -> dict[str, Any]:
        """What `replace` takes."""
        own = {"id", "scope", "etag", "created_at", "updated_at", "runtime"}
        return {key: value for key, value in self.raw.items() if key not in own}


@dataclass(frozen=True)
class InFlight(View):
    """An operation that was at work at a cancel. `outcome`: finished, stopped, lost, abandoned; None: not yet."""

    execution_id: str
    kind: str
    name: str
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str | None


@dataclass(frozen=True)
class SideEffect(View):
    """Something that others can see; with `done` False, something that may have been done."""

    execution_id: str
    kind: str
    what: str
    at: datetime
    done: bool


@dataclass(frozen=True)
class Receipt(View):
    """The receipt of a cancel. `acknowledged`: None until the run is cancelled, False if something was abandoned."""

    run_id: str
    status: str
    requested_at: datetime
    requested_by: Person | None
    source: str
    reason: str | None
    grace_seconds: float
    observed_at: datetime | None
    stopped_at: datetime | None
    acknowledged: bool | None
    forced: bool
    in_flight: tuple[InFlight, ...]
    side_effects: tuple[SideEffect, ...]

    def _repr_html_(self) -> str:
        return display.receipt_html(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


@dataclass(frozen=True)
class RunState(View):
    """A run as it was when it was read."""

    id: str
    workflow_id: str
    scope: str
    status: str
    trigger: Any
    requested_by: Person | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    input: Any
    output_preview: str | None
    error: Failure | None
    counts: Any
    cancel: Receipt | None
    resumed_from: str | None
    parent: Any
    links: Any

    @property
    def ended(self) -> bool:
        """Whether it will never change again."""
        return self.status in FINAL

    def _repr_html_(self) -> str:
        return display.run_html(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


@dataclass(frozen=True)
class Execution(View):
    """A node of a run's tree. `output_preview` grows while a model call streams."""

    id: str
    path: str
    parent: str | None
    depth: int
    kind: str
    name: str
    status: str
    attempt: int
    started_at: datetime | None
    ended_at: datetime | None
    input_preview: str | None
    output_preview: str | None
    error: Failure | None
    side_effects: tuple[SideEffect, ...]


@dataclass(frozen=True)
class Event(View):
    """Something that happened in a run."""

    id: str
    type: str
    run_id: str
    execution_id: str | None
    at: datetime
    data: Any


@dataclass(frozen=True)
class Artifact(View):
    """A file that a run wrote."""

    path: str
    size: int | None
    content_type: str | None
    execution_id: str
    at: datetime


@dataclass(frozen=True)
class TreeNode(View):
    """What cancelling a tree did to one node. `skip_reason`: why it was left as it was."""

    id: str
    run_id: str
    kind: str
    name: str
    depth: int
    previous_status: str
    status: str
    skip_reason: str | None


@dataclass(frozen=True)
class TreeReceipt(View):
    """What cancelling a tree did, deepest node first."""

    run_id: str
    status: str
    total_nodes: int
    cancelled_count: int
    skipped_count: int
    error_count: int
    nodes: tuple[TreeNode, ...]


@dataclass(frozen=True)
class NarrowReceipt(View):
    """What cancelling one execution did, and what of its run goes on."""

    execution_id: str
    status: str
    run_id: str
    run_status: str
    remaining_active_in_run: int
    suggested_endpoint: str
    warning: str


@dataclass(frozen=True)
class CancelResult(View):
    """What an operator's cancel did to one run."""

    run_id: str
    workflow_id: str | None
    result: str
    status: str | None
    error: Failure | None


@dataclass(frozen=True)
class Cancels(View):
    """What an operator's cancel did; `job` goes on with the runs that were too many for one request."""

    results: tuple[CancelResult, ...]
    job: Any


@dataclass(frozen=True)
class DocumentInfo(View):
    """A document of a scope."""

    name: str
    size: int
    content_type: str
    etag: str


@dataclass(frozen=True)
class Member(View):
    """A member of a group."""

    id: str
    name: str | None
    role: str


@dataclass(frozen=True)
class Group(View):
    """A group. `role` is the caller's."""

    id: str
    name: str
    role: str | None
    members: tuple[Member, ...]
    created_at: datetime


@dataclass(frozen=True)
class Key(View):
    """A machine's key. `key` is its text, only in the answer that made it."""

    id: str
    name: str
    allows: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    expired: bool
    key: str | None = field(repr=False)


@dataclass(frozen=True)
class Change:
    """Something of a run that is new: its state, a node of its tree, or an event."""

    kind: Literal["run", "execution", "event"]
    value: RunState | Execution | Event
