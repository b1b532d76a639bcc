"""Retention: what has aged out goes, whole; what is active, or young, or still needed, stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from activities import lifecycle
from shared import keys, operator_log, workflows
from shared.errors import AlreadyProduced, NotFound, Problem, Unavailable
from shared.executions import RunRef
from shared.identity import Caller
from shared.names import DocumentType, EventType
from shared.outputs import load as load_output
from shared.permissions import KeyScope
from shared.queue_intake import REJECTED, reject
from shared.removal import remove_run
from shared.resume import Resume, resume_run
from shared.retention import retain
from shared.settings import SettingsError, load
from shared.starting import Start, skip_run
from shared.store.port import Delete, Document, Op, Partition, Patch, Query
from tests.domain.test_reconcile_crashes import Crash, CrashingStore
from tests.support.orchestrations import FakeOrchestrations
from tests.support.world import ALICE, RecordingStore, World, open_world

STEPS = (
    {"kind": "tool", "tool": "echo", "arguments": {"value": "x" * 20_000}},
    {"kind": "write_artifact", "path": "a.md", "content": "text"},
)
LATER = datetime.now(UTC) + timedelta(days=91)
MUCH_LATER = datetime.now(UTC) + timedelta(days=401)


async def documents(world: World, partition: Partition) -> list[tuple[str, str]]:
    """Every document of a partition: type and id."""
    found = [
        document
        for kind in DocumentType
        for document in (await world.store.query(Query(kind, partition, limit=1000))).items
    ]
    return sorted((one["type"], one["id"]) for one in found)


async def blobs(world: World) -> list[str]:
    """The names of the blobs of runs."""
    return [
        blob.name for prefix in ("outputs/", "artifacts/") for blob in (await world.services.blobs.list(prefix)).items
    ]


async def ended(world: World, run_id: str) -> RunRef:
    """A run that has completed, with a blob of an output and one of an artifact."""
    ref = await world.start(await world.workflow(*STEPS), run_id=run_id)
    assert await world.drive(ref) == "completed"
    return ref


async def test_a_run_that_ended_long_ago_goes_with_all_that_is_its_own(world: World) -> None:
    """Guards storage: documents and blobs of the run go; the workflow stays, and its receipt, which starts nothing."""
    old, young = await ended(world, "old"), await ended(world, "young")
    kept = await documents(world, young.partition)
    assert len(await blobs(world)) == 4
    recent = Patch("young", set={"ended_at": "2999-01-01T00:00:00.000Z"})
    await world.store.transact(young.partition, [recent])
    removed = await retain(world.services, FakeOrchestrations(), LATER)
    assert removed["runs"] == 1
    assert await documents(world, old.partition) == [("receipt", "receipt:manual:old"), ("workflow", "workflow")]
    assert await documents(world, young.partition) == kept
    assert len(await blobs(world)) == 2
    assert all("/young/" in name for name in await blobs(world))
    with pytest.raises(AlreadyProduced):
        await world.start(await world.store.get(old.partition, "workflow"), run_id="old")
    assert not (await retain(world.services, FakeOrchestrations(), LATER))["runs"]


async def test_nothing_of_an_active_run_goes_however_old_it_is(world: World) -> None:
    """Guards runs that wait for months: neither they nor their receipts age."""
    refs = [await world.start(await world.workflow(*STEPS), run_id=name) for name in ("queued", "running")]
    await lifecycle.begin(world.services, refs[1])
    before = [await documents(world, ref.partition) for ref in refs]
    removed = await retain(world.services, FakeOrchestrations(), MUCH_LATER)
    assert {kind: count for kind, count in removed.items() if count} == {"instances": 8}
    assert [await documents(world, ref.partition) for ref in refs] == before
    assert await world.drive(refs[1]) == "completed"


async def test_removing_an_active_run_does_nothing(world: World) -> None:
    """Guards the last line: whoever asks, nothing of an active run is removed, not even its blobs."""
    ref = await ended(world, "r")
    await world.store.transact(ref.partition, [Patch("r", set={"status": "running"})])
    before = await documents(world, ref.partition), await blobs(world)
    assert not await remove_run(world.services, await world.run(ref))
    assert (await documents(world, ref.partition), await blobs(world)) == before


async def test_a_run_that_a_kept_run_was_resumed_from_is_kept(world: World) -> None:
    """Guards outputs that a later run refers to."""
    old = await ended(world, "old")
    later = await world.start(await world.store.get(old.partition, "workflow"), run_id="later")
    await world.store.transact(later.partition, [Patch("later", set={"resumed_from": "old"})])
    assert not (await retain(world.services, FakeOrchestrations(), LATER))["runs"]
    await world.drive(later)
    for _ in range(2):
        await retain(world.services, FakeOrchestrations(), LATER)
    assert [kind for kind, _ in await documents(world, old.partition)] == ["receipt", "receipt", "workflow"]


@pytest.mark.parametrize("late", [False, True], ids=["before it is removed", "while it is removed"])
async def test_a_run_is_resumed_whole_or_not_at_all_while_retention_looks_at_it(tmp_path: Path, late: bool) -> None:
    """Guards a resumed run against outputs that go away under it: it starts first and they stay, or it never starts."""
    started: list[bool] = []

    async def before(ops: Sequence[Op]) -> None:
        if started or late is not any(isinstance(op, Delete) for op in ops):
            return
        started.append(False)
        start = Start("later", "later", None, ALICE)
        with suppress(Problem):
            await resume_run(world.services, ref.partition, workflow, run, start, Resume())
            started[0] = True

    async with open_world(tmp_path) as world:
        failing = {"kind": "tool", "tool": "read_document", "arguments": {"name": "none.txt"}}
        workflow = await world.workflow(STEPS[0], failing)
        ref = await world.start(workflow, run_id="old")
        assert await world.drive(ref) == "failed"
        run = await world.run(ref)
        store = RecordingStore(world.store)
        store.before = before
        removed = await retain(replace(world.services, store=store), FakeOrchestrations(), LATER)
        assert started == [not late]
        assert removed["runs"] == int(late)
        if not late:
            later = ref._replace(run_id="later")
            await world.drive(later)
            assert await load_output(world.services.blobs, (await world.executions(later))["s01"]) == "x" * 20_000
            assert (await world.run(ref))["removing"] is False


async def test_receipts_outlive_their_runs_and_go_at_last(world: World) -> None:
    """Guards both bounds: of a run that ran, and of one that was skipped. Cosmos DB is told the same by `ttl`."""
    ref = await ended(world, "old")
    workflow = await world.store.get(ref.partition, "workflow")
    skipped = Start("skipped", "skipped", None, ALICE, keys=("k",))
    await skip_run(world.services, ref.partition, workflow, skipped, "busy")
    for name in ("receipt:manual:old", "receipt:manual:k"):
        assert (await world.store.get(ref.partition, name))["ttl"] == 400 * 86400
    assert not (await retain(world.services, FakeOrchestrations(), LATER))["receipts"]
    assert (await retain(world.services, FakeOrchestrations(), MUCH_LATER))["receipts"] == 2
    assert await documents(world, ref.partition) == [("workflow", "workflow")]


async def test_records_of_rejected_messages_go_after_a_month(world: World) -> None:
    """Guards a store without a time to live of its own against whoever sends rubbish."""
    await reject(world.services, "run-requests", "rubbish", Problem(400, "malformed_json", "no JSON"))
    assert not (await retain(world.services, FakeOrchestrations()))["rejected"]
    assert (await retain(world.services, FakeOrchestrations(), LATER))["rejected"] == 1
    assert await documents(world, REJECTED) == []


async def test_records_of_keys_and_operators_go_when_their_time_is_over(world: World) -> None:
    """Guards a store without a time to live of its own; a key that is still good stays."""
    services, client = world.services, FakeOrchestrations()
    pia = Caller("pia", "Pia")
    _, text = await keys.make(services, pia, pia.scope, "k", [KeyScope.READ], 365)
    await keys.caller_of(services, text)
    await operator_log.note(services, EventType.OPERATOR_EXPORTED, pia.as_dict())
    month, years = datetime.now(UTC) + timedelta(days=31), datetime.now(UTC) + timedelta(days=800)
    assert not set(await retain(services, client)) & {"key_event", "operator_event"}
    assert (await retain(services, client, month))["key_event"] == 1  # the use
    removed = await retain(services, client, years)
    assert (removed["key_event"], removed["operator_event"]) == (1, 1)
    assert [one["name"] for one in await keys.of_scope(services, pia.scope)] == ["k"]


def test_receipts_must_be_kept_for_longer_than_runs() -> None:
    """Guards against a setting that lets a late trigger start a run again."""
    with pytest.raises(SettingsError, match="TRUESTOP_RECEIPT_DAYS must be more than TRUESTOP_RETENTION_DAYS"):
        load({"TRUESTOP_RETENTION_DAYS": "30", "TRUESTOP_RECEIPT_DAYS": "30"})


async def test_all_of_a_deleted_workflow_goes_also_what_came_late(world: World) -> None:
    """Guards blobs, and the writes of an operation that was given up when its workflow was deleted."""
    ref = await ended(world, "old")
    await workflows.delete(world.services, ref.partition, None)
    assert await documents(world, ref.partition) == [("tombstone", "deleted")]
    assert len(await blobs(world)) == 2
    await world.services.blobs.put(f"outputs/{ref.scope}/{ref.workflow_id}/old/s01.9", b"late", "text/plain")
    assert not (await retain(world.services, FakeOrchestrations()))["workflows"]
    soon = datetime.now(UTC) + timedelta(hours=2)
    assert (await retain(world.services, FakeOrchestrations(), soon))["workflows"] == 1
    assert await documents(world, ref.partition) == []
    assert await blobs(world) == []


async def test_a_deletion_that_died_is_finished(world: World) -> None:
    """Guards a crash after the workflow's document had gone: what it left is found by its tombstone."""
    ref = await ended(world, "old")
    dying = replace(world.services, store=CrashingStore(world.store, 1, True))
    with pytest.raises(Crash):
        await workflows.delete(dying, ref.partition, None)
    assert len(await documents(world, ref.partition)) > 3
    await retain(world.services, FakeOrchestrations(), datetime.now(UTC) + timedelta(hours=2))
    assert await documents(world, ref.partition) == []


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
async def test_a_pass_that_dies_is_made_good_by_the_next(tmp_path: Path, after: bool) -> None:
    """Guards every place between two writes: the run's document goes last, so nothing is left that nobody finds."""
    for at in range(1, 20):
        async with open_world(tmp_path / str(at)) as world:
            ref = await ended(world, "old")
            died = False
            try:
                dying = replace(world.services, store=CrashingStore(world.store, at, after))
                await retain(dying, FakeOrchestrations(), MUCH_LATER)
            except Crash:
                died = True
            await retain(world.services, FakeOrchestrations(), MUCH_LATER)
            assert await documents(world, ref.partition) == [("workflow", "workflow")]
            assert await blobs(world) == []
            if not died:
                return
    raise AssertionError("over 20 writes")


