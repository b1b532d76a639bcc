"""A run that was accepted and never started: `start_new` failed or its process died before it, or its instance failed.

Starting it again can't make two of it: the instance's id is the run's own, so Durable Functions refuses a second one
while the first is alive, and an instance that begins a run that isn't queued any more does nothing.
"""

from __future__ import annotations

import logging

from shared.errors import NotFound, StoreError
from shared.executions import run_ref
from shared.names import CancelSource, EventType
from shared.orchestration import InstanceState, instance_of, start_instance
from shared.repairs.work import Work, age, repair_event
from shared.states import RunStatus
from shared.store.port import Check, Document

log = logging.getLogger(__name__)


async def check(work: Work, run: Document) -> None:
    """Start `run` if it waits for too long and nothing will start it."""
    settings = work.services.settings
    waited = age(run["created_at"])
    if waited < settings.start_after_seconds:
        return
    instance = await instance_of(work.orchestrations, run)
    if instance.state == InstanceState.TERMINATED:
        await work.cancel(run, CancelSource.PORTAL, instance.said or "its orchestration was terminated")
        return
    if instance.state == InstanceState.ALIVE or run["parent"] is not None:
        return  # a child run is started by its parent's orchestration
    run = await work.again(run)
    if run["status"] != RunStatus.QUEUED:
        return  # the instance began it, and may have ended it, since it was listed
    hopeless = waited > settings.start_give_up_seconds
    if hopeless and instance.state != InstanceState.MISSING:
        await work.cancel(run, CancelSource.RECONCILE, f"its orchestration could not begin it: {instance.said}")
        return
    try:
        await start_instance(work.orchestrations, run)
    except Exception as error:
        # Its first starter may have been quicker after all; then the next pass finds it alive.
        log.warning("run %s was not started: %s", run["id"], error)
        if hopeless:
            await work.cancel(run, CancelSource.RECONCILE, "its orchestration could not be started")
        return
    await _tell(work, run, waited)


async def _tell(work: Work, run: Document, waited: float) -> None:
    repair = repair_event(run, EventType.REPAIR_STARTED, waited_seconds=round(waited))
    try:
        await work.services.store.transact(run_ref(run).partition, [Check(run["id"]), repair])
    except NotFound:
        pass  # removed meanwhile
    except StoreError as error:
        log.warning("run %s was started, which could not be told: %s", run["id"], error)
    work.count(run, EventType.REPAIR_STARTED, repair.document["data"])
