"""File Sync: files that arrive become one run a burst, each version at most once. This is the arrival.

`arrive` (blob trigger) records the file as pending and gives the workflow's *burst* a new wake token, in one transaction;
then it sends the token to the queue, delayed by the debounce. A token that is still the burst's own when it comes back
means that nothing arrived since, and `file_bursts.py` goes on. Each step may be repeated, and may stop after any write.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from enum import StrEnum

from shared import workflows
from shared.errors import ConditionFailed, Conflict, NotFound, Problem, TooLarge
from shared.ids import new_ulid, to_text
from shared.names import QUEUE_FILE_SYNC, WORKFLOW_ID, DocumentType, TriggerKind
from shared.services import Services
from shared.source_files import TAKEN, Place, arrived_version, file_id, new_file, place_of, problem_of
from shared.store.port import Check, Create, Document, FieldIn, Op, Partition, Patch
from shared.triggers import FileSyncTrigger

log = logging.getLogger(__name__)

BURST_ID = "file_sync:burst"
"""There while files of the workflow wait for their run. With a colon, it can be no run's id."""
UNTRIGGERED_DEBOUNCE_SECONDS = 5


class Arrival(StrEnum):
    """What became of a delivery of the blob trigger."""

    PENDING = "pending"
    """It waits for a run."""
    KNOWN = "known"
    """This version had its run."""
    UNCHANGED = "unchanged"
    """A new version of the same bytes, and the trigger wants changes only."""
    OUTSIDE = "outside"
    """Not under the trigger's prefix."""
    GONE = "gone"
    """It was deleted since."""
    NOBODYS = "nobodys"
    """In no workflow's folder: logged, as there is nobody to tell."""


def trigger_of(document: Document) -> FileSyncTrigger | None:
    """The `file_sync` trigger of a workflow, or of a run's definition, if it has one."""
    trigger = document["definition"]["trigger"]
    return FileSyncTrigger.model_validate(trigger) if trigger["kind"] == TriggerKind.FILE_SYNC else None


async def existing(services: Services, partition: Partition, document_id: str) -> Document | None:
    """The document, if there is one."""
    try:
        return await services.store.get(partition, document_id)
    except NotFound:
        return None


async def arrive(services: Services, blob_name: str, at: datetime) -> Arrival:
    """Take note of a blob of the container, new or changed. Durable when this returns.

    What the blob trigger says of it is a hint: its version is what the container says now, so a late delivery can't bring an
    old one back. Raises `Unavailable`, `Throttled`: then it must be delivered again.
    """
    place = place_of(blob_name)
    while place is not None:
        try:
            workflow = await workflows.get(services, place.partition)
        except Problem:
            break
        trigger = trigger_of(workflow)
        if trigger is not None and not place.path.startswith(trigger.prefix):
            return Arrival.OUTSIDE
        # The document before the blob: whoever notes a newer version meanwhile makes our write fail.
        known = await existing(services, place.partition, file_id(place.path))
        taken = known if known is not None and known["status"] == TAKEN else None
        version = await _version(services, place)
        if version is None:
            return Arrival.GONE
        if taken is not None and taken["etag"] == version["etag"]:
            return Arrival.KNOWN
        if trigger is not None and trigger.run_when == "changed" and version["problem"] is None:
            version["digest"] = await _digest(services, place, version["etag"])
            if version["digest"] is None:
                continue  # it changed under us
            if taken is not None and version["digest"] == taken["taken_digest"]:
                return Arrival.UNCHANGED
        debounce = UNTRIGGERED_DEBOUNCE_SECONDS if trigger is None else trigger.debounce_seconds
        token = await _record(services, place.partition, version, known, at, debounce)
        if token is not None:
            await send_wake(services, place.partition, token, 0, debounce)
            return Arrival.PENDING
    log.warning("file_sync_nobodys: blob %r is in no workflow's folder", blob_name)
    return Arrival.NOBODYS


async def _version(services: Services, place: Place) -> Document | None:
    """The file as it is now, None if it isn't."""
    try:
        info = await services.sources.info(place.blob_name)
    except NotFound:
        return None
    except ValueError as error:  # a name that Azure takes, and no blob of ours may have
        problem = {"code": "document_name_invalid", "message": str(error)}
        return arrived_version(place.path, "", 0, problem)
    return arrived_version(place.path, info.etag, info.size, problem_of(place.path, info.size, services.settings))


async def _digest(services: Services, place: Place, etag: str) -> str | None:
    """What tells the bytes of that version from others; None if it is that version no more."""
    try:
        blob = await services.sources.get(place.blob_name)
    except (NotFound, TooLarge):
        return None
    return hashlib.sha256(blob.data).hexdigest() if blob.info.etag == etag else None


async def _record(
    services: Services, partition: Partition, version: Document, known: Document | None, at: datetime, debounce: int
) -> str | None:
    """Record a pending version. Answers the burst's new wake token, None if something changed under us."""
    burst, token = await existing(services, partition, BURST_ID), new_ulid()
    woken = {"wake": token, "due_at": to_text(at + timedelta(seconds=debounce)), "tries": 0}
    file: Op
    if known is None:
        file = Create(new_file(version, to_text(at)))
    else:
        since = {"arrived_at": to_text(at)} if known["status"] == TAKEN else {}
        same = (FieldIn("etag", (known["etag"],)), FieldIn("status", (known["status"],)))
        file = Patch(known["id"], set={**version, **since}, when=same)
    wake: Op
    if burst is None:
        wake = Create({"id": BURST_ID, "type": DocumentType.BURST, **woken, "since": to_text(at)})
    else:
        wake = Patch(BURST_ID, set=woken)
    try:
        await services.store.transact(partition, [Check(WORKFLOW_ID), file, wake])
    except (ConditionFailed, Conflict, NotFound):
        return None
    return token


async def wake_waiting(services: Services, partition: Partition) -> None:
    """Have the burst that waits for the workflow's active run looked at, as that has ended. It would be in any case, later.

    One whose files still arrive is left to its debounce. Raises `Unavailable`, `Throttled`.
    """
    burst, token = await existing(services, partition, BURST_ID), new_ulid()
    if burst is None or burst["tries"] == 0:
        return
    woken = Patch(BURST_ID, set={"wake": token, "tries": 0}, when=(FieldIn("wake", (burst["wake"],)),))
    try:
        await services.store.transact(partition, [woken])
    except (ConditionFailed, NotFound):
        return  # something arrived, or another delivery goes on
    await send_wake(services, partition, token, burst["tries"] - 1, 0)  # that it is woken is no try in vain


async def send_wake(services: Services, partition: Partition, token: str, tries: int, delay_seconds: int) -> None:
    """Have the burst looked at after `delay_seconds`, if `token` is its wake token then."""
    body = {"scope": partition.scope, "workflow_id": partition.workflow_id, "wake": token, "tries": tries}
    await services.queue.send(QUEUE_FILE_SYNC, body, delay_seconds)
