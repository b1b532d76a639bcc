"""What is the local directory's own about its blob store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shared.blobs import LocalBlobs
from shared.errors import Unavailable


async def test_a_put_outlasts_directories_that_vanish(tmp_path: Path) -> None:
    """Another process that deletes the last blob of a directory takes the directory away, at any moment."""
    blobs = LocalBlobs(tmp_path)
    stop = threading.Event()

    def vanish() -> None:
        """Ten times, as soon as it is there."""
        times = 0
        while times < 10 and not stop.is_set():
            try:
                (tmp_path / "d").rmdir()
                times += 1
            except OSError:
                pass

    thread = threading.Thread(target=vanish)
    thread.start()
    try:
        await blobs.put("d/a", b"x", "text/plain")
    finally:
        stop.set()
        thread.join()
    assert (await blobs.get("d/a")).data == b"x"


async def test_only_blobs_are_in_the_directory(tmp_path: Path) -> None:
    """Temporary files and emptied directories would pile up over the years."""
    blobs = LocalBlobs(tmp_path)
    await blobs.put("a/b/c", b"x", "text/plain")
    await blobs.put("a/d", b"x", "text/plain")
    await blobs.delete("a/b/c")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == [".tmp", "a", "a/d@"]


async def test_a_file_that_is_damaged_is_unavailable(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    for content in (b"", b"no facts\n", b"[]\n", b"{}\n"):
        (tmp_path / "a@").write_bytes(content)
        with pytest.raises(Unavailable, match="damaged"):
            await blobs.get("a")


async def test_a_directory_that_can_not_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable):
        await LocalBlobs(tmp_path / "file").put("a", b"x", "text/plain")
