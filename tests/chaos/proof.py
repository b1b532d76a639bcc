"""What the store alone must show once all has come to rest: each promise of the design, checked on every document.

The order of things is the store's own: events are written once, in the transaction whose fact they tell, so the feed of
a partition lists them in the order of their commits. No clock is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.names import WORKFLOW_ID, CancelOutcome, CancelSource, DocumentType, EventType
from shared.states import TERMINAL_RUN, UNFINISHED_EXECUTION, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.store.port import Document, DocumentStore, Partition

ACCEPTED = (200, 202)
TERMINAL_EVENTS = {
    RunStatus.COMPLETED: EventType.RUN_COMPLETED,
    RunStatus.FAILED: EventType.RUN_FAILED,
    RunStatus.CANCELLED: EventType.RUN_CANCELLED,
}
MENDED = "repair."
"""Events that tell what `reconcile` did: also of a run that it has just ended."""
BEGINNINGS = (EventType.RUN_STARTED, EventType.EXECUTION_STARTED)


@dataclass(slots=True)
class Told:
    """What a client asked about one run, and was answered. Requests without an answer are in no list."""

    start: int | None = None
    cancels: list[int] = field(default_factory=list)
    cancel_asked: bool = False


async def findings(store: DocumentStore, partition: Partition, told: Mapping[str, Told]) -> list[str]:
    """Everything that is wrong in a workflow's partition; `told` is by run id."""
    workflow = _Workflow(partition, await documents_of(store, partition), told)
    return [f"{partition.workflow_id}: {what}" for what in workflow.findings()]


async def documents_of(store: DocumentStore, partition: Partition) -> list[Document]:
    """Every document of the partition, in the order of its last change."""
    found: list[Document] = []
    token: str | None = None
    while True:
        page = await store.changes(partition, token)
        if not page.items:
            return found
        found += page.items
        token = page.token


class _Workflow:
    """The documents of one workflow."""

    def __init__(self, partition: Partition, documents: list[Document], told: Mapping[str, Told]) -> None:
        self.partition, self.told = partition, told
        self.by_id = {one["id"]: one for one in documents}
        self.order = {one["id"]: place for place, one in enumerate(documents)}
        self.events = self._by_run(documents, DocumentType.EVENT)
        self.executions = self._by_run(documents, DocumentType.EXECUTION)
        self.runs = {one["id"]: one for one in documents if one["type"] == DocumentType.RUN}
        self.tombstones = {one["id"] for one in self.runs.values() if self._is_tombstone(one)}
        self.locks = [one for one in documents if one["type"] == DocumentType.LOCK]

    @staticmethod
    def _by_run(documents: list[Document], kind: DocumentType) -> dict[str, list[Document]]:
        found: dict[str, list[Document]] = {}
        for one in documents:
            if one["type"] == kind:
                found.setdefault(one["run_id"], []).append(one)
        return found

    def _is_tombstone(self, run: Document) -> bool:
        """Whether it is a child that was cancelled before it existed: nothing but its end is on record."""
        types = [one["event_type"] for one in self.events.get(run["id"], [])]
        alone = run["parent"] is not None and run["id"] not in self.executions
        return alone and run["status"] == RunStatus.CANCELLED and types == [EventType.RUN_CANCELLED]

    def findings(self) -> Iterator[str]:
        if len(self.order) != len(self.by_id):
            yield "the feed shows a document twice"
        yield from (f"the lock of run {lock['run_id']} is left" for lock in self.locks)
        yield from self._runtime()
        for run_id, told in self.told.items():
            yield from (f"run {run_id}: {what}" for what in _promises(told, self.runs.get(run_id)))
        own = {run_id for run_id, run in self.runs.items() if run["parent"] is None}
        yield from (f"run {run_id} exists, and nobody asked for it" for run_id in own - self.told.keys())
        for orphan in (self.events.keys() | self.executions.keys()) - self.runs.keys():
            yield f"run {orphan} has documents but doesn't exist"
        for run_id, run in self.runs.items():
            if run_id in self.tombstones:
                continue
            record = _Run(run, self.executions.get(run_id, []), self.events.get(run_id, []))
            yield from (f"run {run_id}: {what}" for what in record.findings())
            yield from (f"run {run_id}: {what}" for what in self._receipt(run))

    def _runtime(self) -> Iterator[str]:
        runtime = self.by_id[WORKFLOW_ID]["runtime"]
        if (runtime["status"], runtime["active_run_id"]) != ("idle", None):
            yield f"it is {runtime['status']} with run {runtime['active_run_id']}"
        started = self.runs.keys() - self.tombstones
        if runtime["run_count"] != len(started):
            yield f"it counts {runtime['run_count']} runs of {len(started)}"
        events = [one for run_id in started for one in self.events.get(run_id, [])]
        ends = [one for one in events if one["event_type"] in TERMINAL_EVENTS.values()]
        last = max(ends, key=lambda one: self.order[one["id"]])["run_id"] if ends else None
        if runtime["last_run_id"] != last:
            yield f"its last run is {runtime['last_run_id']}, not {last}"
        elif last in self.runs and runtime["last_run_status"] != self.runs[last]["status"]:
            yield f"its last run is said to be {runtime['last_run_status']}"

    def _receipt(self, run: Document) -> Iterator[str]:
        """The receipts by which a repeated trigger finds its run."""
        if (run["trigger"]["key"] is None) != (not run["receipts"]):
            yield "its trigger has a key, and it has no receipt"
        for receipt in map(self.by_id.get, run["receipts"]):
            if receipt is None or (receipt["run_id"], receipt["outcome"]) != (run["id"], run["status"]):
                yield f"its trigger's receipt says {receipt and receipt['outcome']}"


