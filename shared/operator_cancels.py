"""Cancels of many runs at once, by an operator: a result a run, and a job for what is over `BATCH` runs.

A request cancels the first `BATCH` runs before it is answered. If there are more, it leaves a job, which a timer works off
batch by batch. Cancelling is idempotent and a job's progress is written on the condition that no other worker was quicker,
so a worker may die anywhere: the next one does that batch again. Active runs that it had cancelled before it died are then
missing among the job's results; their events `operator.cancelled` name the job.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from shared import operator_log
from shared.errors import ConditionFailed, NotFound, Problem, StoreError
from shared.events import event
from shared.executions import run_ref
from shared.ids import new_ulid, now
from shared.names import CancelSource, DocumentType, EventType
from shared.operators import RunFilter
from shared.orchestration import Orchestrations, wake
from shared.persistence import patiently
from shared.runs import CancelRequest, request_cancel
from shared.services import Services
from shared.states import ACTIVE_RUN, RunStatus
from shared.store.port import MAX_PAGE, Create, Document, FieldIn, Filter, Op, Partition, Patch, Query
from shared.workflows import ID_PATTERN

BATCH = 500
"""Runs that one request, or one step of a job, cancels."""
MAX_RUN_IDS = 10_000
AT_ONCE = 16
PATIENCE_SECONDS = 10.0
PASS_SECONDS = 45.0
"""How long one pass over the jobs takes, but for the batch at work."""
PAGE = 100
KEPT_SECONDS = 90 * 24 * 3600
JOBS = Partition("system", "operator_jobs")
_RESULTS = "results:"


class JobStatus(StrEnum):
    """Where a job is."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    """An operator stopped it; what it had cancelled stays cancelled."""


class Result(StrEnum):
    """What became of one run."""

    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    """Accepted; what is in flight is being stopped."""
    FINISHED = "already_finished"
    """Its own end came first."""
    NOT_FOUND = "not_found"
    AMBIGUOUS = "ambiguous"
    """Several workflows have a run of that id."""
    FAILED = "failed"
    """The store could not be reached for it: ask again."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs: those of `run_ids`, or all active ones that were created before `before`; both narrowed by the others."""

    run_ids: tuple[str, ...] | None = None
    scope: str | None = None
    workflow_id: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's cancel of the runs of a selection."""

    by: Mapping[str, str]
    reason: str
    selection: Selection
    grace_seconds: float | None = None
    force: bool = False
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A batch: a result a run, and where the next batch begins (None: that was all)."""

    results: list[dict[str, Any]]
    next: str | None


async def cancel_runs(
    services: Services, orchestrations: Orchestrations, order: Order
) -> tuple[list[dict[str, Any]], Document | None]:
    """Cancel the first `BATCH` runs. Answers a result a run, and the job that goes on with the others, if there are any."""
    order = replace(order, job_id=new_ulid())
    asked = {**asdict(order.selection), "reason": order.reason, "force": order.force, "order": order.job_id}
    await operator_log.note(services, EventType.OPERATOR_CANCEL_ORDERED, order.by, **asked)
    done = await _batch(services, orchestrations, order, None)
    if done.next is None:
        return done.results, None
    return done.results, await _open_job(services, order, done)


async def _batch(services: Services, orchestrations: Orchestrations, order: Order, position: str | None) -> Done:
    """Cancel the runs of a selection from `position` on, at most `BATCH`."""
    selection = order.selection
    if selection.run_ids is None:
        every = RunFilter(ACTIVE_RUN, selection.scope, selection.workflow_id, selection.before)
        page = await services.store.query(every.query(BATCH, position, descending=False))
        return Done(await _each(services, orchestrations, order, page.items), page.next)
    begin = int(position or 0)
    wanted = selection.run_ids[begin : begin + BATCH]
    found = await _find(services, selection, wanted)
    single = [runs[0] for runs in found.values() if len(runs) == 1]
    results = {one["run_id"]: one for one in await _each(services, orchestrations, order, single)}
    for run_id in wanted:
        if run_id not in results:
            results[run_id] = _unfound(run_id, bool(found[run_id]))
    following = begin + BATCH
    return Done([results[run_id] for run_id in wanted], str(following) if following < len(selection.run_ids) else None)


async def _find(services: Services, selection: Selection, run_ids: tuple[str, ...]) -> dict[str, list[Document]]:
    """The runs of each id."""
    found: dict[str, list[Document]] = {run_id: [] for run_id in run_ids}
    narrowed: list[Filter] = []
    if selection.workflow_id is not None:
        narrowed.append(FieldIn("workflow_id", (selection.workflow_id,)))
    for begin in range(0, len(run_ids), PAGE):
        where = (FieldIn("id", run_ids[begin : begin + PAGE]), *narrowed)
        query = Query(DocumentType.RUN, selection.scope, where, limit=MAX_PAGE)
        while True:
            page = await services.store.query(query)
            for run in page.items:
                found[run["id"]].append(run)
            if page.next is None:
                break
            query = replace(query, after=page.next)
    return found


async def _at_once(calls: list[partial[Any]]) -> list[Any]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(call: partial[Any]) -> Any:
        async with places:
            return await call()

    return await asyncio.gather(*(one(call) for call in calls))


async def _each(
    services: Services, orchestrations: Orchestrations, order: Order, runs: list[Document]
) -> list[dict[str, Any]]:
    return await _at_once([partial(_cancel, services, orchestrations, order, run) for run in runs])


async def _cancel(services: Services, orchestrations: Orchestrations, order: Order, run: Document) -> dict[str, Any]:
    """Cancel one run. Answers its result; only a fault of ours is raised."""
    request = CancelRequest(order.by, CancelSource.ADMIN, order.reason, order.grace_seconds, order.force)
    noted = event(run["id"], EventType.OPERATOR_CANCELLED, by=dict(order.by), reason=order.reason, order=order.job_id)
    ask = partial(request_cancel, services, run_ref(run).partition, run["id"], request, (noted,))
    try:
        run = await patiently(ask, PATIENCE_SECONDS)
    except NotFound:
        return _unfound(run["id"], found=False)
    except Problem as problem:  # its own end came first
        return _result(run, Result.FINISHED, problem.extra["state"], problem.code, problem.detail)
    except StoreError as error:
        return _result(run, Result.FAILED, run["status"], "store_unavailable", str(error))
    await wake(orchestrations, run)
    return _result(run, Result(run["status"]), run["status"])


def _result(
    run: Document, result: Result, status: RunStatus, code: str | None = None, message: str | None = None
) -> dict[str, Any]:
    error = {"code": code, "message": message} if code is not None else None
    place = {"scope": run["scope"], "workflow_id": run["workflow_id"]}
    return {"run_id": run["id"], **place, "result": result, "status": status, "error": error}


def _unfound(run_id: str, found: bool) -> dict[str, Any]:
    result, code, message = (
        (Result.AMBIGUOUS, "run_id_ambiguous", "several workflows have a run of this id: name scope and workflow_id")
        if found
        else (Result.NOT_FOUND, "run_not_found", "there is no such run")
    )
    nowhere = {"run_id": run_id, "scope": None, "workflow_id": None}
    return {**nowhere, "result": result, "status": None, "error": {"code": code, "message": message}}


async def _open_job(services: Services, order: Order, done: Done) -> Document:
    """Leave the rest of an order as a job, whose first batch is done."""
    moment = now()
    job: Document = {
        "id": order.job_id,
        "type": DocumentType.OPERATOR_JOB,
        "status": JobStatus.RUNNING,
        "by": dict(order.by),
        "reason": order.reason,
        "grace_seconds": order.grace_seconds,
        "force": order.force,
        "selection": {**asdict(order.selection), "run_ids": list(order.selection.run_ids or ()) or None},
        "position": done.next,
        "batches": 1,
        "counts": _counted({}, done),
        "created_at": moment,
        "updated_at": moment,
        "ended_at": None,
        "stopped_by": None,
        "ttl": KEPT_SECONDS,
    }
    await services.store.transact(JOBS, [Create(job), _results(str(order.job_id), 0, done)])
    return job


def _counted(before: Mapping[str, int], done: Done) -> dict[str, int]:
    counts = Counter({result.value: before.get(result, 0) for result in Result})
    counts.update(one["result"].value for one in done.results)
    return dict(counts)


def _results(job_id: str, batch: int, done: Done) -> Create:
    return Create(
        {
            "id": f"{_RESULTS}{job_id}:{batch:06d}",
            "type": DocumentType.OPERATOR_RESULTS,
            "results": done.results,
            "at": now(),
            "ttl": KEPT_SECONDS,
        }
    )


async def work_off(services: Services, orchestrations: Orchestrations, *, seconds: float = PASS_SECONDS) -> int:
    """Go on with every running job, oldest first, for about `seconds`. Answers how many batches were done."""
    until, batches = time.monotonic() + seconds, 0
    open_jobs = Query(DocumentType.OPERATOR_JOB, JOBS, (FieldIn("status", (JobStatus.RUNNING,)),), limit=PAGE)
    for job in (await services.store.query(open_jobs)).items:
        while job["status"] == JobStatus.RUNNING:
            if batches and time.monotonic() >= until:
                return batches
            await _go_on(services, orchestrations, job)
            batches += 1
            job = await services.store.get(JOBS, job["id"])  # noqa: PLW2901 - as the batch left it
    return batches


async def _go_on(services: Services, orchestrations: Orchestrations, job: Document) -> None:
    """Do a job's next batch. If another worker did it as well, it counts once."""
    selection = {**job["selection"], "run_ids": tuple(job["selection"]["run_ids"] or ()) or None}
    order = Order(
        job["by"], job["reason"], Selection(**selection), job["grace_seconds"], job["force"], job_id=job["id"]
    )
    done = await _batch(services, orchestrations, order, job["position"])
    moment = now()
    counts = _counted(job["counts"], done)
    progress = {"position": done.next, "batches": job["batches"] + 1, "counts": counts, "updated_at": moment}
    ended = {"status": JobStatus.COMPLETED, "ended_at": moment} if done.next is None else {}
    for status, more in ((JobStatus.RUNNING, ended), (JobStatus.STOPPED, {})):
        mine = (FieldIn("batches", (job["batches"],)), FieldIn("status", (status,)))
        ops: list[Op] = [
            Patch(job["id"], set={**progress, **more}, when=mine),
            _results(job["id"], job["batches"], done),
        ]
        try:
            await services.store.transact(JOBS, ops)
            return
        except ConditionFailed:
            continue  # it was stopped meanwhile, or another worker was quicker


