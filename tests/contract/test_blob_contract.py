"""What every `BlobStore` does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared.blobs import BlobStore
from shared.errors import NotFound, TooLarge

NAMES = [
    "a",
    "a/b",
    "a/b/c.txt",
    "a.txt/b",
    "a@/b@",
    "a+/b+",
    "documents/user:1234/Q3 report (final), v=2.docx",
    "percent%41/%2E%2e/100%",
    ".hidden/..odd/.x",
    "ünïcödé/日本語/🙂.md",
    'CON/aux:*?"<>|~#&',
    "e\u0301/\u00e9",
    "x" * 900,
    "é" * 900,
    "🙂" * 450,
    f"{'y' * 199}..y/{'z' * 200}..z",
    "/".join("d" * 250),
]

_OUTSIDE = ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "a\\b", "a\x00b", "a\nb", "\x7f", "\ud800"]
_NOT_IN_AZURE = ["x.", "a./b", "\x85", "\ue000", "\uffff", "\U0010ffff"]
_TOO_LONG = ["x" * 901, "x" * 899 + "🙂", "/".join("d" * 251)]
BAD_NAMES = [*_OUTSIDE, *_NOT_IN_AZURE, *_TOO_LONG]


async def names(blobs: BlobStore, prefix: str = "", limit: int = 100) -> list[str]:
    """The names of every page."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = await blobs.list(prefix, limit, after)
        found += [info.name for info in page.items]
        if (after := page.next) is None:
            return found


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
async def test_any_good_name_works(blobs: BlobStore, name: str) -> None:
    """A name is a user's file name; it must neither fail nor meet another one on the file system."""
    info = await blobs.put(name, name.encode()[:1000], "text/plain")
    assert info.name == name
    blob = await blobs.get(name)
    assert (blob.info, blob.data) == (info, name.encode()[:1000])
    assert await blobs.info(name) == info
    assert await names(blobs) == [name]


async def test_names_live_beside_each_other(blobs: BlobStore) -> None:
    """`a` and `a/b` are both blobs, though no directory can be a file."""
    for name in NAMES:
        await blobs.put(name, name.encode()[:1000], "text/plain")
    assert await names(blobs, limit=3) == sorted(NAMES)
    for name in NAMES:
        assert (await blobs.get(name)).data == name.encode()[:1000]
        await blobs.delete(name)
    assert await names(blobs) == []


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
async def test_a_bad_name_is_a_value_error(blobs: BlobStore, name: str) -> None:
    """Names come from users; none may reach outside the store, or work on a laptop and then not in Azure."""
    for call in (blobs.get(name), blobs.info(name), blobs.delete(name), blobs.put(name, b"", "text/plain")):
        with pytest.raises(ValueError):
            await call


