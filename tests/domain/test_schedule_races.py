"""Schedulers that race, die anywhere, or meet people: each slot has one run, and each run is started once."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest

from shared import workflows
from shared.errors import Problem
from shared.ids import from_text
from shared.names import WORKFLOW_ID
from shared.schedule import slots_after
from shared.scheduler import run_due
from shared.states import RunStatus
from shared.store.port import Document, Op, Patch
from shared.triggers import ScheduleTrigger, parse_trigger
from tests.support.orchestrations import FakeOrchestrations
from tests.support.schedules import (
    active,
    active_or_none,
    every,
    next_run_at,
    partition_of,
    runs_of,
    scheduled,
    statuses,
    workflow_of,
)
from tests.support.world import RecordingStore, World, open_world

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOURLY = every(1, "hours")
SEEDS = int(os.environ.get("TRUESTOP_TEST_RACES", "300")) // 5


def at(**after: float) -> datetime:
    """A moment after noon."""
    return NOON + timedelta(**after)


def slow(world: World, random_: random.Random) -> World:
    """`world`, each of whose writes waits for a random moment."""
    store = RecordingStore(world.store)

    async def before(ops: Sequence[Op]) -> None:
        for _ in range(random_.randrange(4)):
            await asyncio.sleep(random_.random() * 0.001)

    store.before = before
    return World(replace(world.services, store=store), world.model)


async def retire(world: World, workflow: Document) -> None:
    """Take a workflow off its schedule, so that the next one of the test is alone."""
    await world.store.transact(partition_of(workflow), [Patch(WORKFLOW_ID, set={"runtime.next_run_at": None})])


async def assert_started_once(world: World, workflow: Document, host: FakeOrchestrations) -> None:
    """Every run that was to start was started, and no other; no instance twice."""
    due = [run["id"] for run in await runs_of(world, workflow) if run["status"] != RunStatus.SKIPPED]
    mine = {run["id"] for run in await runs_of(world, workflow)}
    assert sorted(one for one in host.started if one in mine) == sorted(due)


async def test_two_schedulers_at_once_start_each_slot_once(world: World) -> None:
    """Guards the plain race, with slots that were missed, at every order of their writes that the seeds find."""
    for seed in range(SEEDS):
        random_ = random.Random(seed)
        host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
        now = at(hours=random_.randint(1, 4), seconds=5)
        schedulers = [slow(world, random_) for _ in range(2)]
        await asyncio.gather(
            *(run_due(one.services, host, now + timedelta(seconds=i)) for i, one in enumerate(schedulers))
        )
        await run_due(world.services, host, now + timedelta(seconds=10))
        last = int((now - NOON) / timedelta(hours=1))
        expected = {3600 * hour: "skipped" for hour in range(1, last)} | {3600 * last: "queued"}
        assert await statuses(world, workflow, NOON) == expected, seed
        await assert_started_once(world, workflow, host)
        assert await next_run_at(world, workflow) == at(hours=last + 1)
        await retire(world, workflow)


async def test_nothing_starts_once_a_disable_is_answered(world: World) -> None:
    """Guards a person's "off" against a scheduler that has read the workflow already."""
    for seed in range(SEEDS):
        random_ = random.Random(seed)
        host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
        racing = slow(world, random_)
        looking = asyncio.create_task(run_due(racing.services, host, at(hours=1)))
        for _ in range(random_.randrange(6)):
            await asyncio.sleep(random_.random() * 0.001)
        await workflows.change(world.services, partition_of(workflow), {"enabled": False}, None, merge=True)
        then = await statuses(world, workflow, NOON)
        await looking
        assert await statuses(world, workflow, NOON) == then, seed
        assert await next_run_at(world, workflow) is None


def made_weekly(world: World, workflow: Document, edit_at: int) -> World:
    """`world`, in which `workflow` becomes weekly, with the same next slot, before the write of this number."""
    store, writes = RecordingStore(world.store), count()

    async def before(ops: Sequence[Op]) -> None:
        if next(writes) == edit_at:
            weekly = {"trigger": {"cron": "0 13 * * SAT"}}
            await workflows.change(world.services, partition_of(workflow), weekly, None, merge=True)
            same = Patch(WORKFLOW_ID, set={"runtime.next_run_at": workflow["runtime"]["next_run_at"]})
            await world.store.transact(partition_of(workflow), [same])

    store.before = before
    return World(replace(world.services, store=store), world.model)