def _promises(told: Told, run: Document | None) -> Iterator[str]:
    """Answers that were given bind."""
    if told.start in ACCEPTED and run is None:
        yield f"its start was answered {told.start}, and it doesn't exist"
    if told.start == 409 and run is not None:
        yield "its start was refused, and it exists"
    status = None if run is None else run["status"]
    for answer in told.cancels:
        if answer in ACCEPTED and status != RunStatus.CANCELLED:
            yield f"its cancel was answered {answer}, and it is {status}"
        if answer == 409 and status not in (RunStatus.COMPLETED, RunStatus.FAILED):
            yield f"its cancel was refused because it had ended, and it is {status}"
    cancelled = run is not None and status == RunStatus.CANCELLED
    if cancelled and not told.cancel_asked and run["cancel"]["source"] != CancelSource.RECONCILE:
        yield "it is cancelled, and nobody asked"


class _Run:
    """One run, its executions, and its events in the order of their commits."""

    def __init__(self, run: Document, executions: list[Document], events: list[Document]) -> None:
        self.run, self.executions, self.events = run, executions, events
        self.status = run["status"]
        self.types = [one["event_type"] for one in events]
        self.accept = self.types.index(EventType.RUN_CANCELLING) if EventType.RUN_CANCELLING in self.types else None

    def findings(self) -> Iterator[str]:
        if self.status not in TERMINAL_RUN:
            yield f"it is {self.status}"
        if self.run["in_flight"] != 0:
            yield f"{self.run['in_flight']} operations are in flight"
        yield from self._counts()
        yield from self._ends()
        yield from self._attempts()
        yield from self._cancel()

    def _counts(self) -> Iterator[str]:
        counted: Counter[str] = Counter({status.value: 0 for status in Ex} | {"total": len(self.executions)})
        for one in self.executions:
            counted[one["status"]] += 1
            if one["status"] in UNFINISHED_EXECUTION:
                yield f"execution {one['path']} is {one['status']}"
        if self.run["counts"] != dict(counted):
            yield f"its counts are {self.run['counts']}, its executions {dict(counted)}"

    def _ends(self) -> Iterator[str]:
        """It begins once and ends once, and nothing comes after the end."""
        ends = [one for one in self.types if one in TERMINAL_EVENTS.values()]
        if ends != [TERMINAL_EVENTS.get(self.status)]:
            yield f"it is {self.status}, and its terminal events are {ends}"
        else:
            after = self.types[self.types.index(ends[0]) + 1 :]
            yield from (f"{one} came after its end" for one in after if not one.startswith(MENDED))
        if self.types[:1] != [EventType.RUN_QUEUED] or self.types.count(EventType.RUN_QUEUED) != 1:
            yield "it was not queued first, or not once"
        if self.types.count(EventType.RUN_STARTED) != (self.run["started_at"] is not None):
            yield f"it started {self.types.count(EventType.RUN_STARTED)} times"

    def _attempts(self) -> Iterator[str]:
        """Every attempt on record has its event: else the order of events would not tell all that began."""
        began = Counter(one["execution_id"] for one in self.events if one["event_type"] == EventType.EXECUTION_STARTED)
        for one in self.executions:
            if began.pop(one["id"], 0) != one["attempt"]:
                yield f"execution {one['path']} has attempt {one['attempt']}, and its events tell of others"
        yield from (f"{execution_id} began, and has no record" for execution_id in began)

    def _cancel(self) -> Iterator[str]:
        if (self.accept is not None) != (self.status == RunStatus.CANCELLED):
            yield f"it is {self.status}, and a cancel was {'' if self.accept is not None else 'not '}accepted"
        if self.accept is None:
            own = [one for one in self.executions if one["child"] is None]
            outcomes = [one["path"] for one in own if one["cancel_outcome"] is not None]
            if self.run["cancel"] is not None or (outcomes and not self.run["cancelled_executions"]):
                yield "it tells of a cancel, and none was accepted"
            return
        if self.types.count(EventType.RUN_CANCELLING) != 1:
            yield "more than one cancel was accepted"
        for late in self.events[self.accept :]:
            if late["event_type"] in BEGINNINGS:
                yield f"{late['execution_id'] or 'the run'} began after the cancel was accepted"
        if self.run["cancel"] is None:
            yield "a cancel was accepted, and it has no receipt"
        else:
            yield from self._receipt(self.run["cancel"], self._in_flight(self.accept))

    def _in_flight(self, place: int) -> set[str]:
        """The operations that had begun and not ended before the event at `place`."""
        last: dict[str, Any] = {}
        for one in self.events[:place]:
            if one["execution_id"] is not None and one["event_type"] != EventType.EXECUTION_OUTPUT:
                last[one["execution_id"]] = one["event_type"]
        operations = {one["id"] for one in self.executions if one["operation"]}
        return {one for one, last_type in last.items() if last_type == EventType.EXECUTION_STARTED} & operations

    def _receipt(self, cancel: dict[str, Any], in_flight: set[str]) -> Iterator[str]:
        """The receipt tells how each operation ended that was in flight at the accept, and of no other.

        Child runs may be cancelled on their own, before: they have an outcome, too.
        """
        outcomes = {one["id"]: one["cancel_outcome"] for one in self.executions if one["cancel_outcome"] is not None}
        children = {one["id"] for one in self.executions if one["child"] is not None}
        if not in_flight <= outcomes.keys() <= in_flight | children:
            yield f"its receipt tells of {sorted(outcomes)}; in flight were {sorted(in_flight)}"
        abandoned = {one for one, outcome in outcomes.items() if outcome == CancelOutcome.ABANDONED}
        if cancel["acknowledged"] is not (not abandoned):
            yield f"its receipt says acknowledged: {cancel['acknowledged']}; the outcomes are {outcomes}"
        if not (abandoned if cancel["forced"] else abandoned <= children):
            yield f"its receipt says forced: {cancel['forced']}; the outcomes are {outcomes}"
        missing = [name for name in ("requested_at", "requested_by", "observed_at", "stopped_at") if not cancel[name]]
        if missing:
            yield f"its receipt lacks {', '.join(missing)}"
