"""A burst of files becomes a run, or a `skipped` one that says why not.

`close_burst` (queue trigger), once nothing has arrived for the debounce, or files have waited long enough:

1. It takes what is pending, the oldest first, at most `MAX_KEYS` files, and starts one run of them: each version's receipt
   is in the run's own transaction.
2. It starts the run's instance, and only then marks the files taken. What arrives meanwhile stays pending.
3. What is left waits for the next run: the burst gets a new wake token, sent with a delay.
4. A busy workflow: a new wake token, with a delay that grows and that the end of the run cuts short; when its files have
   waited for too long they are skipped.

A version that is pending and has its receipt was taken by a delivery that died: step 2 is made up for. A burst whose
message was lost is found by its `due_at`: `wake_lost_bursts`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import Field

from shared import workflows
from shared.errors import AlreadyProduced, ConditionFailed, NoLongerDue, NotFound, Problem
from shared.file_sync import BURST_ID, existing, send_wake, trigger_of
from shared.ids import derived_ulid, from_text, new_ulid, to_text
from shared.names import DocumentType, TriggerKind
from shared.orchestration import InstanceState, Orchestrations, instance_of, start_instance
from shared.services import Services
from shared.settling import receipt_id
from shared.source_files import PENDING, TAKEN, shown, version_key
from shared.starting import MAX_KEYS, Start, skip_run, start_run
from shared.states import RunStatus
from shared.steps import Strict
from shared.store.port import Compare, Delete, Document, FieldIn, Partition, Patch, Query

log = logging.getLogger(__name__)

REQUESTED_BY = {"id": "file_sync", "name": "File Sync"}
WANTED = (FieldIn("definition.enabled", (True,)), FieldIn("definition.trigger.kind", (TriggerKind.FILE_SYNC,)))
"""What must be so of the workflow when a run of files is accepted."""
RETRY_SECONDS = (5, 300)
"""How long a burst waits for a busy workflow at first and at most; doubling."""
LOST_SECONDS = 600
"""A burst that was due so long ago has lost its message."""
MAX_WOKEN = 100


class Wake(Strict):
    """A message of the queue. `tries`: how often this burst found the workflow busy since something last arrived."""

    scope: str = Field(pattern=r"^(user|group):[^/\\#?]{1,128}$")
    workflow_id: str = Field(pattern=r"^[a-z0-9]{26}$")
    wake: str = Field(max_length=64)
    tries: int = Field(ge=0, le=1_000_000)


@dataclass(frozen=True, slots=True)
class _Burst:
    """One look at a burst: everything that its steps need."""

    services: Services
    orchestrations: Orchestrations
    partition: Partition
    workflow: Document
    document: Document
    message: Wake
    at: datetime

    @property
    def quiet(self) -> bool:
        """Whether nothing arrived since the message was sent: else a later one is on its way."""
        return bool(self.document["wake"] == self.message.wake)

    @property
    def overdue(self) -> bool:
        """Whether its files have waited long enough, though more may arrive."""
        return self.waited(self.document["since"]) >= self.services.settings.file_sync_wait_seconds

    def waited(self, since: str) -> float:
        """Seconds since a moment."""
        return (self.at - from_text(since)).total_seconds()


async def close_burst(services: Services, orchestrations: Orchestrations, message: Wake, at: datetime) -> None:
    """Act on a message of the queue. Safe to repeat. Raises `Unavailable`, `Throttled`: then it must come again."""
    partition = Partition(message.scope, message.workflow_id)
    document = await _hold(services, partition, message)
    if document is None:
        return
    try:
        workflow = await workflows.get(services, partition)
    except Problem:
        return  # deleted, and what was recorded with it
    burst = _Burst(services, orchestrations, partition, workflow, document, message, at)
    if burst.quiet or burst.overdue:
        await (_go_on(burst) if await _take(burst) else _again(burst))


async def _hold(services: Services, partition: Partition, message: Wake) -> Document | None:
    """The burst, if there is one.

    A read may lag behind, and this message might not come again: so a write says whether its token is the burst's own.
    After it this process also reads what was written with the token, the file.
    """
    same = (FieldIn("wake", (message.wake,)),)
    try:
        hold = Patch(BURST_ID, set={"wake": message.wake}, when=same)
        return (await services.store.transact(partition, [hold]))[0]
    except ConditionFailed:
        return await existing(services, partition, BURST_ID)
    except NotFound:
        return None


async def _take(burst: _Burst) -> bool:
    """See to it that the files that wait the longest have their run. False: not now, the workflow or Durable is busy."""
    while batch := await _pending(burst, MAX_KEYS):
        try:
            run, files = await _run_of(burst, batch)
        except AlreadyProduced:
            if not await _make_up(burst, batch):
                return False
            continue
        except Problem as problem:
            if problem.code != "workflow_busy":
                raise
            return False
        except NoLongerDue:
            return False  # it was disabled, or edited, this very moment
        if not await _started(burst, run):
            return False
        await _mark_taken(burst, files, run)
        break
    return True


async def _pending(burst: _Burst, limit: int) -> list[Document]:
    waiting = FieldIn("status", (PENDING,))
    query = Query(DocumentType.FILE, burst.partition, (waiting,), order_by="arrived_at", limit=limit)
    return (await burst.services.store.query(query)).items


async def _run_of(burst: _Burst, batch: list[Document]) -> tuple[Document, list[Document]]:
    """The run of these files, or a skipped one of some of them; and which. Raises as `start_run` does."""
    why = _unwanted(burst, batch)
    if why is None:
        try:
            start = _start(burst, batch)
            return (await start_run(burst.services, burst.partition, burst.workflow, start))[0], batch
        except Problem as problem:
            if problem.code == "workflows_off":
                why = problem.detail
            else:
                batch = _late(burst, batch)
                if problem.code != "workflow_busy" or not batch:
                    raise
                why = f"busy for too long: {problem.detail}"
    start = replace(_start(burst, batch), when=())
    return await skip_run(burst.services, burst.partition, burst.workflow, start, why), batch


def _unwanted(burst: _Burst, batch: Sequence[Document]) -> str | None:
    """Why no run is to be started, if so."""
    if not burst.workflow["definition"]["enabled"]:
        return "files arrived while the workflow was disabled"
    if trigger_of(burst.workflow) is None:
        return "files arrived, and the workflow has no file_sync trigger"
    if all(file["problem"] is not None for file in batch):
        return f"no file that arrived can be used: {batch[0]['problem']['message']}"
    return None


def _late(burst: _Burst, batch: list[Document]) -> list[Document]:
    """Those that have waited for too long for the busy workflow, counted from the last run that files started."""
    settings = burst.services.settings
    if burst.message.tries >= settings.file_sync_busy_tries:
        return batch
    if burst.waited(burst.document["since"]) < settings.file_sync_busy_seconds:
        return []
    return [file for file in batch if burst.waited(file["arrived_at"]) >= settings.file_sync_busy_seconds]


def _start(burst: _Burst, batch: Sequence[Document]) -> Start:
    """The same for the same versions: repeated, it finds the run that it made."""
    keys = tuple(version_key(file) for file in batch)
    text = ":".join((TriggerKind.FILE_SYNC, *burst.partition, *keys))
    run_id = derived_ulid(from_text(batch[0]["arrived_at"]), text)
    given = {
        "files": [shown(file) for file in batch if file["problem"] is None],
        "skipped": [shown(file) for file in batch if file["problem"] is not None],
    }
    return Start(run_id, run_id, given, REQUESTED_BY, TriggerKind.FILE_SYNC, keys, when=WANTED)


async def _started(burst: _Burst, run: Document) -> bool:
    """See to it that the run's instance is started. Whether there is no more to do for it here."""
    if run["status"] != RunStatus.QUEUED:
        return True
    try:
        # One that is there was started by an earlier delivery. If it was terminated since, that is for `reconcile`.
        if (await instance_of(burst.orchestrations, run)).state == InstanceState.MISSING:
            await start_instance(burst.orchestrations, run)
    except Exception as error:  # the client raises what it likes
        log.warning("the instance of run %s was not started: %s", run["id"], error)
        return burst.message.tries >= burst.services.settings.file_sync_busy_tries
    return True


