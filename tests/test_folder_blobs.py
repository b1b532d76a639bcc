"""Files that people drop into a folder, as blobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import NotFound, TooLarge, Unavailable
from shared.folder_blobs import FolderBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "inbox", max_bytes=1000)


def drop(tmp_path: Path, name: str, data: bytes = b"x") -> Path:
    path = tmp_path / "inbox" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def names(blobs: FolderBlobs, prefix: str = "") -> list[str]:
    return [info.name for info in (await blobs.list(prefix)).items]


async def test_a_dropped_file_is_a_blob(blobs: FolderBlobs, tmp_path: Path) -> None:
    assert await names(blobs) == []
    drop(tmp_path, "user/ana/w/Été 🙂.txt", b"hello")
    blob = await blobs.get("user/ana/w/Été 🙂.txt")
    assert (blob.data, blob.info.size, blob.info.content_type) == (b"hello", 5, "text/plain")
    assert blob.info == await blobs.info(blob.info.name) == (await blobs.list("user/ana/")).items[0]


async def test_a_change_is_another_version_and_a_look_is_not(blobs: FolderBlobs, tmp_path: Path) -> None:
    """Guards the etag: a change of the same length, at the same time by a coarse clock."""
    path = drop(tmp_path, "a.txt", b"one")
    first = (await blobs.info("a.txt")).etag
    assert (await blobs.info("a.txt")).etag == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    second = (await blobs.info("a.txt")).etag
    replacement = drop(tmp_path, "b.txt", b"six")
    os.utime(replacement, ns=(1, 1))
    replacement.replace(path)
    assert len({first, second, (await blobs.info("a.txt")).etag}) == 3


async def test_what_no_blob_may_be_is_not_there(blobs: FolderBlobs, tmp_path: Path) -> None:
    """Guards against an editor's hidden files, and links that lead out of the folder."""
    drop(tmp_path, "kept.txt")
    drop(tmp_path, ".hidden/a.txt")
    drop(tmp_path, "w/.a.txt.swp")
    drop(tmp_path, "dot.")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.txt").write_bytes(b"secret")
    (tmp_path / "inbox" / "link.txt").symlink_to(tmp_path / "secret" / "s.txt")
    (tmp_path / "inbox" / "linked").symlink_to(tmp_path / "secret")
    assert await names(blobs) == ["kept.txt"]
    for name in (".hidden/a.txt", "w/.a.txt.swp", "link.txt", "linked/s.txt", "w", "kept.txt/x", "missing", "x" * 300):
        for call in (blobs.info, blobs.get):
            with pytest.raises(NotFound):
                await call(name)
    for name in ("../secret/s.txt", "dot.", ""):
        with pytest.raises(ValueError):
            await blobs.get(name)


async def test_paging_goes_through_all_in_order(blobs: FolderBlobs, tmp_path: Path) -> None:
    for index in (3, 1, 2, 0):
        drop(tmp_path, f"d/{index}.txt")
    drop(tmp_path, "e.txt")
    found, after = [], None
    while True:
        page = await blobs.list("d/", 3, after)
        found += [info.name for info in page.items]
        if (after := page.next) is None:
            break
    assert found == ["d/0.txt", "d/1.txt", "d/2.txt", "d/3.txt"]
    with pytest.raises(ValueError):
        await blobs.list("", 3, "no token")


async def test_too_large_a_file_is_refused_before_it_is_read(blobs: FolderBlobs, tmp_path: Path) -> None:
    drop(tmp_path, "large.txt", b"x" * 1001)
    assert (await blobs.info("large.txt")).size == 1001
    with pytest.raises(TooLarge):
        await blobs.get("large.txt")


async def test_a_file_that_keeps_changing_is_unavailable(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards that half of a file which is being written is never taken for the whole."""
    path = drop(tmp_path, "a.txt", b"first")
    opened = Path.open

    def growing(self: Path, *arguments: object, **options: object) -> object:
        if self == path:
            os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        return opened(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", growing)
    with pytest.raises(Unavailable, match="keeps changing"):
        await blobs.get("a.txt")