async def test_an_edit_that_keeps_the_next_slot_is_never_overtaken(world: World) -> None:
    """Guards the plan against one computed from the trigger before: daily became weekly, with the same next slot."""
    host, daily = FakeOrchestrations(), {"kind": "schedule", "cron": "0 13 * * *"}
    for edit_at in range(2):  # before the start, before the plan moves on
        workflow = await scheduled(world, daily, NOON)
        edited = made_weekly(world, workflow, edit_at)
        await run_due(edited.services, host, at(hours=1))
        await run_due(world.services, host, at(hours=1, seconds=10))
        assert await next_run_at(world, workflow) == at(days=7, hours=1)
        assert await statuses(world, workflow, NOON) == {3600: "queued"}
        cron = (await runs_of(world, workflow))[0]["definition"]["trigger"]["cron"]
        assert cron == ("0 13 * * SAT" if edit_at == 0 else "0 13 * * *")


async def test_a_cancel_that_skips_the_next_slot_is_never_overtaken(world: World) -> None:
    """Guards `skip_next` against a scheduler that finds the cancelled run ending under it: one slot is left out, exactly."""
    for seed in range(SEEDS):
        random_ = random.Random(seed)
        host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON, after_cancel="skip_next")
        await run_due(world.services, host, at(hours=1))
        ref = await active(world, workflow)
        schedulers = [slow(world, random_) for _ in range(2)]

        cancel = slow(world, random_).cancel(ref)
        await asyncio.gather(cancel, *(run_due(one.services, host, at(hours=2)) for one in schedulers))
        cancelled = await world.run(ref)
        for hours in (2.01, 3, 4):
            await run_due(world.services, host, at(hours=hours))
        found = await runs_of(world, workflow)
        reasons = [(run["error"] or {}).get("message", "") for run in found]
        assert sum(cancelled["id"] in reason and "skip_next" in reason for reason in reasons) == 1, (seed, reasons)
        assert [run["status"] for run in found[:2]] == ["cancelled", "skipped"], seed
        assert "queued" in [run["status"] for run in found[2:]], seed
        await retire(world, workflow)


# Deaths


class Killed(BaseException):
    """The scheduler's process is gone."""


