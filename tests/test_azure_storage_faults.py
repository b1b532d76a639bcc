"""What the Azure blob store and queues do when the account is busy, gone, or loses an answer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shared import azure_storage
from shared.azure_storage import RETRIES
from shared.blobs_azure import AzureBlobs
from shared.errors import NotFound, Throttled, Unavailable
from shared.queues import Received
from shared.queues_azure import AzureQueue
from tests.support.azurite import connection
from tests.support.scripted_http import Request, response, scripted
from tests.support.waiting import eventually

Ports = tuple[AzureBlobs, AzureQueue]
Open = Callable[[int], Ports]

DATE = "Sat, 21 Nov 2026 10:00:00 GMT"
PROPERTIES = f"<Last-Modified>{DATE}</Last-Modified><Etag>0x1</Etag><Content-Length>1</Content-Length>"
CREATED = response("201 Created", headers={"ETag": '"0x1"', "Last-Modified": DATE})
LEASED = Received("q-1", "id", "{}", "receipt", 1, "", "", "")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(azure_storage, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
async def at() -> AsyncIterator[Open]:
    """Blobs and queues of an account at a port."""
    async with AsyncExitStack() as stack:

        def open_both(port: int) -> Ports:
            account = connection(port, port)
            both = (AzureBlobs(account, "truestop"), AzureQueue(account))
            for one in both:
                stack.push_async_callback(one.close)
            return both

        yield open_both


def calls(blobs: AzureBlobs, queues: AzureQueue) -> list[Callable[[], Any]]:
    """Every way to ask the account for something."""
    return [
        blobs.initialise,
        lambda: blobs.put("a", b"x", "text/plain"),
        lambda: blobs.get("a"),
        lambda: blobs.info("a"),
        lambda: blobs.delete("a"),
        blobs.list,
        lambda: queues.initialise(["q-1"]),
        lambda: queues.send("q-1", {}),
        lambda: queues.peek("q-1"),
        lambda: queues.receive("q-1", 1),
        lambda: queues.update(LEASED, 1),
        lambda: queues.delete(LEASED),
        lambda: queues.poison(LEASED),
    ]


def error(status: str, code: str, retry_after: str | None = None) -> bytes:
    """A storage error as the service writes it."""
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Because.</Message></Error>'.encode()
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return response(status, text, {**headers, "Retry-After": retry_after} if retry_after else headers)


def listing(kind: str) -> bytes:
    """A first page of blobs `a` and `b`."""
    blobs = "".join(f"<Blob><Name>{n}</Name><Properties>{PROPERTIES}{kind}</Properties></Blob>" for n in ("a", "b"))
    text = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>m</NextMarker></EnumerationResults>"
    return response("200 OK", b'<?xml version="1.0"?>' + text.encode(), {"Content-Type": "application/xml"})


async def test_an_account_that_is_gone_is_soon_unavailable(at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the SDK's own retries a step would hang for over a minute, and health with it."""
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begin = time.monotonic()
    results = await asyncio.gather(*(call() for call in calls(*at(port))), return_exceptions=True)
    assert time.monotonic() - begin < 5.0
    for result in results:
        assert isinstance(result, Unavailable), result
        assert "AzureWebJobsStorage: the account can't be reached" in str(result)


@pytest.mark.parametrize(
    ("busy", "attempts", "retry_after"),
    [
        (error("503 Server Busy", "ServerBusy"), RETRIES + 1, 1.0),
        (error("503 Server Busy", "ServerBusy", "7"), RETRIES + 1, 7.0),
        (response("503 Service Unavailable", b"<html>", {"Retry-After": DATE}), RETRIES + 1, 1.0),
        (error("429 Too Many Requests", "TooManyRequests", "0.5"), 1, 0.5),
    ],
)
async def test_a_busy_account_throttles(at: Open, busy: bytes, attempts: int, retry_after: float) -> None:
    """Who waits as told gets through; who is told of a failure would give up."""
    async with scripted(lambda request: busy) as (port, asked):
        for call in calls(*at(port)):
            asked.clear()
            with pytest.raises(Throttled) as caught:
                await call()
            assert (len(asked), caught.value.retry_after) == (attempts, retry_after)


