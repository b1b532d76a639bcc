"""Notifications to webhooks: told once for each end of a run, signed, tried again, and never after a cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared import workflows
from shared.deliveries import sweep
from shared.errors import Unavailable
from shared.executions import RunRef
from shared.names import QUEUE_NOTIFICATIONS, DocumentType
from shared.queue_intake import REJECTED
from shared.queues import SqliteQueue
from shared.store.port import Document, Op, Partition, Patch, Query
from shared.webhooks import MAX_ATTEMPTS, WakeUp, attempt, handle
from tests.support.receiver import SECRET, Receiver, headers_of, receiving
from tests.support.world import RecordingStore, World, open_world

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
MISSING = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.x}}"}}
NOTIFY = {"kind": "notify", "subject": "Hello", "message": "World"}
RUN_ENDS = ("run.completed", "run.failed", "run.cancelled")


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose webhooks may go to this machine."""
    async with open_world(tmp_path, webhook_allow_private="true") as one:
        yield one


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


async def deliveries(world: World, ref: RunRef | Partition) -> list[Document]:
    """The deliveries of a workflow."""
    partition = ref.partition if isinstance(ref, RunRef) else ref
    return (await world.store.query(Query(DocumentType.DELIVERY, partition, limit=1000))).items


async def woken(world: World) -> list[WakeUp]:
    """The wake-ups on the queue, taken from it; delayed ones too."""
    assert world.services.database is not None
    queue = SqliteQueue(world.services.database)
    await queue.peek(QUEUE_NOTIFICATIONS)
    await world.services.database.write(
        lambda connection: connection.execute("UPDATE queue_messages SET visible_at = 0")
    )
    found = []
    for message in await queue.receive(QUEUE_NOTIFICATIONS, 60, 32):
        found.append(WakeUp.model_validate(json.loads(message.text)))
        await queue.delete(message)
    return found


async def deliver(world: World) -> list[str]:
    """Work on the queue until it is empty. Answers what each attempt came to."""
    outcomes: list[str] = []
    while messages := await woken(world):
        outcomes += [await attempt(world.services, message) for message in messages]
    return outcomes


async def test_each_end_of_a_run_is_told_once_and_verifies(world: World, receiver: Receiver) -> None:
    """Guards the whole way: the end, the queue, the signature that the specification's own library accepts."""
    hook = receiver.settings(*RUN_ENDS)
    completed = await world.start(await world.workflow(ECHO, notifications=[hook]))
    await world.drive(completed)
    failed = await world.start(await world.workflow(MISSING, notifications=[hook]))
    await world.drive(failed)
    cancelled = await world.start(await world.workflow(ECHO, notifications=[hook]))
    await world.cancel(cancelled, reason="enough")
    assert await world.drive(cancelled) == "cancelled"
    assert await deliver(world) == ["delivered"] * 3
    first, second, third = receiver.messages()
    assert (first["type"], first["data"]["run_id"]) == ("run.completed", completed.run_id)
    assert first["timestamp"] == (await world.run(completed))["ended_at"]
    assert (second["type"], second["data"]["error"]["code"]) == ("run.failed", "template_unknown_path")
    assert (third["type"], third["data"]["status"]) == ("run.cancelled", "cancelled")
    assert third["data"]["cancel"]["reason"] == "enough"
    assert third["data"]["cancel"]["acknowledged"] is True
    assert len(set(receiver.ids())) == 3
    (kept,) = await deliveries(world, completed)
    assert (kept["status"], kept["attempts"], kept["error"]) == ("delivered", 1, None)


async def test_only_webhooks_that_want_an_event_get_it(world: World, receiver: Receiver) -> None:
    """Guards the events of a webhook, and that a workflow without webhooks leaves nothing behind."""
    wanted = receiver.settings("run.failed"), receiver.settings("notify", name="people")
    ref = await world.start(await world.workflow(NOTIFY, notifications=list(wanted)))
    await world.drive(ref)
    quiet = await world.start(await world.workflow(NOTIFY))
    await world.drive(quiet)
    assert await deliver(world) == ["delivered"]
    (message,) = receiver.messages()
    assert (message["type"], message["data"]["subject"], message["data"]["message"]) == ("notify", "Hello", "World")
    assert await deliveries(world, quiet) == []


