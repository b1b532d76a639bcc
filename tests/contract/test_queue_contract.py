"""What every `QueueSender` does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.errors import TooLarge
from shared.queues import MAX_BODY, QueueSender


async def test_messages_wait_in_their_queue(queues: QueueSender) -> None:
    assert await queues.peek("run-requests") == []
    await queues.send("run-requests", {"n": 1, "text": "ü🙂", "deep": {"list": [None, True, 1.5]}})
    await queues.send("notifications", {"n": 2})
    await queues.send("run-requests", {"n": 1})
    assert await queues.peek("run-requests") == [
        {"n": 1, "text": "ü🙂", "deep": {"list": [None, True, 1.5]}},
        {"n": 1},
    ]
    assert await queues.peek("notifications") == [{"n": 2}]


async def test_peeking_takes_nothing(queues: QueueSender) -> None:
    for index in range(40):
        await queues.send("q-1", {"n": index})
    for _ in range(2):
        assert [body["n"] for body in await queues.peek("q-1")] == list(range(32))
    assert await queues.peek("q-1", limit=1) == [{"n": 0}]


async def test_concurrent_sends_all_arrive(queues: QueueSender) -> None:
    await asyncio.gather(*(queues.send("q-1", {"n": index}) for index in range(32)))
    assert sorted(body["n"] for body in await queues.peek("q-1")) == list(range(32))


async def test_a_body_over_the_limit_is_refused(queues: QueueSender) -> None:
    """In Azure a message is at most 64 KB of base64, counted in bytes."""
    fits = MAX_BODY - len('{"t":""}')
    await queues.send("q-1", {"t": "x" * fits})
    for text in ("x" * (fits + 1), "é" * (fits // 2 + 1)):
        with pytest.raises(TooLarge):
            await queues.send("q-1", {"t": text})
    assert len(await queues.peek("q-1")) == 1


@pytest.mark.parametrize("name", ["", "ab", "A-queue", "a_b", "-ab", "ab-", "a--b", "x" * 64, "é-queue", "abc\n"])
async def test_a_name_that_azure_refuses_is_a_value_error(queues: QueueSender, name: str) -> None:
    """What works on a laptop must not fail in Azure."""
    with pytest.raises(ValueError):
        await queues.send(name, {})
    with pytest.raises(ValueError):
        await queues.peek(name)


@pytest.mark.parametrize("limit", [0, 33])
async def test_a_limit_out_of_range_is_a_value_error(queues: QueueSender, limit: int) -> None:
    with pytest.raises(ValueError):
        await queues.peek("q-1", limit)


@pytest.mark.parametrize("bad", [float("nan"), "\ud800", object(), b"x"])
async def test_what_is_not_json_is_refused(queues: QueueSender, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        await queues.send("q-1", {"bad": bad})
    assert await queues.peek("q-1") == []
