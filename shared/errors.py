"""Every error of the domain.

TruestopError
├── StoreError              what a DocumentStore raises
│   ├── NotFound            no such document
│   ├── Conflict            the document to create exists
│   ├── ConditionFailed     an etag or a condition did not hold
│   ├── TooLarge            over 100 operations, or over 2 MB
│   ├── Throttled           ask again after `retry_after`
│   └── Unavailable         the store can't be reached, or its answer was lost
│       └── Misconfigured   it was reached, and refuses us or lacks what we need
├── AlreadyProduced         a trigger was delivered again: its run exists, or existed
├── NoLongerDue             a trigger's workflow is not as the trigger saw it: changed, disabled, or served already
├── StepFailed              an operation failed; says whether trying again may help
├── NoCurrentRun            a run-only function was called outside a run
└── Problem                 what an HTTP caller is told (RFC 9457)
RunCancelled (BaseException) raised by a token only, so that `except Exception` in a tool can't swallow it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CODE, MAX_DETAIL = 64, 4000


class TruestopError(Exception):
    """Base of all errors that are ours. The arguments are kept as given, so every error pickles."""

    message: str = ""

    def __str__(self) -> str:
        return self.message


class StoreError(TruestopError):
    """A document store refused, or could not do, what was asked."""


class NotFound(StoreError):
    """There is no document `document_id`. `op_index`: which operation of the transaction asked for it."""

    def __init__(self, document_id: str, op_index: int | None = None) -> None:
        super().__init__(document_id, op_index)
        self.document_id, self.op_index = document_id, op_index
        self.message = f"document {document_id!r} does not exist"


class Conflict(StoreError):
    """Document `document_id` exists already. `op_index`: which operation wanted to create it."""

    def __init__(self, document_id: str, op_index: int | None = None) -> None:
        super().__init__(document_id, op_index)
        self.document_id, self.op_index = document_id, op_index
        self.message = f"document {document_id!r} exists already"


class ConditionFailed(StoreError):
    """A condition of operation `op_index` did not hold; nothing of the transaction was applied."""

    def __init__(self, document_id: str, op_index: int) -> None:
        super().__init__(document_id, op_index)
        self.document_id, self.op_index = document_id, op_index
        self.message = f"a condition on document {document_id!r} (operation {op_index}) does not hold"


class TooLarge(StoreError):
    """A transaction has over 100 operations, a patch over 10 changes, or an item or transaction is over 2 MB."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what, self.size, self.limit = what, size, limit
        self.message = f"{what}: {size} is over the limit of {limit}"


class Throttled(StoreError):
    """The store asks for patience. `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after
        self.message = f"the store is throttling; try again after {retry_after:g} s"


class Unavailable(StoreError):
    """The store can't be reached or did not answer; what was asked may or may not have happened.

    `settings`: the names of those to look at, if any can be the cause.
    """

    def __init__(self, detail: str, settings: Sequence[str] = ()) -> None:
        super().__init__(detail, tuple(settings))
        self.detail, self.settings = detail, tuple(settings)
        self.message = f"the store is unavailable: {detail}"


class Misconfigured(Unavailable):
    """The store was reached, and refuses us or lacks what we need. It may pass: a clock is set, a new role takes effect."""


class AlreadyProduced(TruestopError):
    """A trigger's receipt is there: `key` produced run `run_id` before, whatever became of that run."""

    def __init__(self, key: str, run_id: str) -> None:
        super().__init__(key, run_id)
        self.key, self.run_id = key, run_id
        self.message = f"{key!r} produced run {run_id} before"


class NoLongerDue(TruestopError):
    """A trigger's workflow is not as it was when the trigger looked: it must look again."""

    message = "the workflow has changed since its trigger looked"


class StepFailed(TruestopError):
    """An operation failed. `code` is stable; `retryable`: trying again may help, after `retry_after` seconds."""

    def __init__(self, code: str, detail: str, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(code, detail, retryable, retry_after)
        self.code, self.detail, self.retryable, self.retry_after = code, detail, retryable, retry_after
        self.message = f"{code}: {detail}"

    def facts(self) -> dict[str, str]:
        """What an execution's `error` holds: bounded, and text that can be stored whatever a tool's error said."""
        return {"code": self.code[:MAX_CODE], "message": self.detail[:MAX_DETAIL].encode("utf-8", "replace").decode()}


class NoCurrentRun(TruestopError):
    """`checkpoint()` or `current_token()` was called outside a run's operation."""

    def __init__(self) -> None:
        super().__init__()
        self.message = "no run is current here: call this inside a tool, model or data call of a run"


class Problem(TruestopError):
    """What a caller is told: an RFC 9457 problem with a stable `code`. `errors` maps a field to what is wrong with it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, code, detail, errors, extra)
        self.status, self.code, self.detail, self.errors, self.extra = (
            status,
            code,
            detail,
            tuple(errors),
            dict(extra or {}),
        )
        self.message = f"{status} {code}: {detail}"


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Who asked for a cancel, when (RFC 3339 UTC), from where, and why."""

    source: str
    reason: str | None = None
    requested_by: Mapping[str, str] | None = None
    requested_at: str | None = None


class RunCancelled(BaseException):
    """The current operation's run (or the operation itself) was cancelled. A BaseException: see STYLE 2 of the design."""

    def __init__(self, cancellation: Cancellation) -> None:
        super().__init__(cancellation)
        self.cancellation = cancellation

    def __str__(self) -> str:
        return f"cancelled by {self.cancellation.source}: {self.cancellation.reason or 'no reason given'}"