def job_not_found() -> Problem:
    """The answer for a job that doesn't exist."""
    return Problem(404, "job_not_found", "there is no such job")


async def get_job(services: Services, job_id: str) -> Document:
    """A job. Raises `Problem` 404."""
    if not ID_PATTERN.fullmatch(job_id):
        raise job_not_found()
    try:
        return await services.store.get(JOBS, job_id)
    except NotFound:
        raise job_not_found() from None


def jobs(limit: int, after: str | None) -> Query:
    """The jobs, newest first."""
    return Query(DocumentType.OPERATOR_JOB, JOBS, descending=True, limit=limit, after=after)


async def results_of(services: Services, job: Document, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """The results of one batch of a job, and the token of the next. Raises `ValueError` for a foreign token."""
    prefix = f"{_RESULTS}{job['id']}:"
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= 6):
        raise ValueError(after)
    batch = int(after or 0)
    try:
        found = await services.store.get(JOBS, f"{prefix}{batch:06d}")
    except NotFound:
        return [], None
    return list(found["results"]), str(batch + 1) if batch + 1 < job["batches"] else None


async def stop_job(services: Services, job_id: str, by: Mapping[str, str]) -> Document:
    """Let a job go no further: at most the batch at work is still done. Idempotent. Raises `Problem` 404."""
    job = await get_job(services, job_id)
    await operator_log.note(services, EventType.OPERATOR_JOB_STOPPED, by, job=job_id)
    stopped = {"status": JobStatus.STOPPED, "ended_at": now(), "stopped_by": dict(by)}
    patch = Patch(job_id, set=stopped, when=(FieldIn("status", (JobStatus.RUNNING,)),))
    try:
        return (await services.store.transact(JOBS, [patch]))[0] or job
    except ConditionFailed:
        return await get_job(services, job_id)  # it has ended


def job_view(job: Document) -> dict[str, Any]:
    """A job."""
    shown = ("id", "status", "by", "reason", "grace_seconds", "force", "counts")
    times = ("created_at", "updated_at", "ended_at", "stopped_by")
    run_ids = job["selection"]["run_ids"]
    selection = {**job["selection"], "run_ids": len(run_ids) if run_ids is not None else None}
    links = {"self": f"/api/admin/jobs/{job['id']}", "results": f"/api/admin/jobs/{job['id']}/results"}
    return {**{name: job[name] for name in (*shown, *times)}, "selection": selection, "links": links}