class Dying:
    """Kills a scheduler at its `point`-th step: before or after each write, and before or after each start."""

    def __init__(self, world: World, host: FakeOrchestrations, point: int) -> None:
        self._left, self._host, self._store = point, host, world.store
        self.world = World(replace(world.services, store=self), world.model)  # type: ignore[arg-type]
        self.died = False

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.died = True
            raise Killed

    async def transact(self, partition: Any, ops: Sequence[Op]) -> Any:
        self._step()
        result = await self._store.transact(partition, ops)
        self._step()
        return result

    async def get_status(self, instance_id: str) -> Any:
        return await self._host.get_status(instance_id)

    async def start_new(self, *given: Any) -> Any:
        self._step()
        result = await self._host.start_new(*given)
        self._step()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def prepared(world: World, host: FakeOrchestrations, case: str) -> tuple[Document, datetime]:
    """A workflow that is due, and when it is looked at."""
    workflow = await scheduled(world, HOURLY, NOON, after_cancel="skip_next")
    if case == "missed":
        return workflow, at(hours=3)
    if case in ("busy", "to skip"):
        await run_due(world.services, host, at(hours=1))
        ref = await active(world, workflow)
        if case == "to skip":
            await world.cancel(ref)
        return workflow, at(hours=2)
    return workflow, at(hours=1)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("plain", {1: "queued"}),
        ("missed", {1: "skipped", 2: "skipped", 3: "queued"}),
        ("busy", {1: "queued", 2: "skipped"}),
        ("to skip", {1: "cancelled", 2: "skipped"}),
    ],
)
async def test_a_scheduler_that_dies_anywhere_loses_no_slot_and_doubles_none(
    world: World, case: str, expected: dict[int, str]
) -> None:
    """Guards the order of the writes: whatever was done when it died, the next look ends with the same runs."""
    for point in count():
        host = FakeOrchestrations()
        workflow, now = await prepared(world, host, case)
        dying = Dying(world, host, point)
        try:
            await run_due(dying.world.services, dying, now)  # type: ignore[arg-type]
        except Killed:
            pass
        for seconds in (10, 20):
            await run_due(world.services, host, now + timedelta(seconds=seconds))
        hours = {seconds // 3600: status for seconds, status in (await statuses(world, workflow, NOON)).items()}
        assert hours == expected, point
        await assert_started_once(world, workflow, host)
        assert await next_run_at(world, workflow) == now + timedelta(hours=1)
        await retire(world, workflow)
        if not dying.died:
            assert point > 3
            return


async def test_a_slot_whose_run_was_cancelled_before_its_plan_moved_on_starts_nothing(world: World) -> None:
    """Guards point 4 at every death: the cancelled run stays, and the slot that `skip_next` leaves out is the one after."""
    for point in count():
        host = FakeOrchestrations()
        workflow = await scheduled(world, HOURLY, NOON, after_cancel="skip_next")
        dying = Dying(world, host, point)
        try:
            await run_due(dying.world.services, dying, at(hours=1))  # type: ignore[arg-type]
        except Killed:
            pass
        ref = await active_or_none(world, workflow)
        if ref is not None:
            await world.cancel(ref)
            for seconds in range(10):
                await run_due(world.services, host, at(hours=1, seconds=seconds))
            assert len(host.started) <= 1, point
            for hours in (2, 3):
                await run_due(world.services, host, at(hours=hours))
            expected = {3600: "cancelled", 7200: "skipped", 10800: "queued"}
            assert await statuses(world, workflow, NOON) == expected, point
        await retire(world, workflow)
        if not dying.died:
            assert ref is not None
            return


# Two hosts


async def live(world: World, workflow: Document, random_: random.Random) -> None:
    """What becomes of the active run before the next look: it ends, is cancelled, or works on."""
    ref = await active_or_none(world, workflow)
    fate = random_.random()
    if ref is None or fate < 0.3:
        return
    if fate < 0.5:
        try:
            await world.cancel(ref)
        except Problem as problem:
            assert problem.code == "run_already_finished"
        return
    await world.drive(ref)


async def test_two_hosts_on_one_store_for_ten_minutes_start_nothing_twice(tmp_path: Path) -> None:
    """Guards the whole: two hosts with stores of their own on one file, all kinds of schedules, runs that end or don't."""
    random_, host = random.Random(5), FakeOrchestrations()
    begin, minutes = NOON, 10
    triggers = [
        every(10, "seconds"),
        every(15, "seconds"),
        every(1, "minutes"),
        {"kind": "schedule", "cron": "*/2 * * * *"},
    ]
    async with open_world(tmp_path) as one, open_world(tmp_path) as other:
        planned = [
            await scheduled(one, trigger, begin, after_cancel=after)
            for trigger, after in zip(triggers, ("next_slot", "skip_next", "next_slot", "skip_next"), strict=True)
        ]
        hosts = [slow(one, random_), slow(other, random_)]
        for seconds in range(0, minutes * 60 + 1, 10):
            now = begin + timedelta(seconds=seconds)
            looks = [run_due(each.services, host, now + timedelta(seconds=random_.random())) for each in hosts]
            await asyncio.gather(*looks)
            await asyncio.gather(*(live(random_.choice(hosts), workflow, random_) for workflow in planned))
        assert len(host.started) == len(set(host.started))
        for workflow in planned:
            await check_slots(one, workflow, begin, begin + timedelta(minutes=minutes))
            await assert_started_once(one, workflow, host)


async def check_slots(world: World, workflow: Document, begin: datetime, end: datetime) -> None:
    """Every slot has one run, and at most one of them is active."""
    trigger = parse_trigger(workflow["definition"]["trigger"])
    assert isinstance(trigger, ScheduleTrigger)
    slots = list(takewhile(lambda slot: slot <= end, slots_after(trigger, begin, begin)))
    runs = await runs_of(world, workflow)
    assert [from_text(run["trigger"]["key"]) for run in runs] == slots
    assert sum(run["status"] not in ("skipped", "completed", "cancelled") for run in runs) <= 1
    assert (await workflow_of(world, workflow))["runtime"]["run_count"] == sum(
        run["status"] != "skipped" for run in runs
    )
