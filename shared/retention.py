"""Retention: what has aged out is removed, in one bounded pass each hour. Nothing of an active run ever is.

1. Runs that ended more than `TRUESTOP_RETENTION_DAYS` ago, with their executions, events, deliveries and blobs. One that a
   later run was resumed from waits for that one.
2. Receipts older than `TRUESTOP_RECEIPT_DAYS`. They outlive their runs, so that a trigger delivered late starts nothing.
   And the records of rejected messages, of operators and of keys.
3. The rest of deleted workflows.
4. What dead processes and unread messages left among the blobs.
5. The history of Durable Functions' instances that ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby, pairwise
from typing import Any

from shared import keys, operator_cancels, operator_log
from shared.errors import NotFound, StoreError
from shared.ids import to_text
from shared.names import OUTCOME_LOST, REMOVING, DocumentType, EventType
from shared.orchestration import Orchestrations
from shared.queue_bodies import PREFIX as MESSAGES
from shared.queue_intake import RECORD_SECONDS
from shared.removal import remove_rest, remove_run
from shared.services import Services
from shared.states import TERMINAL_RUN
from shared.store.port import Compare, Delete, Document, FieldIn, Op, Partition, Patch, Query

log = logging.getLogger(__name__)

PASS_SECONDS = 240.0
"""The most that a pass takes, but for the batch at work: less than any host's limit of a function."""
PAGE = 100
AT_ONCE = 4
LATE_WRITERS = timedelta(hours=1)
"""How long after a workflow was deleted an operation that was given up may still write a blob of it."""
UNREAD_MESSAGES = timedelta(days=8)
"""A queue drops a message after seven days; then nothing refers to its blob."""
PURGE_SECONDS = 60.0
PURGE_WINDOWS = 7
"""Days before the cutoff whose instances are purged a day at a time; older ones together, which are there after a pause."""
RECORDS: tuple[tuple[Any, ...], ...] = (
    (DocumentType.REJECTED, "created_at", RECORD_SECONDS),
    (DocumentType.OPERATOR_EVENT, "at", operator_log.KEPT_SECONDS),
    (DocumentType.OPERATOR_JOB, "created_at", operator_cancels.KEPT_SECONDS),
    (DocumentType.OPERATOR_RESULTS, "at", operator_cancels.KEPT_SECONDS),
    (DocumentType.KEY_EVENT, "at", keys.USES_KEPT_SECONDS, FieldIn("event_type", (EventType.KEY_USED,))),
    (DocumentType.KEY_EVENT, "at", keys.KEPT_SECONDS),
)
"""What is kept for a time of its own: the type, the field that says since when, seconds, and which of them."""
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class EndedInstance(StrEnum):
    """The states in which an instance's history may be purged, as the client takes them."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    TERMINATED = "Terminated"
    CANCELED = "Canceled"


@dataclass(slots=True)
class _Pass:
    services: Services
    moment: datetime
    until: float
    removed: Counter[str] = field(default_factory=Counter)

    def before(self, days: float) -> datetime:
        return self.moment - timedelta(days=days)


async def retain(
    services: Services,
    orchestrations: Orchestrations,
    moment: datetime | None = None,
    *,
    seconds: float = PASS_SECONDS,
) -> Counter[str]:
    """Make one pass, as of `moment` (default: now). Answers how much of each kind was removed.

    Each part is tried, at least with one batch. Raises `StoreError` when a list can't be read.
    """
    work = _Pass(services, moment or datetime.now(UTC), time.monotonic() + seconds)
    for part in (_runs, _receipts, _records, _deleted_workflows, _blobs):
        await part(work)
    await _instances(work, orchestrations)
    return work.removed


async def _runs(work: _Pass) -> None:
    cutoff = to_text(work.before(work.services.settings.retention_days))
    aged = (FieldIn("status", TERMINAL_RUN), Compare("ended_at", "<", cutoff))
    async for page in _pages(work, Query(DocumentType.RUN, None, aged)):
        await _each(page, lambda run: _run(work, run))


async def _run(work: _Pass, run: Document) -> None:
    """Remove an old run, unless a later one refers to its outputs.

    It is marked before that is looked for: a run that is resumed from it starts before the mark, and is seen, or never.
    """
    partition = _partition(run)
    await _mark(work, run, True)
    later = Query(DocumentType.RUN, partition, (FieldIn("resumed_from", (run["id"],)),), limit=1)
    if (await work.services.store.query(later)).items:
        await _mark(work, run, False)
    elif await remove_run(work.services, run):
        work.removed["runs"] += 1


async def _mark(work: _Pass, run: Document, removing: bool) -> None:
    try:
        await work.services.store.transact(_partition(run), [Patch(run["id"], set={REMOVING: removing})])
    except NotFound:
        pass  # another pass was quicker


async def _receipts(work: _Pass) -> None:
    cutoff = to_text(work.before(work.services.settings.receipt_days))
    closed = (FieldIn("outcome", (*TERMINAL_RUN, OUTCOME_LOST)), Compare("at", "<", cutoff))
    await _delete(work, "receipts", Query(DocumentType.RECEIPT, None, closed))


async def _records(work: _Pass) -> None:
    for kind, since, seconds, *where in RECORDS:
        old = Compare(since, "<", to_text(work.moment - timedelta(seconds=seconds)))
        await _delete(work, kind, Query(kind, None, (old, *where)))


async def _delete(work: _Pass, kind: str, query: Query) -> None:
    """Delete the documents of a query, which have nothing below them."""
    async for page in _pages(work, query):
        for partition, documents in groupby(sorted(page, key=_partition), key=_partition):
            ops: list[Op] = [Delete(document["id"]) for document in documents]
            try:
                await work.services.store.transact(partition, ops)
                work.removed[kind] += len(ops)
            except NotFound:
                pass  # another pass was quicker with one of them: the next takes the others


def _partition(document: Document) -> Partition:
    return Partition(document["scope"], document["workflow_id"])


async def _deleted_workflows(work: _Pass) -> None:
    due = (Compare("at", "<", to_text(work.moment - LATE_WRITERS)),)

    async def finish(tombstone: Document) -> None:
        await remove_rest(work.services, _partition(tombstone))
        work.removed["workflows"] += 1

    async for page in _pages(work, Query(DocumentType.TOMBSTONE, None, due)):
        await _each(page, finish)


async def _blobs(work: _Pass) -> None:
    await work.services.blobs.tidy()
    unread = to_text(work.moment - UNREAD_MESSAGES)
    after: str | None = None
    while True:
        found = await work.services.blobs.list(MESSAGES, PAGE, after)
        for blob in found.items:
            if blob.modified_at < unread:
                await work.services.blobs.delete(blob.name)
                work.removed["messages"] += 1
        after = found.next
        if after is None or time.monotonic() >= work.until:
            return


async def _instances(work: _Pass, orchestrations: Orchestrations) -> None:
    """Purge a window of time after the other: one request for all of a long time would not be answered in time."""
    cutoff = work.before(work.services.settings.retention_days)
    edges = [_LONG_AGO, *(cutoff - timedelta(days=day) for day in range(PURGE_WINDOWS, -1, -1))]
    for since, until in pairwise(edges):
        try:
            async with asyncio.timeout(PURGE_SECONDS):
                purged = await orchestrations.purge_instance_history_by(since, until, list(EndedInstance))
        except Exception as error:
            log.warning("the history of instances before %s was not purged: %s", until, error or type(error).__name__)
            return
        work.removed["instances"] += purged.instances_deleted
        if time.monotonic() >= work.until:
            return


async def _pages(work: _Pass, query: Query) -> AsyncIterator[list[Document]]:
    """The pages of a query until the time is over, at least one."""
    after: str | None = None
    while True:
        page = await work.services.store.query(replace(query, limit=PAGE, after=after))
        yield page.items
        after = page.next
        if after is None or time.monotonic() >= work.until:
            return


async def _each(documents: Iterable[Document], remove: Callable[[Document], Awaitable[None]]) -> None:
    """Remove each, a few at a time. One that can't be is logged: the next pass tries again."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(document: Document) -> None:
        async with places:
            try:
                await remove(document)
            except StoreError as error:
                log.warning("%s could not be removed: %s", document["id"], error)

    await asyncio.gather(*(one(document) for document in documents))
