"""Bodies of any size, over every queue and every blob store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.blobs import BlobStore
from shared.errors import NotFound, TooLarge, Unavailable
from shared.queue_bodies import PREFIX, REFERENCE, LargeBodies, discard_body, resolve_body
from shared.queues import MAX_BODY
from tests.support.queues import Queues

LARGE = {"text": "é" * MAX_BODY}


@pytest.fixture
def blob_bytes() -> int:
    """Room for a large body."""
    return 8 * MAX_BODY


@pytest.fixture
def large(queues: Queues, blobs: BlobStore) -> LargeBodies:
    return LargeBodies(queues, blobs)


async def received(queues: Queues) -> dict[str, Any]:
    """The body of the next message, as it is in the queue."""
    (message,) = await queues.receive("q-1", 60)
    body: dict[str, Any] = json.loads(message.text)
    return body


async def test_a_small_body_is_the_message(large: LargeBodies, queues: Queues, blobs: BlobStore) -> None:
    await large.send("q-1", {"n": 1})
    assert await queues.peek("q-1") == await large.peek("q-1") == [{"n": 1}]
    assert (await blobs.list()).items == []
    assert await resolve_body(blobs, await received(queues)) == {"n": 1}


async def test_a_large_body_goes_by_reference(large: LargeBodies, queues: Queues, blobs: BlobStore) -> None:
    """64 KB is all that an Azure message holds; a notification may carry a report."""
    await large.send("q-1", LARGE)
    assert await large.peek("q-1") == [LARGE]
    body = await received(queues)
    assert [info.name for info in (await blobs.list()).items] == [body[REFERENCE]]
    assert await resolve_body(blobs, body) == LARGE


async def test_a_discarded_body_is_not_found(large: LargeBodies, queues: Queues, blobs: BlobStore) -> None:
    """Whose message is delivered once more after its work was done."""
    await large.send("q-1", LARGE)
    assert await large.peek("q-1") == [LARGE]
    (body,) = await queues.peek("q-1")
    for _ in range(2):
        await discard_body(blobs, body)
    assert await large.peek("q-1") == []
    with pytest.raises(NotFound):
        await resolve_body(blobs, body)


@pytest.mark.parametrize("name", ["documents/user:ana/a", f"{PREFIX}q-1/x.json"])
async def test_a_body_that_looks_like_a_reference_stays_itself(
    large: LargeBodies, queues: Queues, blobs: BlobStore, name: str
) -> None:
    """A person's text must not become a way to read another one's blobs."""
    await blobs.put(name, b'{"secret": 1}', "application/json")
    forged = {REFERENCE: name}
    await large.send("q-1", forged)
    assert await large.peek("q-1") == [forged]
    assert await resolve_body(blobs, await received(queues)) == forged


async def test_a_reference_to_something_else_is_no_reference(blobs: BlobStore) -> None:
    """Whoever may write to the queue must not reach documents through it."""
    await blobs.put("documents/user:ana/a", b'{"secret": 1}', "application/json")
    for body in ({REFERENCE: "documents/user:ana/a"}, {REFERENCE: f"{PREFIX}x", "n": 1}, {REFERENCE: 1}, {}):
        assert await resolve_body(blobs, body) == body
        await discard_body(blobs, body)
    assert (await blobs.info("documents/user:ana/a")).size > 0


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff"])
async def test_a_damaged_body_is_unavailable(blobs: BlobStore, data: bytes) -> None:
    await blobs.put(f"{PREFIX}q-1/x", data, "application/json")
    with pytest.raises(Unavailable, match="damaged"):
        await resolve_body(blobs, {REFERENCE: f"{PREFIX}q-1/x"})


async def test_what_even_a_blob_can_not_hold_is_too_large(large: LargeBodies, queues: Queues) -> None:
    with pytest.raises(TooLarge):
        await large.send("q-1", {"text": "x" * 9 * MAX_BODY})
    assert await queues.peek("q-1") == []
