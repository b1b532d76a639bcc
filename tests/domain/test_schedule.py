"""What schedules start, skip and leave alone, on a clock that the test holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import workflows
from shared.errors import Problem
from shared.executions import run_ref
from shared.ids import derived_ulid, from_text, now, to_text
from shared.names import CancelSource
from shared.scheduler import MAX_SLOTS, SCHEDULER, run_due
from shared.store.port import Delete, Document, Patch
from tests.support.orchestrations import FakeOrchestrations
from tests.support.schedules import (
    ECHO,
    active,
    every,
    next_run_at,
    partition_of,
    runs_of,
    scheduled,
    statuses,
    workflow_of,
)
from tests.support.world import World, open_world

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOURLY = every(1, "hours")


def at(**after: float) -> datetime:
    """A moment after noon."""
    return NOON + timedelta(**after)


async def finish(world: World, workflow: Document) -> str:
    """Drive the active run to its end."""
    ref = await active(world, workflow)
    return await world.drive(ref)


async def edit(world: World, workflow: Document, **changes: Any) -> Document:
    """Change the definition, as its author does."""
    return await workflows.change(world.services, partition_of(workflow), changes, None, merge=True)


async def test_a_slot_starts_one_run_and_the_plan_moves_on(world: World) -> None:
    """Guards the plain course: not before its time, once, by the schedule's identity, with its slot as the key."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(minutes=59, seconds=59))
    assert await runs_of(world, workflow) == []
    for seconds in (0, 10, 20):
        await run_due(world.services, host, at(hours=1, seconds=seconds))
    run = (await runs_of(world, workflow))[0]
    assert host.started == [run["id"]]
    assert (run["status"], run["requested_by"]) == ("queued", SCHEDULER)
    assert run["trigger"] == {"kind": "schedule", "key": "2026-03-28T13:00:00.000Z"}
    assert await next_run_at(world, workflow) == at(hours=2)
    assert await finish(world, workflow) == "completed"
    await run_due(world.services, host, at(hours=2, seconds=3))
    assert await statuses(world, workflow, NOON) == {3600: "completed", 7200: "queued"}
    assert await next_run_at(world, workflow) == at(hours=3)


async def test_a_cron_slot_follows_the_clocks_of_its_zone(world: World) -> None:
    """Guards that the plan is kept in the workflow's zone over the night in which its clocks change."""
    cron = {"kind": "schedule", "cron": "0 7 * * *", "time_zone": "Europe/Paris"}
    host, workflow = FakeOrchestrations(), await scheduled(world, cron, NOON)
    for expected in (datetime(2026, 3, 29, 5, tzinfo=UTC), datetime(2026, 3, 30, 5, tzinfo=UTC)):
        assert await next_run_at(world, workflow) == expected
        await run_due(world.services, host, expected)
        assert await finish(world, workflow) == "completed"


async def test_a_busy_workflow_gets_a_skipped_run_that_says_so(world: World) -> None:
    """Guards that a slot is neither lost without a word nor kept for later, and doesn't disturb the active run."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(hours=1))
    await run_due(world.services, host, at(hours=2))
    running, skipped = await runs_of(world, workflow)
    assert skipped["status"] == "skipped"
    assert running["id"] in skipped["error"]["message"]
    assert (await workflow_of(world, workflow))["runtime"]["active_run_id"] == running["id"]
    assert await finish(world, workflow) == "completed"
    await run_due(world.services, host, at(hours=2, minutes=30))
    assert host.started == [running["id"]]


async def test_of_missed_slots_the_latest_runs_and_the_others_are_on_record(world: World) -> None:
    """Guards a start after a rest: one run, not one for each slot that was missed."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(hours=4, minutes=40))
    expected = {3600: "skipped", 7200: "skipped", 10800: "skipped", 14400: "queued"}
    assert await statuses(world, workflow, NOON) == expected
    assert "missed" in (await runs_of(world, workflow))[0]["error"]["message"]
    assert await next_run_at(world, workflow) == at(hours=5)
    await run_due(world.services, host, at(hours=4, minutes=41))
    assert await statuses(world, workflow, NOON) == expected


