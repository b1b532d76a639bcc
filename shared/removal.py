"""Removing what a run or a workflow leaves behind: documents and blobs, in bounded transactions, safe to repeat.

The document that says what is to be removed (the run, or a deleted workflow's tombstone) goes last, so that a removal that
dies is found and finished by the next.
"""

from __future__ import annotations

from shared.errors import NotFound
from shared.ids import now
from shared.names import TOMBSTONE_ID, DocumentType
from shared.outputs import blob_prefixes
from shared.services import Services
from shared.states import TERMINAL_RUN
from shared.store.port import (
    MAX_OPERATIONS,
    Check,
    Create,
    Delete,
    Document,
    FieldIn,
    Op,
    Partition,
    Prefix,
    Query,
)

BLOB_PAGE = 500
LEFT_BEHIND = (
    DocumentType.LOCK,
    DocumentType.SECRETS,
    DocumentType.DELIVERY,
    DocumentType.EVENT,
    DocumentType.EXECUTION,
    DocumentType.RECEIPT,
    DocumentType.RUN,
    DocumentType.FILE,
    DocumentType.BURST,
)
"""What a deleted workflow leaves behind."""


async def remove_blobs(services: Services, prefix: str) -> None:
    """Delete every blob whose name begins with `prefix`."""
    while page := (await services.blobs.list(prefix, BLOB_PAGE)).items:
        for blob in page:
            await services.blobs.delete(blob.name)


async def remove_run(services: Services, run: Document) -> bool:
    """Remove a run that has ended, with its executions, events, deliveries and blobs. Its receipts stay.

    `run` as it was read: that it has ended never changes. Answers False, and does nothing, for one that has not.
    """
    if run["status"] not in TERMINAL_RUN:
        return False
    partition = Partition(run["scope"], run["workflow_id"])
    for prefix in blob_prefixes(*partition, run["id"]):
        await remove_blobs(services, prefix)
    parts = (
        Query(DocumentType.EXECUTION, partition, (Prefix("id", f"{run['id']}:"),)),
        Query(DocumentType.EVENT, partition, (Prefix("id", f"{run['id']}:"),)),
        Query(DocumentType.DELIVERY, partition, (FieldIn("run_id", (run["id"],)),)),
    )
    try:
        for part in parts:
            await _remove_all(services, part, Check(run["id"]))
        await services.store.transact(partition, [Delete(run["id"])])
    except NotFound:
        pass  # another removal was quicker
    return True


async def _remove_all(services: Services, query: Query, *guard: Op) -> None:
    """Delete all documents of a query within one partition, under `guard`. Raises what the guard raises."""
    assert isinstance(query.within, Partition)
    batch = Query(query.type, query.within, query.where, limit=MAX_OPERATIONS - len(guard))
    while found := (await services.store.query(batch)).items:
        ops: list[Op] = [*guard, *(Delete(document["id"]) for document in found)]
        try:
            await services.store.transact(query.within, ops)
        except NotFound as error:
            if error.op_index is not None and error.op_index < len(guard):
                raise
            # another removal was quicker with one of them: look again


def tombstone() -> Create:
    """What is left of a deleted workflow until all of it is gone. Written in the transaction that deletes it."""
    return Create({"id": TOMBSTONE_ID, "type": DocumentType.TOMBSTONE, "at": now()})


async def remove_history(services: Services, partition: Partition) -> None:
    """Remove all documents of a deleted workflow but its tombstone."""
    for kind in LEFT_BEHIND:
        await _remove_all(services, Query(kind, partition))


async def remove_rest(services: Services, partition: Partition) -> None:
    """Finish the removal of a deleted workflow: what late writers added, its blobs, and the tombstone."""
    await remove_history(services, partition)
    for prefix in blob_prefixes(*partition):
        await remove_blobs(services, prefix)
    try:
        await services.store.transact(partition, [Delete(TOMBSTONE_ID)])
    except NotFound:
        pass  # another removal was quicker
