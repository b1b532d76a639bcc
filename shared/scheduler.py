"""Starts what schedules have due. Two at once, or one that dies anywhere, start each slot once and lose none.

For each workflow whose `next_run_at` has come:

1. Each due slot makes one run, whose id is derived from the slot: the latest is started, older ones were missed and are
   recorded as `skipped`; so is one that finds the workflow busy. Every such write is guarded on the workflow being as it was
   read, so that an edit or a disable is never overtaken.
2. The run's instance is started, as long as the run is queued: a delivery that died before that is made good by the next.
3. Only then `next_run_at` moves on, if it is still what was read. Until then the slot is found again, and its run with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.errors import AlreadyProduced, ConditionFailed, NoLongerDue, NotFound, Problem, StoreError
from shared.ids import derived_ulid, from_text, to_text
from shared.names import WORKFLOW_ID, DocumentType, TriggerKind
from shared.orchestration import InstanceState, Orchestrations, instance_of, start_instance
from shared.schedule import latest_slots, next_slot
from shared.services import Services
from shared.starting import Start, skip_run, start_run
from shared.states import RunStatus
from shared.store.port import Compare, Document, FieldIn, Partition, Patch, Query
from shared.triggers import ScheduleTrigger, parse_trigger

log = logging.getLogger(__name__)

SCHEDULER = {"id": "schedule", "name": "Schedule"}
"""Who requested a slot's run."""
MAX_SLOTS = 10
"""Slots of one workflow that one look at it turns into runs: the latest ones."""
MISSED_AFTER = timedelta(minutes=2)
"""A slot that is later than this was missed. A start of the app, or a busy moment, takes less."""
PAGE, MAX_PAGES = 50, 20
"""Workflows served at a time, and how often in one pass. The most overdue come first; the next pass goes on."""


async def run_due(services: Services, orchestrations: Orchestrations, now: datetime) -> None:
    """Start or skip every slot that is due at `now`. Raises `StoreError` when it can't look; logs what fails of one."""
    after: str | None = None
    for _ in range(MAX_PAGES):
        # A workflow that is disabled, or has no schedule, has no `next_run_at`.
        due = Compare("runtime.next_run_at", "<=", to_text(now))
        page = await services.store.query(
            Query(DocumentType.WORKFLOW, None, (due,), order_by="runtime.next_run_at", limit=PAGE, after=after)
        )
        await asyncio.gather(*(_serve(services, orchestrations, workflow, now) for workflow in page.items))
        after = page.next
        if after is None:
            return
    log.warning("over %d workflows are due; the rest waits for the next look", PAGE * MAX_PAGES)


async def _serve(services: Services, orchestrations: Orchestrations, workflow: Document, now: datetime) -> None:
    """Serve one workflow, whose trouble is not the others'."""
    name = f"{workflow['scope']}/{workflow['workflow_id']}"
    try:
        await _Visit(services, orchestrations, workflow, now).serve()
    except NoLongerDue:
        log.debug("workflow %s changed under its schedule; the next look sees how it is now", name)
    except StoreError as error:
        log.warning("the schedule of workflow %s waits for the next look: %s", name, error)
    except Exception:
        log.exception("the schedule of workflow %s failed", name)