async def test_after_a_long_rest_few_slots_are_listed_and_say_since_when(world: World) -> None:
    """Guards the bound: a year of missed minutes makes no half million runs, and none is hidden without a word."""
    host, workflow = FakeOrchestrations(), await scheduled(world, every(1, "minutes"), NOON)
    await run_due(world.services, host, at(days=365))
    runs = await runs_of(world, workflow)
    assert [run["status"] for run in runs] == ["skipped"] * (MAX_SLOTS - 1) + ["queued"]
    assert "2026-03-28T12:01:00.000Z" in runs[0]["error"]["message"]
    assert await next_run_at(world, workflow) == at(days=365, minutes=1)


async def test_nothing_is_caught_up_when_the_settings_say_so(tmp_path: Path) -> None:
    """Guards the setting, and that a slot that is a little late is no missed one."""
    async with open_world(tmp_path, schedule_catch_up="false") as world:
        host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
        await run_due(world.services, host, at(hours=2, minutes=10))
        assert await statuses(world, workflow, NOON) == {3600: "skipped", 7200: "skipped"}
        await run_due(world.services, host, at(hours=3, minutes=1))
        assert (await statuses(world, workflow, NOON))[10800] == "queued"


async def test_a_start_that_fails_is_made_good_by_the_next_look(world: World) -> None:
    """Guards a slot's run against a Durable backend that is away: it waits, and then starts once."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    host.fails = RuntimeError("away")
    for seconds in (0, 10):
        await run_due(world.services, host, at(hours=1, seconds=seconds))
    assert (host.started, await statuses(world, workflow, NOON)) == ([], {3600: "queued"})
    host.fails = None
    await run_due(world.services, host, at(hours=1, seconds=20))
    assert len(host.started) == 1
    assert await next_run_at(world, workflow) == at(hours=2)


async def test_an_instance_that_was_terminated_is_not_started_anew(world: World) -> None:
    """Guards a terminate from the portal while the run waits to begin: the slot, looked at again, leaves it to reconcile."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(hours=1))
    host.states = dict.fromkeys(host.states, "Terminated")
    slot = Patch("workflow", set={"runtime.next_run_at": "2026-03-28T13:00:00.000Z"})
    await world.store.transact(partition_of(workflow), [slot])
    await run_due(world.services, host, at(hours=1, seconds=10))
    assert len(host.started) == 1


async def test_one_workflows_trouble_is_not_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Guards that a broken document stops no other schedule."""
    broken, fine = await scheduled(world, HOURLY, NOON), await scheduled(world, HOURLY, NOON)
    await world.store.transact(
        partition_of(broken),
        [Patch("workflow", set={"definition.trigger": {"kind": "schedule", "cron": "broken"}})],
    )
    await run_due(world.services, FakeOrchestrations(), at(hours=1))
    assert len(await runs_of(world, fine)) == 1
    assert broken["workflow_id"] in caplog.text


async def test_a_slot_whose_receipt_is_all_that_is_left_starts_nothing(world: World) -> None:
    """Guards that a removed run's slot, should it come again, starts nothing and doesn't hold up the schedule."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(hours=1))
    await finish(world, workflow)
    run = (await runs_of(world, workflow))[0]
    rewound = Patch("workflow", set={"runtime.next_run_at": run["trigger"]["key"]})
    await world.store.transact(partition_of(workflow), [Delete(run["id"]), rewound])
    await run_due(world.services, host, at(hours=1))
    assert (await runs_of(world, workflow), len(host.started)) == ([], 1)
    assert await next_run_at(world, workflow) == at(hours=2)


