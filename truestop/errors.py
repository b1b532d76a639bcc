"""What the client raises. Which problem becomes which class is decided in one table, by its code, else by its status.

TruestopError
  Unreachable            no answer, for as long as the client was patient
  UnexpectedAnswer       an answer that Truestop does not give: something else serves that address
  Problem                the service refused: status, code, detail, errors
    NotSignedIn Forbidden NotFound Invalid TooLarge RevisionChanged RateLimited
    Conflict
      WorkflowBusy AlreadyFinished RunActive NothingToResume
    ServerFault
      Unavailable
  RunCancelled RunFailed how a run ended, from `run.result()`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truestop.models import Receipt, RunState


class TruestopError(Exception):
    """Base of all errors of this package."""


class Unreachable(TruestopError):
    """The service did not answer in `attempts` attempts over `seconds`. What was asked may have happened."""

    def __init__(self, server: str, attempts: int, seconds: float, detail: str) -> None:
        super().__init__(server, attempts, seconds, detail)
        self.server, self.attempts, self.seconds, self.detail = server, attempts, seconds, detail

    def __str__(self) -> str:
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts in {self.seconds:.0f} s"
        return f"{self.server} can't be reached ({tries}): {self.detail}"


class UnexpectedAnswer(TruestopError):
    """The answer is not one of Truestop's. `status` is its HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail

    def __str__(self) -> str:
        return f"not an answer of Truestop (HTTP {self.status}): {self.detail}"


class Problem(TruestopError):
    """A refusal: HTTP `status`, stable `code`, `detail` for people, `errors` (`field`, `message`), the rest in `extra`."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        extra: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, code, detail, tuple(errors), dict(extra or {}), retry_after)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.extra, self.retry_after = tuple(errors), dict(extra or {}), retry_after

    def __str__(self) -> str:
        fields = "".join(f"\n  {error.get('field', '?')}: {error.get('message', '')}" for error in self.errors)
        return f"{self.detail} ({self.code}){fields}"


class NotSignedIn(Problem):
    """Nobody is signed in, or the key is not accepted."""


class Forbidden(Problem):
    """You may see it, and may not do that."""


class NotFound(Problem):
    """There is no such thing, or you may not see it."""


class Invalid(Problem):
    """The request is malformed: see `errors`."""


class TooLarge(Problem):
    """Something in the request is over its limit."""


class RevisionChanged(Problem):
    """The workflow is no longer the one whose `etag` was given."""


class RateLimited(Problem):
    """Too many requests: again after `retry_after` seconds."""


class Conflict(Problem):
    """What is asked can't be done in the present state."""


class WorkflowBusy(Conflict):
    """A run of the workflow is active."""

    @property
    def active_run_id(self) -> str | None:
        """That run."""
        return _text(self.extra.get("active_run_id"))


class AlreadyFinished(Conflict):
    """It ended by itself before the cancel came."""

    @property
    def state(self) -> str | None:
        """How it ended."""
        return _text(self.extra.get("state"))


class RunActive(Conflict):
    """Only a run that has ended can be resumed."""


class NothingToResume(Conflict):
    """Nothing of the run is left to repeat."""


class ServerFault(Problem):
    """A fault of the service."""


class Unavailable(ServerFault):
    """The service, or something that it needs, is away for the moment."""


class RunCancelled(TruestopError):
    """The run was cancelled. `partial`: the text that had arrived, by the path of the model call that was stopped."""

    def __init__(self, run: RunState, receipt: Receipt, partial: Mapping[str, str]) -> None:
        super().__init__(run, receipt, dict(partial))
        self.run, self.receipt, self.partial = run, receipt, dict(partial)

    def __str__(self) -> str:
        by = self.receipt.requested_by
        why = f": {self.receipt.reason}" if self.receipt.reason else ""
        return f"run {self.run.id} was cancelled by {(by and (by.name or by.id)) or self.receipt.source}{why}"


class RunFailed(TruestopError):
    """The run failed (or, with `code` "skipped", never started). `code` and `message` say why."""

    def __init__(self, run: RunState) -> None:
        super().__init__(run)
        self.run = run
        self.code = run.error.code if run.error else run.status
        self.message = run.error.message if run.error else ""

    def __str__(self) -> str:
        return f"run {self.run.id} failed: {self.message} ({self.code})"


CODES: Mapping[str, type[Problem]] = {
    "workflow_busy": WorkflowBusy,
    "run_already_finished": AlreadyFinished,
    "execution_already_finished": AlreadyFinished,
    "run_active": RunActive,
    "nothing_to_resume": NothingToResume,
}
"""Problems of their own class; the others are of their status."""

STATUSES: Mapping[int, type[Problem]] = {
    400: Invalid,
    401: NotSignedIn,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: RevisionChanged,
    413: TooLarge,
    422: Invalid,
    429: RateLimited,
    500: ServerFault,
    503: Unavailable,
}


def problem_class(status: int, code: str) -> type[Problem]:
    """The class of a problem."""
    return CODES.get(code) or STATUSES.get(status) or (ServerFault if status >= 500 else Problem)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