async def test_a_notify_step_that_is_tried_again_tells_once(world: World, receiver: Receiver) -> None:
    """Guards the operation whose process died after it recorded the delivery."""
    ref = await world.start(await world.workflow(NOTIFY, notifications=[receiver.settings("notify")]))
    store = RecordingStore(world.store)
    services = replace(world.services, store=store)

    async def cut(ops: Sequence[Op]) -> None:
        if any(isinstance(op, Patch) and op.set.get("status") == "completed" for op in ops):
            raise asyncio.CancelledError

    store.before = cut
    with pytest.raises(asyncio.CancelledError):
        await World(services, world.model).drive(ref)
    assert len(await deliveries(world, ref)) == 1
    assert await world.drive(ref) == "completed"
    assert len(await deliveries(world, ref)) == 1
    await deliver(world)
    assert len(set(receiver.ids())) == 1


async def test_no_notify_goes_out_after_a_cancel_was_accepted(world: World, receiver: Receiver) -> None:
    """Guards the promise for what a step handed over before the cancel and the queue still holds."""
    hooks = [receiver.settings("notify", "run.cancelled")]
    ref = await world.start(await world.workflow(NOTIFY, ECHO, notifications=hooks))
    store = RecordingStore(world.store)

    async def cancel_before_the_second_step(ops: Sequence[Op]) -> None:
        if any(getattr(op, "id", None) == f"{ref.run_id}:s02" for op in ops):
            store.before = None
            await world.cancel(ref)

    store.before = cancel_before_the_second_step
    await World(replace(world.services, store=store), world.model).drive(ref)
    assert (await world.run(ref))["status"] == "cancelled"
    assert sorted(await deliver(world)) == ["cancelled", "delivered"]
    assert [message["type"] for message in receiver.messages()] == ["run.cancelled"]
    assert {one["event"]: one["status"] for one in await deliveries(world, ref)} == {
        "notify": "cancelled",
        "run.cancelled": "delivered",
    }


async def ended(world: World, receiver: Receiver) -> RunRef:
    """A completed run whose end is to be told."""
    ref = await world.start(await world.workflow(ECHO, notifications=[receiver.settings(*RUN_ENDS)]))
    await world.drive(ref)
    return ref


async def test_a_receiver_that_is_away_is_tried_again_under_the_same_id(world: World, receiver: Receiver) -> None:
    """Guards retries: a new timestamp and signature, the same id, so that the receiver can drop a copy."""
    receiver.statuses = ["503 Busy", "302 Elsewhere", "404 Not Found"]
    receiver.headers = {"Location": f"{receiver.url}/elsewhere"}
    ref = await ended(world, receiver)
    assert await deliver(world) == ["retry", "retry", "retry", "delivered"]
    assert len(receiver.messages()) == 4
    assert len(set(receiver.ids())) == 1
    (kept,) = await deliveries(world, ref)
    assert (kept["status"], kept["attempts"]) == ("delivered", 4)


async def test_pauses_grow_and_a_receiver_may_ask_for_longer_ones(world: World, receiver: Receiver) -> None:
    """Guards a receiver that is overloaded."""
    receiver.statuses = ["500 Oops", "500 Oops", "429 Slow down"]
    ref = await ended(world, receiver)
    pauses = []
    for number in range(3):
        receiver.headers = {"Retry-After": "3000"} if number == 2 else {}
        before = datetime.now(UTC)
        (message,) = await woken(world)
        assert await attempt(world.services, message) == "retry"
        (kept,) = await deliveries(world, ref)
        pauses.append((datetime.fromisoformat(kept["due_at"]) - before).total_seconds())
    assert 4 <= pauses[0] < 16 <= pauses[1] < 3000 <= pauses[2]


