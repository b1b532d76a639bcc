"""What every `QueueSender` and `QueueReader` does."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.errors import NotFound, TooLarge
from shared.queues import MAX_BODY, MAX_DELAY, MAX_VISIBILITY, POISON, Received
from tests.support.queues import Queues
from tests.support.waiting import eventually


async def test_messages_wait_in_their_queue(queues: Queues) -> None:
    assert await queues.peek("run-requests") == []
    await queues.send("run-requests", {"n": 1, "text": "ü🙂", "deep": {"list": [None, True, 1.5]}})
    await queues.send("notifications", {"n": 2})
    await queues.send("run-requests", {"n": 1})
    assert await queues.peek("run-requests") == [
        {"n": 1, "text": "ü🙂", "deep": {"list": [None, True, 1.5]}},
        {"n": 1},
    ]
    assert await queues.peek("notifications") == [{"n": 2}]


async def test_peeking_takes_nothing(queues: Queues) -> None:
    for index in range(40):
        await queues.send("q-1", {"n": index})
    for _ in range(2):
        assert [body["n"] for body in await queues.peek("q-1")] == list(range(32))
    assert await queues.peek("q-1", limit=1) == [{"n": 0}]


async def test_a_delayed_message_is_seen_when_its_delay_is_over(queues: Queues) -> None:
    """Guards what retries with backoff rest on."""
    sent = time.monotonic()
    await queues.send("q-1", {"n": 1}, delay_seconds=2)
    (message,) = await eventually(lambda: queues.receive("q-1", 60))
    assert time.monotonic() - sent > 1  # Azurite counts in whole seconds
    assert (json.loads(message.text), message.dequeue_count) == ({"n": 1}, 1)


@pytest.mark.parametrize("seconds", [-1, MAX_DELAY + 1])
async def test_a_delay_out_of_range_is_a_value_error(queues: Queues, seconds: int) -> None:
    with pytest.raises(ValueError):
        await queues.send("q-1", {}, delay_seconds=seconds)
    assert await queues.peek("q-1") == []


async def test_concurrent_sends_all_arrive(queues: Queues) -> None:
    await asyncio.gather(*(queues.send("q-1", {"n": index}) for index in range(32)))
    assert sorted(body["n"] for body in await queues.peek("q-1")) == list(range(32))


async def test_a_body_over_the_limit_is_refused(queues: Queues) -> None:
    """In Azure a message is at most 64 KB of base64, counted in bytes."""
    fits = MAX_BODY - len('{"t":""}')
    await queues.send("q-1", {"t": "x" * fits})
    for text in ("x" * (fits + 1), "é" * (fits // 2 + 1)):
        with pytest.raises(TooLarge):
            await queues.send("q-1", {"t": text})
    assert len(await queues.peek("q-1")) == 1


@pytest.mark.parametrize("name", ["", "ab", "A-queue", "a_b", "-ab", "ab-", "a--b", "x" * 64, "é-queue", "abc\n"])
async def test_a_name_that_azure_refuses_is_a_value_error(queues: Queues, name: str) -> None:
    """What works on a laptop must not fail in Azure."""
    with pytest.raises(ValueError):
        await queues.send(name, {})
    with pytest.raises(ValueError):
        await queues.peek(name)


@pytest.mark.parametrize("limit", [0, 33])
async def test_a_limit_out_of_range_is_a_value_error(queues: Queues, limit: int) -> None:
    with pytest.raises(ValueError):
        await queues.peek("q-1", limit)


@pytest.mark.parametrize("bad", [float("nan"), "\ud800", object(), b"x"])
async def test_what_is_not_json_is_refused(queues: Queues, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        await queues.send("q-1", {"bad": bad})
    assert await queues.peek("q-1") == []


async def one(queues: Queues, seconds: int = 60) -> Received:
    """The one message of `q-1`, leased."""
    (message,) = await queues.receive("q-1", seconds)
    return message


async def test_a_received_message_is_what_was_sent(queues: Queues) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    await queues.send("q-1", {"text": "ü🙂"})
    message = await one(queues, seconds=60)
    after = datetime.now(UTC) + timedelta(seconds=1)
    assert (message.queue, json.loads(message.text), message.dequeue_count) == ("q-1", {"text": "ü🙂"}, 1)
    assert before <= datetime.fromisoformat(message.inserted_at) <= after
    hidden = timedelta(seconds=60)
    assert before + hidden <= datetime.fromisoformat(message.visible_at) <= after + hidden
    assert datetime.fromisoformat(message.expires_at) - datetime.fromisoformat(message.inserted_at) >= timedelta(days=7)
    assert not message.garbled


async def test_a_leased_message_is_invisible(queues: Queues) -> None:
    """Two workers on one message would do its work twice."""
    for index in range(3):
        await queues.send("q-1", {"n": index})
    first = await queues.receive("q-1", 60, limit=2)
    assert [json.loads(message.text)["n"] for message in first] == [0, 1]
    assert await queues.peek("q-1") == [{"n": 2}]
    assert [json.loads(message.text)["n"] for message in await queues.receive("q-1", 60, limit=32)] == [2]
    assert await queues.receive("q-1", 60) == []
    assert await queues.receive("notifications", 60) == []


async def test_readers_at_once_never_share_a_message(queues: Queues) -> None:
    for index in range(20):
        await queues.send("q-1", {"n": index})
    taken = await asyncio.gather(*(queues.receive("q-1", 60, limit=4) for _ in range(8)))
    assert sorted(json.loads(message.text)["n"] for batch in taken for message in batch) == list(range(20))


async def test_a_lease_that_ran_out_delivers_again_and_counts(queues: Queues) -> None:
    """A reader that dies tells nobody; the count is what ends in the poison queue."""
    await queues.send("q-1", {"n": 1})
    dead = await one(queues, seconds=1)

    async def again() -> list[Received]:
        return await queues.receive("q-1", 60)

    (second,) = await eventually(again, 5.0, "the message is visible again")
    assert (second.id, second.text, second.dequeue_count) == (dead.id, dead.text, 2)
    with pytest.raises(NotFound) as caught:
        await queues.delete(dead)
    assert caught.value.document_id == dead.id
    with pytest.raises(NotFound):
        await queues.update(dead, 60)
    await queues.delete(second)


async def test_a_lease_can_be_renewed_and_given_back(queues: Queues) -> None:
    await queues.send("q-1", {"n": 1})
    leased = await one(queues, seconds=2)
    renewed = await queues.update(leased, 120)
    assert (renewed.text, renewed.dequeue_count) == (leased.text, 1)
    assert renewed.visible_at > leased.visible_at
    with pytest.raises(NotFound):
        await queues.delete(leased)
    returned = await queues.update(renewed, 0)
    taken = await one(queues)
    assert (taken.id, taken.text, taken.dequeue_count) == (leased.id, leased.text, 2)
    with pytest.raises(NotFound):
        await queues.delete(returned)


async def test_a_deleted_message_is_gone(queues: Queues) -> None:
    await queues.send("q-1", {"n": 1})
    message = await one(queues)
    await queues.delete(message)
    for call in (queues.delete(message), queues.update(message, 0), queues.poison(message)):
        with pytest.raises(NotFound):
            await call
    assert await queues.peek("q-1") == await queues.peek("q-1" + POISON) == []


async def test_poison_moves_a_message_aside(queues: Queues) -> None:
    """A message that fails for ever must neither stop the queue nor vanish."""
    await queues.send("q-1", {"n": 1})
    stale = await one(queues)
    await queues.update(stale, 0)
    message = await one(queues)
    with pytest.raises(NotFound):
        await queues.poison(stale)
    await queues.poison(message)
    assert await queues.peek("q-1") == []
    assert await queues.peek("q-1" + POISON) == [{"n": 1}]


@pytest.mark.parametrize("seconds", [0, -1, MAX_VISIBILITY + 1])
async def test_a_lease_out_of_range_is_a_value_error(queues: Queues, seconds: int) -> None:
    with pytest.raises(ValueError):
        await queues.receive("q-1", seconds)


@pytest.mark.parametrize("limit", [0, 33])
async def test_a_batch_out_of_range_is_a_value_error(queues: Queues, limit: int) -> None:
    with pytest.raises(ValueError):
        await queues.receive("q-1", 60, limit)
