"""The domain on Cosmos DB: the promise is made of this store's transactions, so it is tried once with the whole of it."""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from activities import lifecycle
from shared import groups, workflows
from shared.deliveries import sweep
from shared.errors import Problem
from shared.executions import RunRef
from shared.file_bursts import LOST_SECONDS, wake_lost_bursts
from shared.file_sync import Arrival
from shared.identity import Caller
from shared.names import DocumentType
from shared.permissions import Role
from shared.reconcile import reconcile
from shared.retention import retain
from shared.scheduler import run_due
from shared.states import ACTIVE_RUN
from shared.store.port import FieldIn, Query
from tests.cosmos_double import faults
from tests.cosmos_double.fixtures import cosmos_server, double  # noqa: F401
from tests.cosmos_double.server import Double
from tests.domain.test_cancel import assert_cancelled_whole
from tests.domain.test_webhooks import deliver, woken
from tests.support.agents import Play, agent, calls, results, sub_agent
from tests.support.inbox import inbox_of
from tests.support.live import Reader, race, reader
from tests.support.orchestrations import FakeOrchestrations
from tests.support.receiver import receiving
from tests.support.schedules import active, every, scheduled, statuses, workflow_of
from tests.support.waiting import eventually
from tests.support.world import Script, World, at_once, open_world, streaming

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}


def world_on(
    double: Double, directory: Path, script: Script = at_once, **more: str
) -> AbstractAsyncContextManager[World]:
    # Seconds of fence, not parts of one: each write here is a request and an answer.
    settings = {"store": "cosmos", "cosmos_endpoint": double.endpoint, "cosmos_key": double.key, "fence_seconds": "4"}
    return open_world(directory, script, **settings, **more)


async def test_a_run_completes(double: Double, tmp_path: Path) -> None:
    async with world_on(double, tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO, MODEL, ECHO))
        assert await world.drive(ref) == "completed"
        run = await world.run(ref)
        assert (run["counts"]["completed"], run["in_flight"]) == (run["counts"]["total"], 0)
        assert await world.idle(ref)


async def test_a_run_is_followed_live(double: Double, tmp_path: Path) -> None:
    """Guards the feed's position and the tokens within a page, which this store makes in its own way."""
    async with world_on(double, tmp_path, streaming()) as world:
        ref = await world.start(await world.workflow(ECHO, MODEL, ECHO))
        first = await reader(world, ref.partition, ref.run_id)
        status, _ = await asyncio.gather(world.drive(ref), first.to_the_end())
        told, whole = [event.data["id"] for event in first.events], [one["id"] for one in await world.events(ref)]
        assert status == "completed"
        assert [one for one in told if one in whole] == whole[1:], "what began before the token came before"
        for index in range(0, len(first.events), 7):
            late = Reader(world, ref.partition, first.events[index].id, ref.run_id)
            await late.to_the_end()
            assert [one for one in late.ids if one in whole] == [one for one in told[index + 1 :] if one in whole]


