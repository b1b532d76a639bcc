"""What the body of an operation sees: its token, its partial output, its side effects, and operations inside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from shared.cancellation import CancelToken, shield
from shared.errors import RunCancelled, StepFailed, Throttled, Unavailable
from shared.executions import ExecutionSpec
from shared.names import CancelOutcome
from shared.operations import Begun, Ending, Recorded, Refused, Superseded, begin, finish, record_side_effects
from shared.outputs import PREVIEW_BYTES, keep, keep_part, load, preview
from shared.persistence import patiently
from shared.services import Services
from shared.side_effects import Effect, SideEffect, SideEffects
from shared.states import ExecutionStatus as Ex
from shared.store.port import Create
from shared.watcher import cancellation_of

FINISH_SECONDS = 10.0
"""How long the end of an inner operation may take to write while a cancel is under way."""


class PartialText:
    """The text of one execution as it grows."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._previewed = 0
        self.dirty = False

    def add(self, text: str) -> None:
        """More text."""
        self._parts.append(text)
        # What is past the preview's size changes nothing that a document shows.
        if self._previewed < PREVIEW_BYTES:
            self._previewed += len(text)
            self.dirty = True

    def text(self) -> str:
        """All of it."""
        return "".join(self._parts)

    def clean(self) -> str:
        """The preview, and note that it was taken."""
        self.dirty = False
        return preview(self.text())


class OperationContext:
    """Given to an operation's body."""

    def __init__(
        self,
        services: Services,
        begun: Begun,
        token: CancelToken,
        explain: Callable[[BaseException], RunCancelled | StepFailed],
        may_retry: Callable[[StepFailed], bool],
    ) -> None:
        self.services, self.begun, self.token = services, begun, token
        self.ref = begun.ref
        self.key = self.ref.execution_id(begun.leaf.path)
        """The same in every attempt, and of no other operation of this run."""
        self._effects = SideEffects(self._record_effects, self.key, begun.attempt, begun.side_effects)
        self.events: list[Create] = []
        self.texts: dict[str, PartialText] = {}
        self.unsure = False
        """Whether an inner operation may be on record as working though it isn't. Then this one must be tried again: that
        settles it, and until it is settled the run could not end."""
        self._explain, self._may_retry = explain, may_retry

    def writer(self, path: str | None = None) -> Callable[[str], None]:
        """Takes the text of the execution at `path` (this operation's by default) as it comes."""
        return self.texts.setdefault(path or self.begun.leaf.path, PartialText()).add

    def side_effect(self, kind: str, what: str, **more: Any) -> SideEffect:
        """Something that others can see, to be done within: it is part of the execution, and of a cancel's receipt."""
        return self._effects.open(kind, what, **more)

    async def _record_effects(self, effects: Sequence[Effect], new: bool) -> None:
        try:
            refused = await patiently(lambda: record_side_effects(self.services.store, self.begun, effects, new))
        except Superseded:
            raise _taken_over() from None
        if refused is not None:
            self._refuse(refused)

    def _refuse(self, refused: Refused) -> NoReturn:
        """Stop here, as a cancel that this process hasn't seen yet."""
        self.token.cancel(cancellation_of(refused.run))
        raise RunCancelled(cancellation_of(refused.run))

    async def inner(self, spec: ExecutionSpec, body: Callable[[], Awaitable[Any]]) -> Any:
        """Run an operation inside this one: begun under the same guard, ended when `body` ends. Answers its output.

        One that ended in an earlier attempt is not run again. Raises what `body` raises; `RunCancelled` when the guard
        refuses.
        """
        self.token.check()
        try:
            # A knock that came while the answer is on its way would leave it begun, with nobody to end it.
            async with self._recorded_for_sure(), shield(FINISH_SECONDS):
                begun = await begin(self.services.store, self.ref, [spec], inside=self.begun)
        except Superseded:
            raise _taken_over() from None
        if isinstance(begun, Recorded):
            return await self._recorded(begun)
        if isinstance(begun, Refused):
            self._refuse(begun)
        if not isinstance(begun, Begun):
            raise TypeError(f"an inner operation can't be {begun}")
        try:
            self.token.check()
            value = await body()
            output = await patiently(lambda: keep(self.services.blobs, self.ref, spec.path, begun.attempt, value))
        except BaseException as error:
            await self._end_inner(begun, self._ending(error))
            raise
        await self._end_inner(begun, Ending(Ex.COMPLETED, output))
        return value

    @asynccontextmanager
    async def _recorded_for_sure(self) -> AsyncIterator[None]:
        try:
            yield
        except (Throttled, Unavailable, TimeoutError, asyncio.CancelledError):
            self.unsure = True
            raise

    def _ending(self, raised: BaseException) -> Ending:
        """How an inner operation ended: as the operation around it will, so that both can be tried again or neither."""
        error = self._explain(raised)
        if isinstance(error, RunCancelled):
            return Ending(Ex.CANCELLED, cancel_outcome=CancelOutcome.STOPPED)
        status = Ex.PENDING if self._may_retry(error) else Ex.FAILED
        return Ending(status, error=error.facts())

    async def _end_inner(self, begun: Begun, ending: Ending) -> None:
        """Write an inner operation's end, also while a cancel keeps knocking."""
        path = begun.leaf.path
        async with self._recorded_for_sure(), shield(FINISH_SECONDS):
            if ending.output is None and path in self.texts:
                text = self.texts[path].text()
                output = await keep_part(self.services.blobs, self.ref, path, begun.attempt, text)
                ending = Ending(ending.status, output, ending.error, cancel_outcome=ending.cancel_outcome)
            try:
                await patiently(lambda: finish(self.services.store, begun, ending), FINISH_SECONDS)
            except Superseded:
                pass  # the outer operation's own end will find out the same
            self.texts.pop(path, None)

    async def _recorded(self, recorded: Recorded) -> Any:
        execution = recorded.execution
        if execution["status"] == Ex.COMPLETED:
            return await load(self.services.blobs, execution)
        if execution["status"] == Ex.FAILED:
            self._fail(execution["error"])
        raise RunCancelled(cancellation_of(await self.services.store.get(self.ref.partition, self.ref.run_id)))

    @staticmethod
    def _fail(error: dict[str, str]) -> NoReturn:
        raise StepFailed(error["code"], error["message"])


def _taken_over() -> StepFailed:
    return StepFailed("lost_contact", "another attempt has taken it over", retryable=True)
