"""A run, as the client holds it: to wait for it, follow it, read it, and stop it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from truestop._async.transport import AsyncResource, AsyncTransport
from truestop._protocol import (
    WAIT_FIRST,
    WAIT_LONGEST,
    Connection,
    Feed,
    Window,
    body_of,
    given,
    named,
    new_run_id,
    path,
)
from truestop.errors import RunCancelled, RunFailed
from truestop.models import Artifact, Change, Event, Execution, NarrowReceipt, Receipt, RunState, TreeReceipt


class AsyncRun(AsyncResource):
    """One run. `state` is what was read of it last; nothing but `cancel…` stops it."""

    def __init__(self, transport: AsyncTransport, connection: Connection, state: RunState) -> None:
        super().__init__(transport, connection)
        self.state = state

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.id

    @property
    def workflow_id(self) -> str:
        """The id of its workflow."""
        return self.state.workflow_id

    @property
    def status(self) -> str:
        """Its status when it was read last: queued, running, cancelling, cancelled, completed, failed, skipped."""
        return self.state.status

    def __repr__(self) -> str:
        return f"<Run {self.id} of {self.workflow_id}: {self.status}>"

    def _repr_html_(self) -> str:
        return self.state._repr_html_()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def _path(self, *parts: str) -> str:
        return self._connection.path("workflows", self.workflow_id, "runs", self.id, *parts)

    async def refresh(self) -> RunState:
        """Read it again."""
        self.state = RunState.of(await self._json("GET", self._path()))
        return self.state

    async def wait(self, timeout: float | None = None) -> RunState:
        """Wait until it has ended. Raises `TimeoutError` after `timeout` seconds; the run goes on."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = WAIT_FIRST
        while True:
            state = await self.refresh()
            if state.ended:
                return state
            if until is not None and time.monotonic() + pause > until:
                raise TimeoutError(f"run {self.id} is still {self.status} after {timeout:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, WAIT_LONGEST)

    async def result(self, timeout: float | None = None) -> str | None:
        """Wait, and answer its output (at most 16 KB of it). Raises `RunCancelled`, `RunFailed`, `TimeoutError`."""
        state = await self.wait(timeout)
        if state.status == "completed":
            return state.output_preview
        if state.status != "cancelled":
            raise RunFailed(state)
        raise RunCancelled(state, await self.receipt(), await self.partial())

    async def partial(self) -> dict[str, str]:
        """The text of model calls that were stopped or failed before they were done, by path."""
        return {
            one.path: one.output_preview
            async for one in self.executions()
            if one.kind == "model_call" and one.status in ("cancelled", "failed") and one.output_preview
        }

    async def events(self, after: str | None = None) -> AsyncIterator[Event]:
        """Its events until it has ended, each once, over lost connections; `after`: those behind the event of this id."""
        async for change in self.changes(after):
            if isinstance(change.value, Event):
                yield change.value

    async def changes(self, after: str | None = None) -> AsyncIterator[Change]:
        """The same with every new state of the run and of the nodes of its tree, streamed text included."""
        feed, live = Feed(self.id, after), self._connection.path("workflows", self.workflow_id, "stream")
        window = Window.of(await self._send("GET", live))
        async for kind, data in self._snapshot(after):
            for change in feed.news(kind, data):
                yield change
        while True:
            params = given(run_id=self.id, after=window.token)
            answer = await self._send("GET", live, params=params, headers={"Accept": "text/event-stream"})
            if answer.status_code == 204:
                return
            window = Window.of(answer)
            for kind, data in window.news:
                for change in feed.news(kind, data):
                    if isinstance(change.value, RunState):
                        self.state = change.value
                    yield change
            await asyncio.sleep(window.pause)

    async def _snapshot(self, after: str | None) -> AsyncIterator[tuple[str, Any]]:
        await self.refresh()
        yield "run", self.state.raw
        async for execution in self.executions():
            yield "execution", execution.raw
        async for event in self._pages(Event, self._path("events"), after=after):
            yield "event", event.raw

    def executions(self) -> AsyncIterator[Execution]:
        """Its tree, in path order."""
        return self._pages(Execution, self._path("executions"))

    def items(self, status: str | None = None) -> AsyncIterator[Execution]:
        """Its per-document items."""
        return self._pages(Execution, self._path("items"), status=status)

    def artifacts(self) -> AsyncIterator[Artifact]:
        """The files that it wrote."""
        return self._pages(Artifact, self._path("artifacts"))

    async def artifact(self, name: str) -> bytes:
        """The content of one of them. Raises `ValueError`, `NotFound`."""
        return (await self._send("GET", self._path("artifacts", *named(name)))).content

    async def cancel(
        self, reason: str | None = None, *, grace_seconds: float | None = None, force: bool = False
    ) -> Receipt:
        """Cancel it and all below it; from any task or thread, as often as wanted. When this returns, nothing new begins.

        Raises `AlreadyFinished` if its own end came first.
        """
        body = given(reason=reason, grace_seconds=grace_seconds, force=force or None)
        return Receipt.of(await self._json("POST", self._path("cancel"), json=body))

    async def cancel_tree(
        self, reason: str | None = None, *, grace_seconds: float | None = None, force: bool = False
    ) -> TreeReceipt:
        """`cancel` with a result for each node of each run in its tree."""
        body = given(reason=reason, grace_seconds=grace_seconds, force=force or None)
        return TreeReceipt.of(await self._json("POST", path("runs", self.id, "cancel-tree"), json=body))

    async def cancel_execution(self, execution: Execution | str, reason: str | None = None) -> NarrowReceipt:
        """Cancel one execution (or its path) and what is below it. The run goes on: see the receipt's `warning`."""
        below = execution.path if isinstance(execution, Execution) else execution
        body = given(reason=reason)
        return NarrowReceipt.of(await self._json("POST", self._path("executions", below, "cancel"), json=body))

    async def receipt(self) -> Receipt:
        """The receipt of its cancel. Raises `NotFound` (`not_cancelled`)."""
        return Receipt.of(await self._json("GET", self._path("cancellation")))

    async def resume(
        self,
        items: Literal["failed", "cancelled", "both"] = "both",
        *,
        from_step: str | None = None,
        use_current: bool = False,
        run_id: str | None = None,
    ) -> AsyncRun:
        """A new run that goes on where this one ended. Raises `RunActive`, `NothingToResume`, `WorkflowBusy`."""
        body = given(items=items, from_step=from_step, use_current=use_current or None, run_id=run_id or new_run_id())
        answer = body_of(await self._send("POST", self._path("resume"), json=body))
        return AsyncRun(self._transport, self._connection, RunState.of(answer))