async def test_two_passes_at_once_remove_all_and_fail_at_nothing(world: World) -> None:
    """Guards timers that overlap."""
    refs = [await ended(world, f"old{number}") for number in range(4)]
    passes = (retain(world.services, FakeOrchestrations(), LATER) for _ in range(3))
    await asyncio.gather(*passes)
    for ref in refs:
        assert [kind for kind, _ in await documents(world, ref.partition)] == ["receipt", "workflow"]


async def test_a_pass_without_time_removes_one_batch_and_the_next_ones_the_rest(world: World, monkeypatch: Any) -> None:
    """Guards bounded passes: a lot that ages out at once doesn't hold up the app."""
    monkeypatch.setattr("shared.retention.PAGE", 2)
    refs = [await ended(world, f"old{number}") for number in range(5)]
    counts = [(await retain(world.services, FakeOrchestrations(), LATER, seconds=0))["runs"] for _ in range(4)]
    assert counts == [2, 2, 1, 0]
    for ref in refs:
        with pytest.raises(NotFound):
            await world.store.get(ref.partition, ref.run_id)


async def test_what_died_in_a_put_and_messages_that_nobody_read_are_tidied_away(world: World, tmp_path: Path) -> None:
    """Guards the folder of local blobs and the blobs of dropped messages; what is young stays."""
    temporary = tmp_path / "blobs" / ".tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    for name, age in (("dead", 7200), ("at-work", 10)):
        (temporary / name).write_bytes(b"x")
        moment = datetime.now(UTC).timestamp() - age
        os.utime(temporary / name, (moment, moment))
    await world.services.blobs.put("messages/q/1.json", b"{}", "application/json")
    assert not (await retain(world.services, FakeOrchestrations()))["messages"]
    assert [file.name for file in temporary.iterdir()] == ["at-work"]
    in_nine_days = datetime.now(UTC) + timedelta(days=9)
    assert (await retain(world.services, FakeOrchestrations(), in_nine_days))["messages"] == 1


