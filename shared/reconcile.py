"""Reconcile: the repairs that no orchestrator can make, in one bounded pass each minute.

1. Look at every active run: one that never started is started; one whose orchestration is dead is cancelled or ended; one
   that nobody settles is settled; a child run follows its parent's.
2. What seemed dead for want of a sign of life is looked at again a fence later, and mended if nothing has moved.
3. Look at leases, at workflows that say they are busy, and at receipts without an outcome.

The truth of a run is its record; Durable Functions is asked only whether someone will go on with it. Every repair is one
conditional transaction that also writes its event, so passes may overlap, die anywhere, and be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from shared.errors import StoreError
from shared.names import DocumentType
from shared.orchestration import Orchestrations
from shared.repairs import cancelling, children, leases, lost, queued, receipts
from shared.repairs.work import SecondLook, Work
from shared.services import Services
from shared.states import ACTIVE_RUN, RunStatus
from shared.store.port import Document, FieldIn, Query

log = logging.getLogger(__name__)

PASS_SECONDS = 40.0
"""The most that a pass takes, but for the waits of a fence: less than a minute, so that the next one isn't late."""
PAGE = 100
AT_ONCE = 8
"""Documents looked at at the same time."""


@dataclass(slots=True)
class Progress:
    """Where the passes of this process stopped for want of time, so that the next one goes on there."""

    runs: str | None = None
    locks: str | None = None
    workflows: str | None = None
    receipts: str | None = None


async def reconcile(
    services: Services,
    orchestrations: Orchestrations,
    progress: Progress | None = None,
    *,
    seconds: float = PASS_SECONDS,
) -> dict[str, int]:
    """Make one pass. Answers how often each repair was made. Raises `StoreError` when the store is away."""
    progress = progress or Progress()
    work = Work(services, orchestrations, time.monotonic() + seconds)
    again: list[SecondLook] = []

    async def look(run: Document) -> None:
        seems_dead = await _look(work, run)
        if seems_dead is not None:
            again.append(seems_dead)

    active = Query(DocumentType.RUN, None, where=(FieldIn("status", ACTIVE_RUN),))
    progress.runs = await _each(work, active, progress.runs, look)
    if again:
        await asyncio.sleep(services.settings.fence_seconds)
        await _all(again)
    progress.locks = await _each(work, leases.due_locks(work), progress.locks, lambda one: leases.check_lock(work, one))
    progress.workflows = await _each(
        work, leases.busy_workflows(), progress.workflows, lambda one: leases.check_workflow(work, one)
    )
    progress.receipts = await _each(
        work, receipts.open_receipts(work), progress.receipts, lambda one: receipts.check(work, one)
    )
    return {kind.value: count for kind, count in work.done.items()}


async def _look(work: Work, run: Document) -> SecondLook | None:
    if run["status"] != RunStatus.CANCELLING and await children.cancel_orphan(work, run):
        return None
    if run["status"] == RunStatus.QUEUED:
        await queued.check(work, run)
        return None
    if run["status"] == RunStatus.RUNNING:
        return await lost.check(work, run)
    return await cancelling.check(work, run)


async def _each(work: Work, query: Query, after: str | None, look: Callable[[Document], Awaitable[None]]) -> str | None:
    """Look at each document of a query, from `after` on, at least at one page. Answers where it stopped."""
    while True:
        page = await work.services.store.query(replace(query, limit=PAGE, after=after))
        await _all((lambda one=one: look(one)) for one in page.items)  # type: ignore[misc]
        after = page.next
        if after is None or work.out_of_time:
            return after


async def _all(looks: Iterable[SecondLook]) -> None:
    """Do all of them, a few at a time. One that fails is logged: the next pass tries again."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(look: SecondLook) -> None:
        async with places:
            try:
                await look()
            except StoreError as error:
                log.warning("a repair could not be made: %s", error)
            except Exception:
                log.exception("a repair failed")

    await asyncio.gather(*(one(look) for look in looks))