async def test_facts_are_those_of_the_version(blobs: BlobStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    first = await blobs.put("a", b"one", "text/plain; charset=utf-8")
    second = await blobs.put("a", b"three", "application/json")
    assert (first.size, first.content_type) == (3, "text/plain; charset=utf-8")
    assert (second.size, second.content_type) == (5, "application/json")
    assert first.etag != second.etag
    assert (await blobs.get("a")).info == second
    assert second.modified_at.endswith("Z") and len(second.modified_at) == len("2026-01-01T00:00:00.000Z")
    assert before <= datetime.fromisoformat(second.modified_at) <= datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("odd", ["", "a\r\nb: c", "téxt/plain", "x" * 201])
async def test_what_can_not_be_a_header_is_no_content_type(blobs: BlobStore, odd: str) -> None:
    """It comes from the uploader, and goes into the headers of whoever downloads."""
    assert (await blobs.put("a", b"x", odd)).content_type == "application/octet-stream"
    assert (await blobs.info("a")).content_type == "application/octet-stream"


async def test_the_same_bytes_again_are_a_new_version(blobs: BlobStore) -> None:
    """A trigger's receipt goes by etag: a person who uploads again means it."""
    first = await blobs.put("a", b"x", "text/plain")
    assert (await blobs.put("a", b"x", "text/plain")).etag != first.etag


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n\n\x00\xff", bytes(range(256))])
async def test_any_bytes_come_back(blobs: BlobStore, data: bytes) -> None:
    info = await blobs.put("a", data, "application/octet-stream")
    assert (info.size, (await blobs.get("a")).data) == (len(data), data)


async def test_what_is_missing_is_not_found(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"", "text/plain")
    for name in ("a", "b", "a/b/c"):
        for call in (blobs.get(name), blobs.info(name)):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.document_id == name


async def test_deleting_is_idempotent(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"x", "text/plain")
    for name in ("a/b", "a/b", "a", "a/b/c", "never"):
        await blobs.delete(name)
    with pytest.raises(NotFound):
        await blobs.get("a/b")
    await blobs.put("a/b", b"y", "text/plain")
    assert (await blobs.get("a/b")).data == b"y"


async def test_too_many_bytes_are_refused(blobs: BlobStore) -> None:
    await blobs.put("a", b"x" * 1000, "text/plain")
    with pytest.raises(TooLarge):
        await blobs.put("a", b"x" * 1001, "text/plain")
    assert (await blobs.info("a")).size == 1000


async def test_a_list_is_of_a_prefix_and_in_order(blobs: BlobStore) -> None:
    """The prefix is text, not a directory; the order is of code points, not of directories first."""
    stored = ["b", "a/c", "a/b", "a-x", "a", "a/bb/d", "a.b/c", "A", "ab"]
    for name in stored:
        await blobs.put(name, b"", "text/plain")
    for prefix in (
        "",
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a/bb/",
        "a.",
        "c",
        "../",
        "/",
        "a//",
        "\x00",
        "a\\",
        "x" * 901,
        "\ud800",
    ):
        expected = sorted(name for name in stored if name.startswith(prefix))
        assert await names(blobs, prefix) == expected
        assert await names(blobs, prefix, limit=1) == expected
    assert (await blobs.list("a/bb/")).items == [await blobs.info("a/bb/d")]


async def test_a_page_is_stable_while_blobs_come_and_go(blobs: BlobStore) -> None:
    """Whether one that came meanwhile is seen is open: Azure's marker names the blob that was next."""
    for name in ("b", "d", "f"):
        await blobs.put(name, b"", "text/plain")
    first = await blobs.list(limit=2)
    assert [info.name for info in first.items] == ["b", "d"]
    for name in ("a", "e"):
        await blobs.put(name, b"", "text/plain")
    await blobs.delete("d")
    rest = await blobs.list(limit=2, after=first.next)
    assert [info.name for info in rest.items if info.name != "e"] == ["f"]
    assert rest.next is None


@pytest.mark.parametrize("token", ["x", "é", "gA==", "===="])
async def test_a_token_that_is_not_ours_is_a_value_error(blobs: BlobStore, token: str) -> None:
    with pytest.raises(ValueError):
        await blobs.list(after=token)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_range_is_a_value_error(blobs: BlobStore, limit: int) -> None:
    with pytest.raises(ValueError):
        await blobs.list(limit=limit)


async def test_readers_never_see_half_a_version(blobs: BlobStore) -> None:
    """Facts of one version with the bytes of another would make a run read what nobody uploaded."""
    versions = {f"type/{n}": str(n).encode() * (n * 10 + 1) for n in range(8)}
    await blobs.put("dir/a", versions["type/0"], "type/0")

    async def write(kind: str) -> None:
        for _ in range(5):
            await blobs.put("dir/a", versions[kind], kind)

    async def read() -> None:
        for _ in range(20):
            blob = await blobs.get("dir/a")
            assert blob.data == versions[blob.info.content_type]
            assert blob.info.size == len(blob.data)

    await asyncio.gather(*(write(kind) for kind in versions), read(), read())
    assert await names(blobs) == ["dir/a"]


async def test_puts_survive_deletes_beside_them(blobs: BlobStore) -> None:
    """Deleting the last blob of a directory may take the directory away from under a put."""

    async def come_and_go(lane: int) -> None:
        for _ in range(20):
            await blobs.put(f"d/e/{lane}", b"x", "text/plain")
            await blobs.delete(f"d/e/{lane}")
        await blobs.put(f"d/e/{lane}", b"x", "text/plain")

    await asyncio.gather(*(come_and_go(lane) for lane in range(4)))
    assert await names(blobs) == [f"d/e/{lane}" for lane in range(4)]