async def test_durable_history_is_purged_in_windows_up_to_the_cutoff(world: World) -> None:
    """Guards the task hub: all that is older than the cutoff, nothing younger, never in one request for all time."""
    durable = FakeOrchestrations()
    assert (await retain(world.services, durable, LATER))["instances"] == len(durable.purged)
    assert len(durable.purged) > 2
    assert durable.purged[0][0].year == 2020
    assert durable.purged[-1][1] == LATER - timedelta(days=90)
    assert [since for since, _ in durable.purged[1:]] == [until for _, until in durable.purged[:-1]]


async def test_a_durable_extension_that_is_away_does_not_stop_the_rest(world: World) -> None:
    """Guards the order of parts: the store's own matters don't wait for Durable Functions."""
    await ended(world, "old")
    durable = FakeOrchestrations()
    durable.fails = Exception("unexpected status code 503")
    assert (await retain(world.services, durable, LATER))["runs"] == 1


async def test_a_run_that_can_not_be_removed_does_not_stop_the_others(world: World) -> None:
    """Guards the pass: trouble with one run is that run's."""
    refs = [await ended(world, name) for name in ("bad", "good")]
    store = RecordingStore(world.store)

    async def before(ops: Sequence[Op]) -> None:
        if any(getattr(op, "id", "") == "bad" for op in ops):
            raise Unavailable("away")

    store.before = before
    await retain(replace(world.services, store=store), FakeOrchestrations(), LATER)
    kept: Document = await world.store.get(refs[0].partition, "bad")
    assert kept["status"] == "completed"
    with pytest.raises(NotFound):
        await world.store.get(refs[1].partition, "good")