async def test_a_run_that_took_the_slots_id_does_not_hold_up_the_schedule(world: World) -> None:
    """Guards against a person who starts a run under the id that a slot's run would have: only that slot has none."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    slot = at(hours=1)
    taken = derived_ulid(slot, f"schedule:{workflow['scope']}:{workflow['workflow_id']}:{to_text(slot)}")
    assert await world.drive(await world.start(workflow, run_id=taken)) == "completed"
    for hours in (1, 2):
        await run_due(world.services, host, at(hours=hours))
    assert await statuses(world, workflow, NOON) == {7200: "queued"}


# What people change


async def test_a_workflow_plans_its_first_slot_when_it_is_saved(world: World) -> None:
    """Guards create, edit, disable and enable: the plan is always that of the trigger as it is."""
    before = now()
    workflow = await world.workflow(ECHO, trigger=HOURLY)
    planned = from_text(workflow["runtime"]["next_run_at"])
    assert planned == from_text(workflow["trigger_set_at"]) + timedelta(hours=1)
    assert planned >= from_text(before) + timedelta(hours=1)
    renamed = await edit(world, workflow, name="Another")
    assert renamed["runtime"]["next_run_at"] == workflow["runtime"]["next_run_at"]
    disabled = await edit(world, workflow, enabled=False)
    assert disabled["runtime"]["next_run_at"] is None
    enabled = await edit(world, workflow, enabled=True)
    assert enabled["runtime"]["next_run_at"] == workflow["runtime"]["next_run_at"]
    other = await edit(world, workflow, trigger={"every": {"value": 5, "unit": "days"}})
    assert from_text(other["runtime"]["next_run_at"]) - from_text(other["updated_at"]) == timedelta(days=5)
    manual = await edit(world, workflow, trigger={"kind": "manual", "every": None})
    assert manual["runtime"]["next_run_at"] is None
    off = await world.workflow(ECHO, trigger=HOURLY, enabled=False)
    assert off["runtime"]["next_run_at"] is None


async def test_an_interval_below_the_settings_is_refused_at_its_field(tmp_path: Path) -> None:
    """Guards TRUESTOP_SCHEDULE_MIN_SECONDS for both shapes, at create and at edit."""
    async with open_world(tmp_path, schedule_min_seconds="120") as world:
        workflow = await world.workflow(ECHO)
        for trigger, field in ((every(119, "seconds"), "every"), ({"kind": "schedule", "cron": "0,1 * * * *"}, "cron")):
            for attempt in (world.workflow(ECHO, trigger=trigger), edit(world, workflow, trigger=trigger)):
                with pytest.raises(Problem) as refused:
                    await attempt
                assert refused.value.errors[0]["field"] == f"trigger.{field}"
        await edit(world, workflow, trigger=every(2, "minutes"))


async def test_an_edit_while_a_run_is_active_plans_anew_and_leaves_the_run_alone(world: World) -> None:
    """Guards that the active run keeps its definition, and that its end doesn't bring the old plan back."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(hours=1))
    edited = await edit(world, workflow, trigger=every(1, "days"))
    run = (await runs_of(world, workflow))[0]
    assert run["definition"]["trigger"] == HOURLY
    assert await finish(world, workflow) == "completed"
    assert (await workflow_of(world, workflow))["runtime"]["next_run_at"] == edited["runtime"]["next_run_at"]


async def test_disabling_stops_the_schedule_and_not_the_active_run(world: World) -> None:
    """Guards what `enabled` means: nothing starts by itself; a person still may; what runs goes on."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await run_due(world.services, host, at(hours=1))
    await edit(world, workflow, enabled=False)
    await run_due(world.services, host, at(hours=5))
    assert len(await runs_of(world, workflow)) == 1
    assert await finish(world, workflow) == "completed"
    assert await next_run_at(world, workflow) is None
    by_hand = await world.start(await workflow_of(world, workflow))
    assert await world.drive(by_hand) == "completed"


async def test_a_deleted_workflow_is_forgotten(world: World) -> None:
    """Guards the look at a workflow that goes away."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON)
    await workflows.delete(world.services, partition_of(workflow), None)
    await run_due(world.services, host, at(hours=1))
    assert host.started == []


# What a cancel leaves behind


async def cancelled_slot(world: World, host: FakeOrchestrations, after_cancel: str) -> tuple[Document, Document]:
    """A workflow whose one o'clock run was cancelled."""
    workflow = await scheduled(world, HOURLY, NOON, after_cancel=after_cancel)
    await run_due(world.services, host, at(hours=1))
    ref = await active(world, workflow)
    return workflow, await world.cancel(ref)


async def test_next_slot_runs_after_a_cancel(world: World) -> None:
    """Guards the default."""
    host = FakeOrchestrations()
    workflow, _ = await cancelled_slot(world, host, "next_slot")
    assert await next_run_at(world, workflow) == at(hours=2)
    await run_due(world.services, host, at(hours=2))
    assert await statuses(world, workflow, NOON) == {3600: "cancelled", 7200: "queued"}


