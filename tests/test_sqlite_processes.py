"""One SQLite file and several processes, some of which are killed, or find the disk full.

Run as a module it is one of those processes: `python -m tests.test_sqlite_processes ROLE PATH`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.errors import ConditionFailed, Unavailable
from shared.sqlite import Database
from shared.store.port import Create, FieldIn, Partition, Patch, Prefix, Query
from shared.store.sqlite import SqliteStore

PARTITION = Partition("user:1", "w1")
ROOT = Path(__file__).parent.parent
PROCESSES = 3
INCREMENTS = 60
LANES = 10
SECONDS = 60


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(Database.open(path))
    yield store
    await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared.db"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Whoever is still running at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(SECONDS)
        assert process.stdout is not None
        process.stdout.close()


def start(started: list[subprocess.Popen[str]], role: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.test_sqlite_processes", role, str(path)]
    started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    return started[-1]


async def compete(path: Path) -> dict[str, int]:
    """Add to one counter, and race for each of several guards; answers how many of those were won."""
    async with opened(path) as store:

        async def lane(number: int) -> int:
            won = 0
            for index in range(INCREMENTS // LANES):
                await store.transact(PARTITION, [Patch("counter", increment={"n": 1})])
                prize = f"prize-{number}-{index}"
                guard = (FieldIn("status", ("open",)),)
                try:
                    await store.transact(
                        PARTITION, [Patch(prize, set={"status": os.getpid()}, increment={"wins": 1}, when=guard)]
                    )
                except ConditionFailed:
                    continue
                won += 1
            return won

        return {"won": sum(await asyncio.gather(*(lane(number) for number in range(LANES))))}


async def test_processes_lose_no_increment_and_share_no_guard(
    path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """Several hosts on one file are like several instances in Azure: the store alone orders accept and begin."""
    prizes = [
        Create({"id": f"prize-{lane}-{index}", "type": "prize", "status": "open"})
        for lane in range(LANES)
        for index in range(INCREMENTS // LANES)
    ]
    async with opened(path) as store:
        await store.transact(PARTITION, [Create({"id": "counter", "type": "counter"}), *prizes])
        for _ in range(PROCESSES):
            start(processes, "compete", path)
        answers = [
            json.loads((await asyncio.to_thread(process.communicate, None, SECONDS))[0]) for process in processes
        ]
        assert (await store.get(PARTITION, "counter"))["n"] == PROCESSES * INCREMENTS
        won = (await store.query(Query("prize", PARTITION, limit=1000))).items
        assert [prize["wins"] for prize in won] == [1] * INCREMENTS
        assert sum(answer["won"] for answer in answers) == INCREMENTS


async def create_tables(path: Path) -> dict[str, int]:
    async with opened(path) as store:
        await store.transact(PARTITION, [Create({"id": f"from-{os.getpid()}", "type": "run"})])
    return {}


async def test_processes_may_make_the_file_at_once(path: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Switching a new file to its log and creating tables are where SQLite answers "locked" without waiting."""
    for _ in range(PROCESSES):
        start(processes, "create_tables", path)
    for process in processes:
        assert await asyncio.to_thread(process.wait, SECONDS) == 0
    async with opened(path) as store:
        found = (await store.query(Query("run", PARTITION))).items
    assert {document["id"] for document in found} == {f"from-{process.pid}" for process in processes}


async def load(path: Path) -> dict[str, int]:
    """Write without end, and say so on standard output once a write is acknowledged."""
    async with opened(path) as store:

        async def lane(number: int) -> None:
            for index in range(1_000_000):
                name = f"{os.getpid()}-{number}-{index}"
                document = {"id": name, "type": "run", "text": "x" * 2000, "n": 0}
                ops = [Create(document), Patch("counter", increment={"n": 1}), Patch(name, increment={"n": 1})]
                await store.transact(PARTITION, ops)
                print(name, flush=True)

        await asyncio.gather(*(lane(number) for number in range(LANES)))
    return {}


async def test_a_killed_writer_leaves_all_it_acknowledged_and_no_halves(
    path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """What was answered is on disk; and a killed process's lock doesn't stop the others."""
    async with opened(path) as store:
        await store.transact(PARTITION, [Create({"id": "counter", "type": "counter", "n": 0})])
        for _ in range(2):
            start(processes, "load", path)
        acknowledged = [await asyncio.to_thread(_read_then_kill, process, 150) for process in processes]
        async with asyncio.timeout(SECONDS):
            await store.transact(PARTITION, [Patch("counter", increment={"after": 1})])
    async with opened(path) as store:
        found = {}
        for process in processes:
            prefix = (Prefix("id", f"{process.pid}-"),)
            page = await store.query(Query("run", PARTITION, prefix, limit=1000))
            while page.next:
                found.update({document["id"]: document for document in page.items})
                page = await store.query(Query("run", PARTITION, prefix, limit=1000, after=page.next))
            found.update({document["id"]: document for document in page.items})
        assert {name for names in acknowledged for name in names} <= found.keys()
        assert (await store.get(PARTITION, "counter"))["n"] == len(found)
        assert all(document["n"] == 1 for document in found.values())


def _read_then_kill(process: subprocess.Popen[str], lines: int) -> list[str]:
    assert process.stdout is not None
    names = [process.stdout.readline().strip() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines(keepends=True)
    process.wait(SECONDS)
    return names + [line.strip() for line in rest if line.endswith("\n")]


async def full_disk(path: Path) -> dict[str, list[str]]:
    """Write before, while and after the file system takes no more, by a limit on how large a file may grow."""
    import resource

    async with opened(path) as store:

        async def attempt(name: str) -> str:
            try:
                await store.transact(PARTITION, [Create({"id": name, "type": "run", "text": "x" * 20_000})])
            except Unavailable:
                return "unavailable"
            return "written"

        before = [await attempt("before")]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = Path(f"{path}-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        during = await asyncio.gather(*(attempt(f"during-{index}") for index in range(5)))
        readable = [document["id"] for document in (await store.query(Query("run", PARTITION))).items]
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        after = await asyncio.gather(*(attempt(f"after-{index}") for index in range(3)))
        return {"before": before, "during": list(during), "readable": readable, "after": list(after)}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to fail a commit with")
async def test_a_commit_that_fails_is_unavailable_to_its_whole_group(
    path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """Nothing of it may be visible, then or later, and once there is room again writing goes on."""
    process = start(processes, "full_disk", path)
    answer = json.loads((await asyncio.to_thread(process.communicate, None, SECONDS))[0])
    assert answer["before"] == ["written"]
    assert answer["during"] == ["unavailable"] * 5
    assert answer["readable"] == ["before"]
    assert answer["after"] == ["written"] * 3
    async with opened(path) as store:
        found = [document["id"] for document in (await store.query(Query("run", PARTITION))).items]
    assert found == ["after-0", "after-1", "after-2", "before"]


ROLES = {role.__name__: role for role in (compete, create_tables, load, full_disk)}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(ROLES[sys.argv[1]](Path(sys.argv[2])))))
