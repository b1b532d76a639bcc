"""A workflow's lock: a run holds it from its start to its end, so that only one run of a workflow is active.

It is created in the transaction that creates the run and deleted in the one that ends it, never before. Its owner is the
grant: run id and epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.errors import NotFound
from shared.executions import RunRef
from shared.ids import from_text, now, to_text
from shared.names import LOCK_ID, DocumentType
from shared.store.port import Document, DocumentStore, FieldIn, Patch


def _expiry(lease_seconds: float) -> str:
    return to_text(datetime.now(UTC) + timedelta(seconds=lease_seconds))


def new_lock(run_id: str, lease_seconds: float) -> Document:
    """The lock document of a run that starts."""
    return {
        "id": LOCK_ID,
        "type": DocumentType.LOCK,
        "run_id": run_id,
        "epoch": 1,
        "acquired_at": now(),
        "expires_at": _expiry(lease_seconds),
    }


def renewal(ref: RunRef, lease_seconds: float) -> Patch:
    """The operation that renews the lease, if this run still owns the lock."""
    mine = (FieldIn("run_id", (ref.run_id,)), FieldIn("epoch", (ref.epoch,)))
    return Patch(LOCK_ID, set={"expires_at": _expiry(lease_seconds)}, when=mine)


async def owned(store: DocumentStore, ref: RunRef) -> Document | None:
    """The lock, if `ref` owns it (a forced settle raises its epoch, so an older epoch of the run counts)."""
    try:
        lock = await store.get(ref.partition, LOCK_ID)
    except NotFound:
        return None
    return lock if lock["run_id"] == ref.run_id and lock["epoch"] <= ref.epoch else None


def due_for_renewal(lock: Document, lease_seconds: float) -> bool:
    """Whether less than half of the lease is left."""
    return from_text(lock["expires_at"]) - datetime.now(UTC) < timedelta(seconds=lease_seconds / 2)