@dataclass(slots=True)
class _Visit:
    """One look at a workflow that is due."""

    services: Services
    orchestrations: Orchestrations
    workflow: Document
    now: datetime

    @property
    def partition(self) -> Partition:
        return Partition(self.workflow["scope"], self.workflow["workflow_id"])

    def unchanged(self) -> tuple[FieldIn, ...]:
        """The plan that was read, and the trigger that it came from."""
        due, revision = self.workflow["runtime"]["next_run_at"], self.workflow["revision"]
        return FieldIn("runtime.next_run_at", (due,)), FieldIn("revision", (revision,))

    async def serve(self) -> None:
        """Turn the due slots into runs, and move on."""
        trigger = parse_trigger(self.workflow["definition"]["trigger"])
        assert isinstance(trigger, ScheduleTrigger)  # nothing else has a next run
        anchor = from_text(self.workflow["trigger_set_at"])
        first = from_text(self.workflow["runtime"]["next_run_at"])
        slots = latest_slots(trigger, anchor, first, self.now, MAX_SLOTS)
        cancelled: str | None = self.workflow["runtime"]["skip_next_after"]
        for slot, missed in self._missed(first, slots):
            reason = missed
            if cancelled is not None:
                reason = f"run {cancelled} was cancelled, and after_cancel is skip_next"
            run, created = await self._run_of(slot, reason)
            if cancelled is not None and run is not None and (run["error"] or {}).get("message") == reason:
                cancelled = None
            if run is not None and run["status"] == RunStatus.QUEUED and not await self._started(run, created):
                return
        await self._move_on(next_slot(trigger, anchor, slots[-1] if slots else first), cancelled)

    def _missed(self, first: datetime, slots: list[datetime]) -> Iterator[tuple[datetime, str | None]]:
        """Each slot, and why it was missed if it was: the latest isn't, unless it is late and nothing shall be caught up."""
        for slot in slots:
            late = self.now - slot > MISSED_AFTER and not self.services.settings.schedule_catch_up
            if slot == slots[-1] and not late:
                yield slot, None
            elif slot == slots[0] != first:
                yield slot, f"missed, as were the slots from {to_text(first)} to this one, which are not listed"
            else:
                yield slot, "missed: nothing looked at the schedule in time"

    async def _run_of(self, slot: datetime, reason: str | None) -> tuple[Document | None, bool]:
        """The slot's run: started, or skipped for a reason, or what became of it before (None: it is no longer kept).

        Also whether it was accepted just now.
        """
        key = to_text(slot)
        run_id = derived_ulid(slot, f"schedule:{self.partition.scope}:{self.partition.workflow_id}:{key}")
        skipped = FieldIn("runtime.skip_next_after", (self.workflow["runtime"]["skip_next_after"],))
        guard = (*self.unchanged(), skipped)
        start = Start(run_id, run_id, None, SCHEDULER, TriggerKind.SCHEDULE, (key,), when=guard)
        try:
            return await self._start_or_skip(start, reason)
        except AlreadyProduced:
            return None, False
        except Problem as problem:
            if problem.code == "workflow_not_found":
                raise NoLongerDue from None
            log.warning("slot %s of workflow %s has no run: %s", key, self.partition.workflow_id, problem)
            return None, False

    async def _start_or_skip(self, start: Start, reason: str | None) -> tuple[Document, bool]:
        if reason is None:
            try:
                return await start_run(self.services, self.partition, self.workflow, start)
            except Problem as problem:
                if problem.code not in ("workflow_busy", "workflows_off"):
                    raise
                reason = f"busy: {problem.detail}" if problem.code == "workflow_busy" else problem.detail
        return await skip_run(self.services, self.partition, self.workflow, start, reason), False

    async def _started(self, run: Document, created: bool) -> bool:
        """Start the instance of a queued run. False: it must be tried again, unless another one was quicker.

        One that was accepted before may have its instance, even one that was terminated: that is for `reconcile`.
        """
        if not created and (await instance_of(self.orchestrations, run)).state != InstanceState.MISSING:
            return True
        try:
            await start_instance(self.orchestrations, run)
        except Exception as error:
            log.warning("run %s waits for the next look to start it: %s", run["id"], error)
            return False
        return True

    async def _move_on(self, slot: datetime | None, cancelled: str | None) -> None:
        """Plan the next slot. `cancelled`: what still makes the next one skipped."""
        changes: dict[str, Any] = {"runtime.next_run_at": to_text(slot) if slot is not None else None}
        guard = self.unchanged()
        read = self.workflow["runtime"]["skip_next_after"]
        if read is not None and cancelled is None:
            changes["runtime.skip_next_after"] = None
            guard += (FieldIn("runtime.skip_next_after", (read,)),)
        try:
            await self.services.store.transact(self.partition, [Patch(WORKFLOW_ID, set=changes, when=guard)])
        except (ConditionFailed, NotFound):
            log.debug("workflow %s was planned anew, or is gone", self.partition.workflow_id)