async def test_a_busy_moment_is_waited_out(at: Open) -> None:
    async with scripted(lambda request: error("503 Server Busy", "ServerBusy") if request.number < 3 else CREATED) as (
        port,
        asked,
    ):
        blobs, _ = at(port)
        assert (await blobs.put("a", b"x", "text/plain")).etag == "0x1"
        assert [request.body for request in asked] == [b"x"] * 3


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("size", [0, 10, 3_000_000])
async def test_a_put_whose_answer_is_lost_is_repeated_whole(at: Open, size: int, warm: bool) -> None:
    """It replaces what it wrote, so twice is as good as once, if the second has all the bytes.

    On a connection that was used before (`warm`) aiohttp itself tries again, before the SDK does.
    """
    data = bytes(range(250)) * (size // 250) + b"x" * (size % 250)
    kept: list[bytes] = []

    def answer(request: Request) -> bytes | None:
        if "restype=container" in request.target:
            return CREATED
        kept.append(request.body)
        return None if len(kept) == 1 else CREATED

    async with scripted(answer) as (port, asked):
        blobs, _ = at(port)
        if warm:
            await blobs.initialise()
        assert (await blobs.put("a", data, "text/plain")).size == size
    assert [len(body) for body in kept] == [size, size]
    assert kept == [data, data]
    assert "x-ms-blob-type: BlockBlob" in asked[-1].head
    assert "comp=" not in asked[-1].target  # one request: never blocks, which a concurrent put could mix


async def test_an_account_that_loses_every_answer_is_unavailable(at: Open) -> None:
    async with scripted(lambda request: None) as (port, asked):
        for call in calls(*at(port)):
            asked.clear()
            with pytest.raises(Unavailable):
                await call()
            assert RETRIES + 1 <= len(asked) <= 2 * (RETRIES + 1)  # aiohttp tries again, too, what is idempotent


async def test_a_delete_whose_answer_is_lost_says_that_it_is_gone(at: Open) -> None:
    """A blob's delete is idempotent; a message's says NotFound, as for a lease that was lost."""
    losing: list[bytes | None] = [None, error("404 Not Found", "BlobNotFound")]
    losing += [None, error("400 Bad Request", "PopReceiptMismatch")]
    async with scripted(lambda request: losing[request.number - 1]) as (port, asked):
        blobs, queues = at(port)
        await blobs.delete("a")
        with pytest.raises(NotFound):
            await queues.delete(LEASED)
        assert len(asked) == 4


async def test_a_download_that_is_cut_never_passes_for_whole(at: Open) -> None:
    """Half a document that looks whole would be summarised as if it were all."""
    facts = {"ETag": '"0x1"', "Last-Modified": DATE, "Content-Type": "text/plain", "x-ms-blob-type": "BlockBlob"}
    headers = {**facts, "Content-Length": "10", "Content-Range": "bytes 0-9/10"}
    good = 2

    def answer(request: Request) -> bytes:
        return response("206 Partial Content", b"0123456789" if request.number == good else b"01234", headers)

    async with scripted(answer) as (port, asked):
        blobs, _ = at(port)
        assert (await blobs.get("a")).data == b"0123456789"
        good, before = 0, len(asked)
        with pytest.raises(Unavailable):
            await blobs.get("a")
        assert len(asked) > before


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (error("500 Internal Server Error", "InternalError"), "500 InternalError"),
        (error("403 Forbidden", "AuthorizationPermissionMismatch"), "refused us .403 AuthorizationPermissionMismatch"),
        (response("403 Forbidden", b"<html>proxy"), "refused us .403"),
        (response("407 Proxy Authentication Required"), "407"),
        (error("409 Conflict", "ContainerBeingDeleted"), "409 ContainerBeingDeleted"),
        (response("200 OK", b"<html>not what was asked"), ""),
    ],
)
async def test_any_other_refusal_is_unavailable_and_says_what_it_was(at: Open, said: bytes, means: str) -> None:
    async with scripted(lambda request: said) as (port, _):
        blobs, queues = at(port)
        for call in (blobs.list, lambda: queues.peek("q-1")):
            with pytest.raises(Unavailable, match=f"AzureWebJobsStorage: .*{means}"):
                await call()


async def test_an_answer_that_makes_no_sense_is_unavailable(at: Open) -> None:
    """The SDK raises a ValueError, which would read as a mistake of whoever asked."""
    async with scripted(lambda request: listing("<BlobType>CrumpledBlob</BlobType>")) as (port, _):
        blobs, _ = at(port)
        with pytest.raises(Unavailable, match="makes no sense"):
            await blobs.list()


async def test_what_is_being_deleted_is_not_made(at: Open) -> None:
    """`admin init` would say that all is well half a minute before the container is gone."""
    for code in ("ContainerBeingDeleted", "QueueBeingDeleted"):
        said = error("409 Conflict", code)
        async with scripted(lambda request, said=said: said) as (port, _):  # type: ignore[misc]
            blobs, queues = at(port)
            with pytest.raises(Unavailable, match=code):
                await (blobs.initialise() if code.startswith("C") else queues.initialise(["q-1"]))


async def test_a_token_that_the_account_refuses_is_a_value_error(at: Open) -> None:
    """It has the form of ours, so only the service can tell; a caller's mistake is no failure of the store."""
    refused = error("400 Bad Request", "OutOfRangeInput")
    page = listing("<BlobType>BlockBlob</BlobType>")

    def answer(request: Request) -> bytes:
        return page if request.number == 1 else refused

    async with scripted(answer) as (port, asked):
        blobs, _ = at(port)
        first = await blobs.list(limit=2)
        assert [info.name for info in first.items] == ["a", "b"]
        with pytest.raises(ValueError, match="page token"):
            await blobs.list(limit=2, after=first.next)
        assert "marker=m" in asked[-1].target
        with pytest.raises(Unavailable, match="OutOfRangeInput"):
            await blobs.list()


async def test_an_account_that_says_nothing_is_given_up(at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it stalls: the SDK bounds the silence between two bytes, and doesn't bound a whole call."""
    monkeypatch.setattr(azure_storage, "CALL_SECONDS", 0.2)
    silence = asyncio.Event()

    async def answer(request: Request) -> bytes | None:
        await silence.wait()
        return None

    async with scripted(answer) as (port, _):
        results = await asyncio.gather(*(call() for call in calls(*at(port))), return_exceptions=True)
    for result in results:
        assert isinstance(result, Unavailable) and "no answer within 0.2 s" in str(result)


async def test_a_cancelled_call_ends_at_once_and_stays_cancelled(at: Open) -> None:
    """The supervisor cancels what is in flight; told `Unavailable` instead, a step would try again."""
    silence = asyncio.Event()

    async def answer(request: Request) -> bytes | None:
        await silence.wait()
        return None

    async with scripted(answer) as (port, asked):
        for call in calls(*at(port)):
            asked.clear()
            task = asyncio.ensure_future(call())
            await eventually(lambda: asked, 5.0, "the account was asked")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
