"""What is Azure's own about its blob store and queues: what must be made first, what others put there, who may do what."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from azure.storage.blob import ContentSettings

from shared.azure_storage import StorageConnection
from shared.blobs_azure import AzureBlobs
from shared.errors import TooLarge, Unavailable
from shared.queues_azure import AzureQueue
from tests.support.azurite import ACCOUNT, KEY

Open = Callable[..., AzureBlobs]


@pytest.fixture
async def container(storage_account: StorageConnection) -> str:
    """The name of a container that isn't there yet."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
async def open_blobs(storage_account: StorageConnection, container: str) -> AsyncIterator[Open]:
    opened: list[AzureBlobs] = []

    def open_one(connection: StorageConnection = storage_account, max_bytes: int = 1000) -> AzureBlobs:
        opened.append(AzureBlobs(connection, container, max_bytes))
        return opened[-1]

    yield open_one
    for blobs in opened:
        await blobs.close()


async def test_a_container_is_made_once_by_command(open_blobs: Open) -> None:
    """Making it is `admin init`'s, not a side effect of a first write by an identity that may not do it."""
    blobs = open_blobs()
    for call in (
        blobs.put("a", b"x", "text/plain"),
        blobs.get("a"),
        blobs.info("a"),
        blobs.delete("a"),
        blobs.list(),
    ):
        with pytest.raises(Unavailable, match=r"AzureWebJobsStorage.*ContainerNotFound.*admin init"):
            await call
    await asyncio.gather(*(blobs.initialise() for _ in range(3)))
    await blobs.put("a", b"x", "text/plain")
    await blobs.initialise()
    assert (await blobs.get("a")).data == b"x"


async def test_a_queue_is_made_once_by_command(storage_account: StorageConnection) -> None:
    queues, name = AzureQueue(storage_account), f"q-{uuid.uuid4().hex}"
    try:
        for call in (queues.send(name, {}), queues.peek(name), queues.receive(name, 1)):
            with pytest.raises(Unavailable, match=r"AzureWebJobsStorage.*QueueNotFound.*admin init"):
                await call
        for _ in range(2):
            await queues.initialise([name])
        assert await queues.peek(name) == []
        with pytest.raises(ValueError):
            await queues.initialise(["Not A Queue"])
    finally:
        await queues.close()


async def test_a_wrong_key_is_named(storage_account: StorageConnection, open_blobs: Open) -> None:
    """And the message holds no key."""
    wrong = base64.b64encode(b"wrong").decode()
    text = storage_account.connection_string
    assert text is not None
    await open_blobs().initialise()
    stranger = open_blobs(StorageConnection("MyStorage", text.replace(KEY, wrong)))
    for call in (stranger.get("a"), stranger.info("a"), stranger.list(), stranger.initialise()):
        with pytest.raises(Unavailable, match=r"MyStorage: the account refused us \(403.*clock") as caught:
            await call
        assert wrong not in str(caught.value)
    unreadable = open_blobs(StorageConnection("MyStorage", text.replace(KEY, "not base64")))
    with pytest.raises(Unavailable, match="MyStorage: we can't sign in"):
        await unreadable.get("a")


async def test_what_others_put_there_is_read_within_bounds(
    storage_account: StorageConnection, container: str, open_blobs: Open
) -> None:
    """People upload with Azure's own tools: sizes, names and types that no put of ours would make."""
    blobs = open_blobs()
    await blobs.initialise()
    async with AsyncExitStack() as stack:
        theirs = storage_account.blobs(stack).get_container_client(container)
        plain = ContentSettings(content_type="text/plain")
        await theirs.upload_blob("large", b"x" * 1001, content_settings=plain)
        await theirs.upload_blob("ends with a dot./b", b"")
        await theirs.upload_blob("untyped", b"x")
    with pytest.raises(TooLarge):
        await blobs.get("large")
    assert (await blobs.info("large")).size == 1001
    assert (await blobs.info("untyped")).content_type == "application/octet-stream"
    page = await blobs.list(limit=1)
    found = [*page.items]
    while page.next:
        page = await blobs.list(limit=1, after=page.next)
        found += page.items
    assert [info.name for info in found] == ["large", "untyped"]


async def test_a_large_blob_is_one_version(open_blobs: Open) -> None:
    """In several requests an overwrite between them would mix two versions."""
    blobs = open_blobs(max_bytes=40_000_000)
    await blobs.initialise()
    first, second = b"1" * 35_000_000, b"2" * 35_000_001
    await blobs.put("a", first, "text/plain")
    got, _ = await asyncio.gather(blobs.get("a"), blobs.put("a", second, "text/plain"))
    assert got.data in (first, second) and got.info.size == len(got.data)
    assert (await blobs.get("a")).data == second


async def test_messages_are_what_the_functions_host_reads_and_writes(storage_account: StorageConnection) -> None:
    """host.json says base64. What isn't ours doesn't break reading what is."""
    queues, name = AzureQueue(storage_account), f"q-{uuid.uuid4().hex}"
    await queues.initialise([name])
    try:
        async with AsyncExitStack() as stack:
            theirs = storage_account.queues(stack).get_queue_client(name)
            await queues.send(name, {"text": "é"})
            (message,) = await theirs.peek_messages()
            assert base64.b64decode(message.content) == '{"text":"é"}'.encode()
            await theirs.clear_messages()
            for content in ("no base64", base64.b64encode(b"no json").decode(), base64.b64encode(b"\xff").decode()):
                await theirs.send_message(content)
            await theirs.send_message(base64.b64encode(b'{"n": 1}').decode())
        assert await queues.peek(name) == [{"n": 1}]
        texts = [message.text for message in await queues.receive(name, 60, 32)]
        assert texts == ["no base64", "no json", "/w==", '{"n": 1}']
    finally:
        await queues.close()


async def test_closing_is_idempotent(open_blobs: Open, storage_account: StorageConnection) -> None:
    blobs, queues = open_blobs(), AzureQueue(storage_account)
    await blobs.initialise()
    for one in (blobs, queues):
        for _ in range(2):
            await one.close()
    assert ACCOUNT in str(storage_account.connection_string)
    assert KEY not in repr(storage_account)
