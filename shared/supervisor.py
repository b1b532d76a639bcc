"""The supervisor of one operation: it begins it, watches, decides, stops the work, and waits until it has stopped.

    supervise ── begin ──────── another attempt at work? wait until it ends, or its heartbeat expires and take over
        │
        ├── body (a task) ───── ends by itself ───────────────────────────┐
        ├── pulse ───────────── heartbeat, partial text; fences itself    │
        └── stop ────────────── cancel, deadline or fence: keep telling   ├── finish ── last of a cancelling run? settle
                                the body to stop until it has stopped,  ──┘
                                or the grace is over (then it is abandoned)

Finished beats cancelled, cancelled beats the deadline: what the body returned counts, whatever was asked meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shared import locks
from shared.branches import cancelled_branch, cancelled_outcome, refusal
from shared.cancellation import CancelToken, set_current
from shared.errors import NotFound, RunCancelled, StepFailed, StoreError, Throttled, Unavailable
from shared.executions import ExecutionSpec, RunRef
from shared.ids import now
from shared.logs import about
from shared.names import OUTCOME_BRANCH_CANCELLED, OUTCOME_RETRY, CancelOutcome
from shared.operation_context import OperationContext
from shared.operations import Begun, Busy, Ending, Halted, Recorded, Refused, Superseded, begin, finish, record
from shared.outputs import keep, keep_part
from shared.persistence import patiently
from shared.reaping import give_up, reap, reap_inside
from shared.runs import observe
from shared.services import Services
from shared.settling import settle
from shared.states import TERMINAL_RUN, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.steps import Retries
from shared.store.port import Document
from shared.watcher import ENDED

log = logging.getLogger(__name__)

Body = Callable[[OperationContext], Awaitable[Any]]
Outcome = dict[str, Any]
"""What an activity returns: `status` (an execution status, or `retry` with `after_seconds`) and `error`."""

AGAIN: Outcome = {"status": OUTCOME_RETRY, "after_seconds": 0.0}
"""This attempt has no say: ask again, which adopts the recorded outcome or waits for the attempt that has."""

PULSE_SECONDS = 0.4
"""How often partial text is written: under the half second that the page promises."""
CLEANUP_SECONDS = 1.0
"""How long a body that was told to stop is left alone, so that its `finally` and `async with` can do their work."""
KNOCK_SECONDS = 0.5
"""How often it is told again after that: it may have caught it and gone on."""
LEAST_GRACE_SECONDS = 0.02
OBSERVE_AFTER_SECONDS = 0.1
"""A stop that takes longer than this is noted as observed before it is complete."""
MAX_BACKOFF_SECONDS = 3600.0

_abandoned: set[asyncio.Task[Any]] = set()


async def supervise(
    services: Services,
    ref: RunRef,
    group: Sequence[ExecutionSpec],
    body: Body,
    *,
    timeout_seconds: float,
    retries: Retries,
    unless_halted: str | None = None,
    halts: str | None = None,
) -> Outcome:
    """Run `body` as an operation. Answers its outcome; never raises a cancel.

    Raises `Unavailable` or `Throttled` when the store stays away: the activity then fails and is delivered again.
    """
    path = group[-1].path
    with about(ref.run_id, ref.execution_id(path)), services.watcher.watch(ref, path) as token:
        begun, sent = await _begin(services, ref, group, unless_halted)
        if isinstance(begun, Recorded):
            return await outcome_of(services, ref, begun.execution)
        if isinstance(begun, Halted):
            return {"status": Ex.SKIPPED}
        if isinstance(begun, Refused):
            return await refusal(services, ref, path)
        work = _Supervision(services, begun, token, sent, timeout_seconds, retries, halts)
        return await work.run(body)


async def fail(
    services: Services, ref: RunRef, group: Sequence[ExecutionSpec], error: StepFailed, retries: Retries
) -> Outcome:
    """Record an operation that failed before there was anything to do. Answers its outcome."""

    async def body(_context: OperationContext) -> Any:
        raise error

    seconds = services.settings.step_timeout_seconds
    return await supervise(services, ref, group, body, timeout_seconds=seconds, retries=retries)


async def _begin(
    services: Services, ref: RunRef, group: Sequence[ExecutionSpec], unless_halted: str | None
) -> tuple[Begun | Recorded | Refused | Halted, float]:
    """Begin, after waiting for an attempt that may be at work. Ends a lost one that nobody may take over.

    Answers also when the begin that counts was sent: the heartbeat's first renewal is due from then, not from the wait.
    """
    seen: str | None = None
    since, expired = time.monotonic(), None
    busy: Busy | None = None
    while True:
        sent = time.monotonic()
        begun = await patiently(
            lambda expired=expired: begin(  # type: ignore[misc]
                services.store, ref, group, expired_heartbeat=expired, unless_halted=unless_halted
            )
        )
        if isinstance(begun, Refused) and begun.run["status"] not in TERMINAL_RUN:
            if busy is not None and expired is not None:
                await reap(services.store, ref, busy.execution, begun.run["status"], CancelOutcome.LOST)
            await reap_inside(services.store, ref, group[-1].path, begun.run)
            await settle(services, ref)
        if isinstance(begun, Halted) and busy is not None:
            await give_up(services.store, ref, busy.execution)
        if not isinstance(begun, Busy):
            return begun, sent
        busy = begun
        if busy.heartbeat != seen:
            seen, since = busy.heartbeat, time.monotonic()
        elif time.monotonic() - since >= services.settings.fence_seconds:
            expired = seen
            continue
        await asyncio.sleep(services.settings.poll_seconds)


async def outcome_of(services: Services, ref: RunRef, execution: Document) -> Outcome:
    """The outcome that an execution's record tells."""
    if execution["status"] == Ex.CANCELLED:
        return cancelled_outcome(await services.store.get(ref.partition, ref.run_id), ref)
    return {"status": execution["status"], "error": execution["error"]}