async def test_after_the_last_attempt_the_delivery_is_a_dead_letter_with_its_reason(
    world: World, receiver: Receiver
) -> None:
    """Guards against endless attempts, and a person's question why nothing came."""
    receiver.statuses = ["500 Oops"] * (MAX_ATTEMPTS + 1)
    ref = await ended(world, receiver)
    assert await deliver(world) == ["retry"] * (MAX_ATTEMPTS - 1) + ["failed"]
    (kept,) = await deliveries(world, ref)
    assert (kept["status"], kept["error"]["code"]) == ("failed", "webhook_status")
    assert "answered 500" in kept["error"]["message"]
    assert "of-the-address" not in json.dumps(kept)
    assert len(receiver.requests) == MAX_ATTEMPTS


async def test_a_receiver_that_is_gone_is_left_alone(world: World, receiver: Receiver) -> None:
    """Guards 410, by which Standard Webhooks lets a receiver unsubscribe."""
    receiver.statuses = ["410 Gone"]
    ref = await ended(world, receiver)
    assert await deliver(world) == ["failed"]
    assert (await deliveries(world, ref))[0]["error"]["code"] == "webhook_gone"


async def test_a_removed_webhook_gets_nothing_more(world: World, receiver: Receiver) -> None:
    """Guards that address and secret are the workflow's present ones, also for what already waits."""
    ref = await ended(world, receiver)
    await workflows.change(world.services, ref.partition, {"notifications": None}, None, merge=True)
    assert await deliver(world) == ["failed"]
    assert (receiver.requests, (await deliveries(world, ref))[0]["error"]["code"]) == ([], "webhook_removed")


async def test_a_private_address_is_not_called(world: World, receiver: Receiver) -> None:
    """Guards the network: who may write a workflow may not reach what only this machine can."""
    ref = await ended(world, receiver)
    services = replace(world.services, settings=replace(world.services.settings, webhook_allow_private=False))
    (message,) = await woken(world)
    assert await attempt(services, message) == "failed"
    assert (receiver.requests, (await deliveries(world, ref))[0]["error"]["code"]) == ([], "webhook_forbidden_address")