async def _make_up(burst: _Burst, batch: Sequence[Document]) -> bool:
    """Finish what a delivery that died left of these files: each that has its receipt. Whether all that could be done."""
    produced: dict[str, list[Document]] = {}
    for file in batch:
        receipt = await existing(burst.services, burst.partition, receipt_id(TriggerKind.FILE_SYNC, version_key(file)))
        if receipt is not None:
            produced.setdefault(receipt["run_id"], []).append(file)
    for run_id, files in produced.items():
        run = await existing(burst.services, burst.partition, run_id)
        if run is None:  # it is no longer kept
            run = {"id": run_id, "status": RunStatus.SKIPPED}
        if not await _started(burst, run):
            return False
        await _mark_taken(burst, files, run)
    return True


async def _mark_taken(burst: _Burst, files: Sequence[Document], run: Document) -> None:
    """Note that the files had their run. One that arrived anew meanwhile stays pending."""
    patches = []
    for file in files:
        taken = {"status": TAKEN, "run_id": run["id"]}
        if run["status"] != RunStatus.SKIPPED:
            taken["taken_digest"] = file["digest"]
        same = (FieldIn("status", (PENDING,)), FieldIn("etag", (file["etag"],)))
        patches.append(Patch(file["id"], set=taken, when=same))
    while patches:
        try:
            await burst.services.store.transact(burst.partition, patches)
            return
        except (ConditionFailed, NotFound) as error:
            assert error.op_index is not None
            del patches[error.op_index]