class _Supervision:
    """One operation at work."""

    def __init__(
        self,
        services: Services,
        begun: Begun,
        token: CancelToken,
        sent: float,
        timeout_seconds: float,
        retries: Retries,
        halts: str | None,
    ) -> None:
        self.services, self.begun, self.token, self.ref = services, begun, token, begun.ref
        self.timeout_seconds, self.retries, self.halts = timeout_seconds, retries, halts
        self.good_at = sent
        """When the last successful renewal was sent, on this process's clock."""
        self.context = OperationContext(services, begun, token, self._explain, self._may_retry)
        self.loop, self.wake = asyncio.get_running_loop(), asyncio.Event()
        self.stopping = self.overdue = self.lost = False
        self.supervising = asyncio.current_task()
        self.observed_at: str | None = None

    @property
    def host_ends(self) -> bool:
        """Whether this activity itself is cancelled: nobody but an ending host does that, and to all tasks at once."""
        return self.supervising is not None and self.supervising.cancelling() > 0

    async def run(self, body: Body) -> Outcome:
        context = contextvars.copy_context()
        context.run(set_current, self.token)
        task: asyncio.Task[Any] = self.loop.create_task(_call(body, self.context), context=context)
        task.add_done_callback(lambda _: self.wake.set())
        self.token.on_cancel(self._wake_from_any_thread)
        deadline = self.loop.call_later(self.timeout_seconds, self._pass_deadline)
        pulse = self.loop.create_task(self._pulse())
        try:
            while not (task.done() or self.token.cancelled or self.overdue or self.lost):
                await self.wake.wait()
                self.wake.clear()
            ended = task.done() or await self._stop(task)
        finally:
            if not task.done():
                # The host is ending: stop the work here. Its record stays at work, so the next delivery takes it over.
                task.cancel()
            deadline.cancel()
            pulse.cancel()
        return await self._conclude(task) if ended else await self._abandon(task)

    def _wake_from_any_thread(self) -> None:
        self.loop.call_soon_threadsafe(self.wake.set)

    def _pass_deadline(self) -> None:
        self.overdue = True
        self.wake.set()

    async def _stop(self, task: asyncio.Task[Any]) -> bool:
        """Tell the body to stop until it has. Answers False when its time was over first."""
        knock_at = stop_at = time.monotonic()
        pause = CLEANUP_SECONDS
        until: float | None = None
        self.observed_at = now()
        noted = False
        while not task.done():
            moment = time.monotonic()
            if self.lost:
                until = min(until or moment + self.services.settings.fence_seconds / 2, moment + 60)
            elif self.token.cancelled and until is None:
                # At least one knock, also with a grace of 0: most work stops at once, and says so.
                until = moment + max(await self._grace(), LEAST_GRACE_SECONDS)
            if until is not None and moment >= until:
                return False
            if moment >= knock_at and not self.token.shielded:
                self.stopping = True
                task.cancel()
                knock_at, pause = moment + pause, KNOCK_SECONDS
            look_in = OBSERVE_AFTER_SECONDS if until is None else min(OBSERVE_AFTER_SECONDS, until - moment)
            try:
                await asyncio.wait_for(self.wake.wait(), look_in)
            except TimeoutError:
                pass
            self.wake.clear()
            if self.token.cancelled and not noted and time.monotonic() - stop_at > OBSERVE_AFTER_SECONDS:
                noted = await self._note_observed()
        return True

    async def _grace(self) -> float:
        """The seconds that the cancel leaves this operation; none once the run has gone on without it."""
        try:
            run = await self.services.store.get(self.ref.partition, self.ref.run_id)
        except StoreError:
            return self.services.settings.fence_seconds
        if run["status"] in TERMINAL_RUN or run["epoch"] != self.ref.epoch:
            return 0.0
        grace: float = run["cancel"]["grace_seconds"] if run["cancel"] else run["definition"]["grace_seconds"]
        return grace

    async def _note_observed(self) -> bool:
        assert self.observed_at is not None
        try:
            await observe(self.services, self.ref, self.observed_at)
        except StoreError as error:
            log.warning("can't note that the cancel was observed: %s", error)
            return False
        return True

    async def _pulse(self) -> None:
        """Renew the heartbeat and write partial text, until that has failed for half of a fence: then it is lost."""
        fence = self.services.settings.fence_seconds
        while True:
            await asyncio.sleep(min(PULSE_SECONDS, fence / 10))
            dirty = {path: text.clean() for path, text in self.context.texts.items() if text.dirty}
            since = time.monotonic() - self.good_at
            if not dirty and since < fence / 5:
                continue
            sent = time.monotonic()
            try:
                async with asyncio.timeout(max(fence / 2 - since, 0.01)):
                    run = await record(self.services.store, self.begun, dirty)
                    self.good_at = sent
                    await self._renew_lock()
            except Superseded:
                return self._lose("its record belongs to another attempt")
            except (Throttled, Unavailable, TimeoutError) as error:
                log.info("a heartbeat was not written: %s", error)
                if time.monotonic() - self.good_at >= fence / 2:
                    return self._lose(f"its heartbeat could not be renewed: {error}")
                continue
            self.services.watcher.notify(run)

    def _lose(self, why: str) -> None:
        log.warning("the operation stops: %s", why)
        self.lost = True
        self.wake.set()

    async def _renew_lock(self) -> None:
        lease = self.services.settings.lease_seconds
        lock = await locks.owned(self.services.store, self.ref)
        if lock is not None and locks.due_for_renewal(lock, lease):
            try:
                await self.services.store.transact(self.ref.partition, [locks.renewal(self.ref, lease)])
            except (NotFound, StoreError) as error:
                log.warning("can't renew the lock: %s", error)

    async def _conclude(self, task: asyncio.Task[Any]) -> Outcome:
        raised = asyncio.CancelledError() if task.cancelled() else task.exception()
        error = None if raised is None else self._explain(raised)
        ending = await self._ending(task, error)
        try:
            run = await patiently(lambda: finish(self.services.store, self.begun, ending))
        except Superseded:
            return AGAIN
        if self.context.unsure:
            run = await patiently(lambda: reap_inside(self.services.store, self.ref, self.begun.leaf.path, run))
        if run["status"] == RunStatus.CANCELLING:
            if run["in_flight"] == 0:
                await patiently(lambda: settle(self.services, self.ref, observed_at=self.observed_at))
            return {"status": Ex.CANCELLED}
        if cancelled_branch(run, self.begun.leaf.path) is not None:
            return await patiently(lambda: refusal(self.services, self.ref, self.begun.leaf.path))
        if ending.status == Ex.PENDING:
            return {"status": OUTCOME_RETRY, "after_seconds": self._backoff(error)}
        return {"status": ending.status, "error": ending.error}

    def _explain(self, error: BaseException) -> RunCancelled | StepFailed:
        """What an exception of the body means here: a cancel, or a failure."""
        interrupted = self.stopping or isinstance(error, RunCancelled | asyncio.CancelledError)
        # A token that only says ENDED was closed by the end of the supervision: no cancel of the run or a branch.
        cancellation = self.token.cancellation
        if interrupted and cancellation is not None and cancellation != ENDED:
            return RunCancelled(cancellation)
        if interrupted and (self.lost or self.host_ends):
            return StepFailed("lost_contact", "its process ended, or lost the store and stopped it", retryable=True)
        if interrupted and self.overdue:
            return StepFailed("timeout", f"it took longer than {self.timeout_seconds:g} s")
        if isinstance(error, StepFailed):
            return error
        if isinstance(error, Throttled | Unavailable):
            after = error.retry_after if isinstance(error, Throttled) else None
            return StepFailed("store_unavailable", str(error), retryable=True, retry_after=after)
        if isinstance(error, asyncio.CancelledError | RunCancelled):
            return StepFailed("stopped_itself", "it was cancelled from within, not by a cancel of its run")
        log.error("the operation raised", exc_info=error)
        return StepFailed("internal_error", f"{type(error).__name__}: {error}")

    async def _ending(self, task: asyncio.Task[Any], error: RunCancelled | StepFailed | None) -> Ending:
        """How the operation ended: what its record will say."""
        path, attempt = self.begun.leaf.path, self.begun.attempt
        if error is None:
            try:
                whole = await patiently(lambda: keep(self.services.blobs, self.ref, path, attempt, task.result()))
                return Ending(Ex.COMPLETED, whole, events=tuple(self.context.events))
            except Exception as unkept:  # whatever it is, the operation has to end on record
                error = self._explain(unkept)
        partial = self.context.texts.get(path)
        output = await keep_part(self.services.blobs, self.ref, path, attempt, partial.text()) if partial else None
        if not isinstance(error, StepFailed):
            return Ending(Ex.CANCELLED, output, cancel_outcome=CancelOutcome.STOPPED)
        facts = error.facts()
        if self._may_retry(error):
            return Ending(Ex.PENDING, error=facts)
        return Ending(Ex.FAILED, output, facts, halts=self.halts)

    def _may_retry(self, error: StepFailed) -> bool:
        again = self.lost or self.host_ends or self.context.unsure
        return again or (error.retryable and self.begun.failures < self.retries.max)

    def _backoff(self, error: BaseException | None) -> float:
        asked = error.retry_after if isinstance(error, StepFailed) else None
        if self.lost:
            return 0.0
        pause = self.retries.backoff_seconds * 2**self.begun.failures
        return min(pause if asked is None else max(asked, 0.0), MAX_BACKOFF_SECONDS)

    async def _abandon(self, task: asyncio.Task[Any]) -> Outcome:
        """The time for stopping is over and the body goes on: fence it off, so that nothing of it counts any more."""
        _abandoned.add(task)
        task.add_done_callback(_forget)
        log.warning("the operation did not stop in time")
        if self.lost and not self.token.cancelled:
            return AGAIN  # its heartbeat stands still: the next delivery takes over once it has expired
        if await patiently(self._abandon_branch):
            return {"status": OUTCOME_BRANCH_CANCELLED}
        await patiently(lambda: settle(self.services, self.ref, force=True, observed_at=self.observed_at))
        return {"status": Ex.CANCELLED}

    async def _abandon_branch(self) -> bool:
        """Take this operation off the record, if only a branch was cancelled: the run goes on. Answers whether it does."""
        store, path = self.services.store, self.begun.leaf.path
        while True:
            run = await store.get(self.ref.partition, self.ref.run_id)
            if run["status"] != RunStatus.RUNNING or cancelled_branch(run, path) is None:
                return False
            mine = await store.get(self.ref.partition, self.ref.execution_id(path))
            if mine["status"] != Ex.RUNNING or mine["attempt"] != self.begun.attempt:
                break  # another attempt has the say
            if await reap(store, self.ref, mine, RunStatus.RUNNING, CancelOutcome.ABANDONED):
                break
        await refusal(self.services, self.ref, path)
        return True


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # taken, so that asyncio doesn't report it as unseen


async def _call(body: Body, context: OperationContext) -> Any:
    return await body(context)