async def test_a_receiver_that_says_nothing_is_given_up_in_time(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the function against a receiver that holds its connection."""
    monkeypatch.setattr("shared.webhooks.TIMEOUT_SECONDS", 0.2)
    receiver.silent = True
    ref = await ended(world, receiver)
    (message,) = await woken(world)
    assert await attempt(world.services, message) == "retry"
    assert (await deliveries(world, ref))[0]["error"]["code"] == "webhook_timeout"


async def test_a_message_delivered_again_sends_nothing_again(world: World, receiver: Receiver) -> None:
    """Guards at-least-once queues: copies of old messages are stale."""
    receiver.statuses = ["500 Oops"]
    await ended(world, receiver)
    (first,) = await woken(world)
    assert await attempt(world.services, first) == "retry"
    assert await attempt(world.services, first) == "stale"
    (second,) = await woken(world)
    assert await attempt(world.services, second) == "delivered"
    assert [await attempt(world.services, one) for one in (first, second)] == ["stale", "stale"]
    assert len(receiver.requests) == 2


async def test_an_attempt_that_broke_off_is_made_again_and_counted(world: World, receiver: Receiver) -> None:
    """Guards the process that died between the request and its record; and one that dies each time."""
    ref = await ended(world, receiver)
    (message,) = await woken(world)
    store = RecordingStore(world.store)
    services = replace(world.services, store=store)

    async def die(ops: Sequence[Op]) -> None:
        if any(isinstance(op, Patch) and "ended_at" in op.set for op in ops):
            raise Unavailable("the process died")

    store.before = die
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Unavailable):
            await attempt(services, message)
    assert await attempt(world.services, message) == "failed"
    assert len(receiver.requests) == MAX_ATTEMPTS
    assert (await deliveries(world, ref))[0]["status"] == "failed"


@pytest.mark.parametrize("text", ["", "[]", '{"scope": "user:alice"}', '{"id": "a", "subject": "of an older version"}'])
async def test_a_message_that_wakes_nothing_is_rejected_at_once(world: World, text: str) -> None:
    """Guards the queue against messages that nobody can work on; there is a record of each."""
    assert await handle(world.services, text) == "rejected"
    (record,) = (await world.store.query(Query(DocumentType.REJECTED, REJECTED))).items
    assert (record["queue"], record["message"]) == (QUEUE_NOTIFICATIONS, text)


async def test_a_lost_wake_up_is_made_good_by_the_sweep(world: World, receiver: Receiver) -> None:
    """Guards the end of a run whose process died before it sent the message; two sweeps at once wake once."""
    ref = await ended(world, receiver)
    assert len(await woken(world)) == 1  # lost
    assert await sweep(world.services) == 0
    later = datetime.now(UTC) + timedelta(minutes=2)
    assert sorted(await asyncio.gather(sweep(world.services, later), sweep(world.services, later))) == [0, 1]
    assert await deliver(world) == ["delivered"]
    assert await sweep(world.services, later + timedelta(days=1)) == 0
    assert [one["status"] for one in await deliveries(world, ref)] == ["delivered"]


async def test_a_queue_that_is_away_keeps_no_run_from_ending(world: World, receiver: Receiver) -> None:
    """Guards settling: it doesn't wait for a queue, and the notification isn't lost."""

    class Away:
        async def send(self, *_: Any) -> None:
            raise Unavailable("the queue is away")

        async def close(self) -> None:
            """Nothing to close."""

    cut_off = World(replace(world.services, queue=Away()), world.model)  # type: ignore[arg-type]
    ref = await ended(cut_off, receiver)
    assert (await world.run(ref))["status"] == "completed"
    assert await world.idle(ref)
    assert await sweep(world.services, datetime.now(UTC) + timedelta(minutes=2)) == 1
    assert await deliver(world) == ["delivered"]


async def test_a_run_that_did_not_end_is_not_told(world: World, receiver: Receiver) -> None:
    """Guards the race of two settlers: the delivery is part of the one transaction that ends the run."""
    ref = await world.start(await world.workflow(ECHO, notifications=[receiver.settings(*RUN_ENDS)]))
    await asyncio.gather(world.cancel(ref), world.drive(ref), world.cancel(ref))
    told = await deliveries(world, ref)
    assert [one["event"] for one in told] == [f"run.{(await world.run(ref))['status']}"]
    assert await deliver(world) == ["delivered"]


async def test_secrets_stay_out_of_everything_that_is_shown_or_copied(world: World, receiver: Receiver) -> None:
    """Guards write-only secrets: in no definition, run, event or delivery; kept by name when saved again without."""
    token = "t" * 40
    senders = [{"sender": "billing", "token": token}]
    hook = receiver.settings(*RUN_ENDS)
    workflow = await world.workflow(ECHO, notifications=[hook], run_requests=senders)
    ref = await world.start(workflow)
    await world.drive(ref)
    everything = [
        document
        for kind in DocumentType
        if kind != DocumentType.SECRETS
        for document in (await world.store.query(Query(kind, ref.partition, limit=1000))).items
    ]
    assert len(everything) > 5
    assert SECRET.removeprefix("whsec_") not in json.dumps(everything)
    assert token not in json.dumps([*everything, await workflows.secrets_of(world.services, ref.partition)])
    saved = {**workflow["definition"], "name": "Renamed"}
    await workflows.change(world.services, ref.partition, saved, None, merge=False)
    assert await deliver(world) == ["delivered"]
    assert receiver.messages()
    await workflows.delete(world.services, ref.partition, None)
    assert await workflows.secrets_of(world.services, ref.partition) is None


async def test_a_changed_secret_signs_what_still_waits(world: World, receiver: Receiver) -> None:
    """Guards rotation: the new secret counts at once."""
    ref = await ended(world, receiver)
    new = {**receiver.settings(*RUN_ENDS), "secret": "whsec_" + "Z" * 40}
    await workflows.change(world.services, ref.partition, {"notifications": [new]}, None, merge=True)
    assert await deliver(world) == ["delivered"]
    with pytest.raises(Exception, match="No matching signature"):
        receiver.messages()
    assert headers_of(receiver.requests[0])["webhook-signature"].startswith("v1,")