async def test_live_readers_of_two_processes_see_the_same_feed(double: Double, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with (
        world_on(double, tmp_path / "a", poll_seconds="0.02") as here,
        world_on(double, tmp_path / "b", poll_seconds="0.02") as there,
    ):
        await race(here, there, random.Random(seed), writes=8)


async def test_groups_are_found_guarded_and_read_where_writes_are_judged(double: Double, tmp_path: Path) -> None:
    """Guards the query by membership over all partitions, the last Owner, and the read before an accept."""
    async with world_on(double, tmp_path) as world:
        owner, services = Caller("olga", "Olga"), world.services
        group_id = (await groups.create(services, owner, "A group"))["group_id"]
        await groups.set_member(services, owner, group_id, "adam", Role.OWNER, None)
        found = (await groups.of_member(services, "adam")).items
        assert [one["group_id"] for one in found] == [group_id]
        leaving = (groups.remove_member(services, Caller(who, who), group_id, who) for who in ("olga", "adam"))
        done = await asyncio.gather(*leaving, return_exceptions=True)
        assert sum(isinstance(one, Problem) and one.code == "last_owner" for one in done) == 1, done
        (owner_left,) = (await groups.read_at_accept(services, group_id))["members"]
        assert owner_left["role"] == Role.OWNER
        await groups.delete(services, Caller(owner_left["id"], ""), group_id)
        assert not (await groups.of_member(services, owner_left["id"])).items


async def test_a_runs_end_reaches_its_webhook_and_secrets_change_with_the_definition(
    double: Double, tmp_path: Path
) -> None:
    """Guards the sweep's query over all partitions, and the guarded writes of deliveries and secrets."""
    async with receiving() as receiver, world_on(double, tmp_path, webhook_allow_private="true") as world:
        workflow = await world.workflow(ECHO, notifications=[receiver.settings("run.completed")])
        ref = await world.start(workflow)
        assert await world.drive(ref) == "completed"
        assert len(await woken(world)) == 1  # lost
        other = {**receiver.settings("notify"), "name": "other"}
        both = {"notifications": [receiver.settings("run.completed"), other]}
        await workflows.change(world.services, ref.partition, both, None, merge=True)
        assert await sweep(world.services, datetime.now(UTC) + timedelta(minutes=2)) == 1
        assert await deliver(world) == ["delivered"]
        (message,) = receiver.messages()
        assert message["data"]["run_id"] == ref.run_id


async def test_a_stream_is_cancelled(double: Double, tmp_path: Path) -> None:
    async with world_on(double, tmp_path, streaming(10_000)) as world:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        assert (await world.cancel(ref))["status"] == "cancelling"
        assert await asyncio.wait_for(driving, 20) == "cancelled"
        assert world.model.open == 0
        await assert_cancelled_whole(world, ref)


async def test_a_stream_is_cancelled_while_requests_go_wrong(double: Double, tmp_path: Path) -> None:
    """Lost answers, throttling and lagging reads, in a run's whole life: it still ends once, and agrees with itself."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    kinds = [
        faults.cut(True),
        faults.status(503, True),
        faults.status(449),
        faults.throttled(0.01),
        faults.half_an_answer(),
    ]

    async def cancelled(world: World) -> RunRef:
        ref = await world.start(await world.workflow(MODEL, ECHO))
        driving = asyncio.create_task(world.drive(ref))
        await eventually(lambda: world.model.open)
        await world.cancel(ref)
        assert await asyncio.wait_for(driving, 20) == "cancelled"
        return ref

    async with world_on(double, tmp_path, streaming(10_000)) as world:
        for _ in range(3):
            double.trouble.plan("batch", *(dice.choice(kinds) if dice.random() < 0.4 else None for _ in range(40)))
            ref = await cancelled(world)
            double.trouble.clear()
            await assert_cancelled_whole(world, ref)


async def test_an_agent_with_a_sub_agent_reads_its_turns_and_is_cancelled(double: Double, tmp_path: Path) -> None:
    """Guards the query of an agent's nodes by their parent, containers, and side effects on record, on this store."""
    echo, letter = ("echo", {"value": "kept"}), ("write_artifact", {"path": "a.md", "content": "x"})
    turns: list[Any] = [calls(echo, ("helper", {"input": "x"})), calls(echo), calls(("sleep", {"seconds": 60}))]
    play = Play(main=turns, helper=[calls(letter), "Helped."])
    step = agent(tools=["echo", "sleep"], agents=[sub_agent("helper", tools=["write_artifact"])])
    async with world_on(double, tmp_path, play.script) as world:
        ref = await world.start(await world.workflow(step))
        driving = asyncio.create_task(world.drive(ref))

        async def asleep() -> bool:
            return (await world.executions(ref)).get("s01.t03.c0", {}).get("status") == "running"

        await eventually(asleep)
        assert results(play.requests["main"][2]) == ["kept", "Helped.", "kept"]
        await world.cancel(ref)
        assert await asyncio.wait_for(driving, 20) == "cancelled"
        receipt = await assert_cancelled_whole(world, ref)
        assert [(one["kind"], one["what"], one["done"]) for one in receipt["side_effects"]] == [
            ("artifact", "a.md", True)
        ]


async def test_lost_runs_are_mended_and_old_ones_removed(double: Double, tmp_path: Path) -> None:
    """Reconcile and retention ask over all partitions: what they find and guard is the same on this store."""
    async with world_on(double, tmp_path) as world:
        before = await world.services.store.query(Query(DocumentType.RUN, None, (FieldIn("status", ACTIVE_RUN),)))
        assert before.items == [], "this test acts on every active run of the container"
        durable = FakeOrchestrations()
        refs = [await world.start(await world.workflow(ECHO)) for _ in range(3)]
        for ref, state in zip(refs, ("Terminated", "Failed", "Running"), strict=True):
            await lifecycle.begin(world.services, ref)
            durable.put(ref, state)
        done = await reconcile(world.services, durable)
        assert (done["repair.cancelled"], done["repair.ended"]) == (1, 1)
        assert [(await world.run(ref))["status"] for ref in refs] == ["cancelled", "failed", "running"]
        later = datetime.now(UTC) + timedelta(days=91)
        await retain(world.services, durable, later)
        kept = [await world.store.query(Query(DocumentType.RUN, ref.partition)) for ref in refs]
        assert [len(page.items) for page in kept] == [0, 0, 1]
        await world.cancel(refs[2])


async def test_a_schedule_runs_is_skipped_once_and_is_switched_off(double: Double, tmp_path: Path) -> None:
    """The look over all partitions, the guards on the plan, and the end that changes the workflow twice in one batch."""
    async with world_on(double, tmp_path) as world:
        noon, durable = datetime(2026, 3, 28, 12, tzinfo=UTC), FakeOrchestrations()
        workflow = await scheduled(world, every(1, "hours"), noon, after_cancel="skip_next")
        for hours in (1, 2):
            await asyncio.gather(*(run_due(world.services, durable, noon + timedelta(hours=hours)) for _ in range(2)))
            if hours == 1:
                await world.cancel(await active(world, workflow))
        await run_due(world.services, durable, noon + timedelta(hours=3))
        assert await statuses(world, workflow, noon) == {3600: "cancelled", 7200: "skipped", 10800: "queued"}
        last = await active(world, workflow)
        await workflows.change(world.services, last.partition, {"after_cancel": "disable"}, None, merge=True)
        assert await world.drive(last) == "completed"
        await run_due(world.services, durable, noon + timedelta(hours=4))
        revision = (await workflow_of(world, workflow))["revision"]
        await world.cancel(await active(world, workflow))
        after = await workflow_of(world, workflow)
        assert (after["definition"]["enabled"], after["runtime"]["next_run_at"]) == (False, None)
        assert (after["revision"], after["runtime"]["active_run_id"]) == (revision + 1, None)
        assert len(durable.started) == len(set(durable.started)) == 3


async def test_a_burst_of_files_is_one_run(double: Double, tmp_path: Path) -> None:
    """Guards the queries of bursts: the pending files in order, and the bursts of all partitions that lost their message."""
    async with world_on(double, tmp_path) as world:
        inbox = await inbox_of(world, tmp_path)
        await inbox.put("b.txt", "a.txt", "c.exe")
        await inbox.put("b.txt", data=b"newer")
        inbox.sent.clear()
        await inbox.later(LOST_SECONDS + 10)
        assert await wake_lost_bursts(world.services, inbox.now) == 1
        await inbox.later(10)
        (run,) = await inbox.runs()
        assert [(file["path"], file["size"]) for file in run["input"]["files"]] == [("b.txt", 5), ("a.txt", 4)]
        await inbox.drive_started()
        assert await inbox.deliver("a.txt") == Arrival.KNOWN
        assert await inbox.at_rest()