async def _go_on(burst: _Burst) -> None:
    """Files had their run: close the burst, or have it looked at again for those that are left."""
    own = (FieldIn("wake", (burst.document["wake"],)),)
    if not await _pending(burst, 1):
        await _landed(burst, Delete(BURST_ID, when=own))
    elif burst.quiet:
        await _wake_again(burst, 0, {"since": to_text(burst.at)})
    else:
        await _landed(burst, Patch(BURST_ID, set={"since": to_text(burst.at)}, when=own))


async def _again(burst: _Burst) -> None:
    """Look at the burst again, later; unless a later message does anyway."""
    if burst.quiet:
        await _wake_again(burst, burst.message.tries + 1, {})


async def _wake_again(burst: _Burst, tries: int, changes: dict[str, str]) -> None:
    first, most = RETRY_SECONDS
    delay = min(first << min(tries, 10), most)
    token, due_at = new_ulid(), to_text(burst.at + timedelta(seconds=delay))
    # A new token each time: a message that is delivered twice must not become two that go on for ever.
    changed = {"wake": token, "due_at": due_at, "tries": tries, **changes}
    patch = Patch(BURST_ID, set=changed, when=(FieldIn("wake", (burst.message.wake,)),))
    if await _landed(burst, patch):
        await send_wake(burst.services, burst.partition, token, tries, delay)


async def _landed(burst: _Burst, op: Patch | Delete) -> bool:
    """Apply `op`, unless something arrived or another delivery went on. Whether it was applied."""
    try:
        await burst.services.store.transact(burst.partition, [op])
    except (ConditionFailed, NotFound):
        return False
    return True


async def wake_lost_bursts(services: Services, at: datetime) -> int:
    """Send the messages of bursts that lost theirs, at most `MAX_WOKEN`. Answers how many. Idempotent."""
    due = Compare("due_at", "<", to_text(at - timedelta(seconds=LOST_SECONDS)))
    lost = (await services.store.query(Query(DocumentType.BURST, None, (due,), "due_at", limit=MAX_WOKEN))).items
    woken = 0
    for burst in lost:
        partition, token = Partition(burst["scope"], burst["workflow_id"]), new_ulid()
        same = (FieldIn("wake", (burst["wake"],)),)
        try:
            await services.store.transact(
                partition, [Patch(BURST_ID, set={"wake": token, "due_at": to_text(at), "tries": 0}, when=same)]
            )
        except (ConditionFailed, NotFound):
            continue
        await send_wake(services, partition, token, 0, 0)
        log.warning("the burst of files of workflow %s had lost its message", partition.workflow_id)
        woken += 1
    return woken
