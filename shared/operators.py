"""What operators see: runs of everyone, those that seem wedged, and all that happened to one run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared import operator_log
from shared.errors import Problem
from shared.executions import run_ref
from shared.ids import from_text, to_text
from shared.names import DocumentType, EventType
from shared.queue_intake import REJECTED
from shared.receipts import cancel_receipt
from shared.services import Services
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Compare, Document, FieldIn, Filter, Partition, Prefix, Query
from shared.views import event_view, run_view

MAX_TRAIL = 1000
MAX_EXPORT = 20_000
"""Events in one answer."""
PAGE = 1000
OF_NODES = (
    EventType.EXECUTION_STARTED,
    EventType.EXECUTION_COMPLETED,
    EventType.EXECUTION_FAILED,
    EventType.EXECUTION_CANCELLED,
    EventType.EXECUTION_OUTPUT,
)
"""Events that tell of a run's work, not of what people and repairs did to it."""
TRAIL = tuple(kind for kind in EventType if kind not in OF_NODES)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs. `before`: created earlier than this moment (RFC 3339 UTC)."""

    statuses: tuple[RunStatus, ...]
    scope: str | None = None
    workflow_id: str | None = None
    before: str | None = None
    trigger: str | None = None

    def query(self, limit: int, after: str | None, *, descending: bool) -> Query:
        """Those runs in the order of their creation."""
        within: Partition | str | None = self.scope
        where: list[Filter] = [FieldIn("status", self.statuses)]
        if self.workflow_id is not None:
            if self.scope is not None:
                within = Partition(self.scope, self.workflow_id)
            else:
                where.append(FieldIn("workflow_id", (self.workflow_id,)))
        if self.before is not None:
            where.append(Compare("created_at", "<", self.before))
        if self.trigger is not None:
            where.append(FieldIn("trigger.kind", (self.trigger,)))
        return Query(DocumentType.RUN, within, tuple(where), "created_at", descending, limit, after)


def moment_before(seconds: float) -> str:
    """The moment that was so many seconds ago; the earliest there is, if that is too long ago to be told."""
    try:
        return to_text(datetime.now(UTC) - timedelta(seconds=seconds))
    except OverflowError:
        return "0001-01-01T00:00:00.000Z"


async def find_run(services: Services, run_id: str, scope: str | None, workflow_id: str | None) -> Document:
    """The run of this id. Raises `Problem` 404, and 409 `run_id_ambiguous` when several workflows have one."""
    where: list[Filter] = [FieldIn("id", (run_id,))]
    if workflow_id is not None:
        where.append(FieldIn("workflow_id", (workflow_id,)))
    found = (await services.store.query(Query(DocumentType.RUN, scope, tuple(where), limit=2))).items
    if not found:
        raise Problem(404, "run_not_found", "there is no such run")
    if len(found) > 1:
        raise Problem(409, "run_id_ambiguous", "several workflows have a run of this id: name scope and workflow_id")
    return found[0]


async def shown(services: Services, run: Document) -> dict[str, Any]:
    """A run with its receipt, if it was cancelled."""
    return run_view(run, await cancel_receipt(services, run) if run["cancel"] is not None else None)


async def trail(services: Services, run: Document) -> dict[str, Any]:
    """The run, and what was done to it in the order of time: who asked, who cancelled and from where, repairs, operators.

    Its work, the events `execution.*`, is left out; and of what is left, what comes after the first `MAX_TRAIL`.
    """
    where = (Prefix("id", f"{run['id']}:e:"), FieldIn("event_type", TRAIL))
    query = Query(DocumentType.EVENT, run_ref(run).partition, where, limit=MAX_TRAIL)
    told = [_told(event, run) for event in (await services.store.query(query)).items]
    entries = (await services.store.query(operator_log.entries(run["id"], MAX_TRAIL, None))).items
    here = (run["scope"], run["workflow_id"])
    mine = (one for one in entries if (one["data"].get("scope"), one["data"].get("workflow_id")) == here)
    told += [{"source": None, **operator_log.entry_view(one)} for one in mine]
    return {"run": await shown(services, run), "trail": sorted(told, key=lambda one: (one["at"], one["id"]))}


def _told(event: Document, run: Document) -> dict[str, Any]:
    """An event of the trail: `by` is who caused it, null for the service itself; `source`: from where."""
    data = event["data"]
    by = data.get("requested_by") or data.get("by")
    if event["event_type"] == EventType.RUN_CANCELLING:
        by = run["cancel"]["requested_by"]
    source = data.get("source") or data.get("trigger")
    return {**{key: value for key, value in event_view(event).items() if key != "run_id"}, "by": by, "source": source}


async def export(services: Services, run: Document, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """The run's events after the one with the id `after`, at most `MAX_EXPORT`; and the last one's id if there are more."""
    prefix = f"{run['id']}:e:"
    found: list[dict[str, Any]] = []
    while len(found) < MAX_EXPORT:
        where: list[Filter] = [Prefix("id", prefix)]
        if after is not None:
            where.append(Compare("id", ">", after))
        query = Query(DocumentType.EVENT, run_ref(run).partition, tuple(where), limit=PAGE)
        page = await services.store.query(query)
        found += [event_view(one) for one in page.items]
        if page.next is None:
            return found, None
        after = page.items[-1]["id"]
    return found, after


async def wedged(services: Services, limit: int) -> dict[str, Any]:
    """What may need an operator, at most `limit` of each kind.

    `cancelling`: past their grace; `leases`: expired; `operations`: in flight for over `TRUESTOP_WEDGED_SECONDS`. Such a run
    is mended by `reconcile` within minutes unless that can't be: then `force` ends it.
    """
    moment = datetime.now(UTC)
    store = services.store
    cancelling = await store.query(
        Query(DocumentType.RUN, None, (FieldIn("status", (RunStatus.CANCELLING,)),), limit=PAGE)
    )
    leases = await store.query(
        Query(DocumentType.LOCK, None, (Compare("expires_at", "<", to_text(moment)),), "expires_at", limit=limit)
    )
    long_ago = moment_before(services.settings.wedged_seconds)
    at_work = (
        FieldIn("status", (Ex.RUNNING,)),
        FieldIn("operation", (True,)),
        FieldIn("child", (None,)),  # a child run takes as long as it takes, and is a run of its own
        Compare("started_at", "<", long_ago),
    )
    operations = await store.query(Query(DocumentType.EXECUTION, None, at_work, "started_at", limit=limit))
    late = [one for run in cancelling.items if (one := _late(run, moment)) is not None]
    late.sort(key=lambda one: -one["seconds_late"])
    return {
        "cancelling": late[:limit],
        "leases": [_lease(lock, moment) for lock in leases.items],
        "operations": [_operation(one, moment) for one in operations.items],
        "truncated": bool(len(late) > limit or cancelling.next or leases.next or operations.next),
    }


def _since(moment: datetime, text: str) -> float:
    return round((moment - from_text(text)).total_seconds(), 3)


def _place(document: Document) -> dict[str, Any]:
    return {"scope": document["scope"], "workflow_id": document["workflow_id"]}


def _late(run: Document, moment: datetime) -> dict[str, Any] | None:
    cancel = run["cancel"]
    late = _since(moment, cancel["requested_at"]) - cancel["grace_seconds"]
    if late <= 0:
        return None
    facts = {"requested_at": cancel["requested_at"], "grace_seconds": cancel["grace_seconds"]}
    return {"run_id": run["id"], **_place(run), **facts, "in_flight": run["in_flight"], "seconds_late": round(late, 3)}


def _lease(lock: Document, moment: datetime) -> dict[str, Any]:
    expiry = lock["expires_at"]
    return {"run_id": lock["run_id"], **_place(lock), "expires_at": expiry, "seconds_late": _since(moment, expiry)}


def _operation(execution: Document, moment: datetime) -> dict[str, Any]:
    facts = {name: execution[name] for name in ("kind", "name", "attempt", "started_at", "heartbeat_at")}
    seconds = _since(moment, execution["started_at"])
    return {
        "run_id": execution["run_id"],
        "execution_id": execution["id"],
        **_place(execution),
        **facts,
        "seconds": seconds,
    }


def rejected(queue: str | None, limit: int, after: str | None) -> Query:
    """The queue messages that could not be worked on, newest first."""
    where = () if queue is None else (FieldIn("queue", (queue,)),)
    return Query(DocumentType.REJECTED, REJECTED, where, "created_at", descending=True, limit=limit, after=after)


def rejected_view(record: Document) -> dict[str, Any]:
    """A message that could not be worked on."""
    return {name: record[name] for name in ("id", "queue", "message", "error", "errors", "created_at")}