async def test_skip_next_skips_one_slot_and_no_more(world: World) -> None:
    """Guards `skip_next`: the skipped run says why, the slot after it runs."""
    host = FakeOrchestrations()
    workflow, cancelled = await cancelled_slot(world, host, "skip_next")
    for hours in (2, 3):
        await run_due(world.services, host, at(hours=hours))
    assert await statuses(world, workflow, NOON) == {3600: "cancelled", 7200: "skipped", 10800: "queued"}
    reason = (await runs_of(world, workflow))[1]["error"]["message"]
    assert cancelled["id"] in reason
    assert "skip_next" in reason
    assert (await workflow_of(world, workflow))["runtime"]["skip_next_after"] is None


async def test_skip_next_after_a_run_by_hand_skips_the_next_slot(world: World) -> None:
    """Guards that it is the cancel that counts, not what started the run."""
    host, workflow = FakeOrchestrations(), await scheduled(world, HOURLY, NOON, after_cancel="skip_next")
    await world.cancel(await world.start(workflow))
    await run_due(world.services, host, at(hours=1))
    await run_due(world.services, host, at(hours=2))
    assert await statuses(world, workflow, NOON) == {3600: "skipped", 7200: "queued"}


async def test_skip_next_counts_the_first_of_several_missed_slots(world: World) -> None:
    """Guards that after a rest the latest slot runs although a cancel came before the rest."""
    host = FakeOrchestrations()
    workflow, _ = await cancelled_slot(world, host, "skip_next")
    await run_due(world.services, host, at(hours=3))
    assert await statuses(world, workflow, NOON) == {3600: "cancelled", 7200: "skipped", 10800: "queued"}


async def test_a_new_trigger_forgets_the_slot_to_skip(world: World) -> None:
    """Guards a decision that came later than the cancel."""
    workflow, _ = await cancelled_slot(world, FakeOrchestrations(), "skip_next")
    edited = await edit(world, workflow, trigger=every(2, "hours"))
    assert edited["runtime"]["skip_next_after"] is None


async def test_disable_switches_the_workflow_off_with_the_cancelled_run(world: World) -> None:
    """Guards `disable`: in the very transaction that ends the run, told in an event, and with a new etag."""
    host = FakeOrchestrations()
    workflow, cancelled = await cancelled_slot(world, host, "disable")
    after = await workflow_of(world, workflow)
    assert (after["definition"]["enabled"], after["runtime"]["next_run_at"]) == (False, None)
    assert (after["revision"], after["runtime"]["status"]) == (workflow["revision"] + 1, "idle")
    types = [event["event_type"] for event in await world.events(run_ref(cancelled))]
    assert types[-2:] == ["workflow.disabled", "run.cancelled"]
    await run_due(world.services, host, at(hours=5))
    assert len(host.started) == 1


@pytest.mark.parametrize("source", [CancelSource.RECONCILE, CancelSource.PARENT])
@pytest.mark.parametrize("after_cancel", ["disable", "skip_next"])
async def test_a_cancel_that_nobody_meant_for_the_workflow_changes_no_schedule(
    world: World, source: CancelSource, after_cancel: str
) -> None:
    """Guards the schedule when the app gave a run up, or when its parent was cancelled."""
    workflow = await scheduled(world, HOURLY, NOON, after_cancel=after_cancel)
    await world.cancel(await world.start(workflow), source=source)
    after = await workflow_of(world, workflow)
    assert (after["definition"]["enabled"], after["runtime"]["skip_next_after"]) == (True, None)
    assert await next_run_at(world, workflow) == at(hours=1)


async def test_the_slot_of_a_cancelled_run_delivered_again_starts_nothing(tmp_path: Path) -> None:
    """Guards point 4: ten more deliveries of the very slot, before and after a restart of the host, start nothing."""
    host = FakeOrchestrations()
    slot = Patch("workflow", set={"runtime.next_run_at": "2026-03-28T13:00:00.000Z"})
    async with open_world(tmp_path) as world:
        workflow, cancelled = await cancelled_slot(world, host, "next_slot")
        for _ in range(5):
            await world.store.transact(partition_of(workflow), [slot])
            await run_due(world.services, host, at(hours=1, minutes=1))
    async with open_world(tmp_path) as world:
        for _ in range(5):
            await world.store.transact(partition_of(workflow), [slot])
            await run_due(world.services, host, at(hours=1, minutes=1))
        assert host.started == [cancelled["id"]]
        assert await statuses(world, workflow, NOON) == {3600: "cancelled"}
        assert await next_run_at(world, workflow) == at(hours=2)
        await run_due(world.services, host, at(hours=2))
        assert len(host.started) == 2
