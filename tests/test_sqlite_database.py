"""Group commit: who shares a transaction, and who is not to feel another one's failure."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared import sqlite
from shared.errors import Unavailable
from shared.filelock import FileLock
from shared.sqlite import GROUP_WRITES, Database
from tests.support.waiting import eventually

Insert = Callable[[sqlite3.Connection], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some" / "where" / "test.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    opened = Database.open(path)
    await opened.create("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v)")
    yield opened
    await opened.close()


def insert(key: int) -> Insert:
    def run(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?, 'x')", (key,))
        return key

    return run


def keys(database: Database) -> list[int]:
    return database.read_now(lambda connection: [row[0] for row in connection.execute("SELECT k FROM t ORDER BY k")])


async def test_writes_that_come_together_share_a_commit(database: Database) -> None:
    """One flush for each of many small writes would be the service's speed limit; an endless group would block it."""
    log: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(log.append))
    count = GROUP_WRITES + 50
    assert await asyncio.gather(*(database.write(insert(key)) for key in range(count))) == list(range(count))
    await database.write(lambda connection: connection.set_trace_callback(None))
    assert 2 <= log.count("COMMIT") <= 40
    begins = [index for index, statement in enumerate(log) if statement == "BEGIN IMMEDIATE"]
    groups = [log[start:end].count("SAVEPOINT entry") for start, end in zip(begins, [*begins[1:], None], strict=True)]
    assert max(groups) <= GROUP_WRITES
    assert keys(database) == list(range(count))


class Thrown(BaseException):
    """Not an Exception, like a cancel."""


@pytest.mark.parametrize("error", [ValueError("x"), Thrown(), StopIteration("x"), sqlite3.OperationalError("x")])
async def test_a_write_that_raises_is_undone_alone(database: Database, error: BaseException) -> None:
    """One caller's failed guard must not undo, nor be told to, the others of its group."""

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (100, 'x')")
        raise error

    results = await asyncio.gather(
        database.write(insert(1)), _caught(database.write(fail)), database.write(insert(2)), return_exceptions=True
    )
    assert (results[0], results[2]) == (1, 2)
    assert results[1] is error or isinstance(results[1], RuntimeError)  # Python turns StopIteration into that
    assert keys(database) == [1, 2]
    assert await database.write(insert(3)) == 3


async def _caught(call: object) -> BaseException | None:
    try:
        await call  # type: ignore[misc]
    except BaseException as error:
        return error
    return None


async def test_a_mistake_in_sql_stays_what_it_is(database: Database) -> None:
    """`Unavailable` invites to try again, which is no use here."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await database.write(lambda connection: connection.execute("INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        database.read_now(lambda connection: connection.execute("SELECT * FROM nowhere"))


async def test_a_write_that_ends_the_transaction_fails_its_group_only(database: Database) -> None:
    """It must not, but if it does, nobody may be told that something landed which may not have."""
    results = await asyncio.gather(
        database.write(insert(1)),
        database.write(lambda connection: connection.execute("ROLLBACK")),
        database.write(insert(2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results[:2]] == [Unavailable, Unavailable]
    assert results[2] == 2
    assert keys(database) == [2]


async def test_a_cancelled_caller_takes_nobody_along(database: Database) -> None:
    """Cancelling is what this service does all day."""
    tasks = [asyncio.create_task(database.write(insert(key))) for key in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 10
    assert set(keys(database)) >= set(range(1, 20, 2))
    assert await database.write(insert(100)) == 100


async def test_a_caller_cancelled_during_the_commit_takes_nobody_along(database: Database) -> None:
    began = asyncio.Event()

    def run(connection: sqlite3.Connection) -> None:
        insert(1)(connection)
        began.set()

    first, second = asyncio.create_task(database.write(run)), asyncio.create_task(database.write(insert(2)))
    await began.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 2
    assert keys(database) == [1, 2]


async def test_a_failed_write_leaves_no_garbage(database: Database) -> None:
    """An error that holds its own frame would keep each refused document until the collector runs."""

    def fail(connection: sqlite3.Connection) -> None:
        raise Marker

    class Marker(Exception):
        pass

    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with pytest.raises(Marker):
                await database.write(fail)
        # pytest's own ExceptionInfo is gone with its block; what is left must be none
        assert [item for item in gc.get_objects() if isinstance(item, Marker)] == []
    finally:
        gc.enable()


async def test_what_a_write_answered_is_the_callers_alone(database: Database) -> None:
    """A helper that sleeps on its last group would keep that group's documents, which may be megabytes."""

    class Answer:
        pass

    answer = weakref.ref(await database.write(lambda connection: Answer()))
    await eventually(lambda: answer() is None)


async def test_a_commit_that_leaves_its_transaction_open_is_rolled_back(database: Database) -> None:
    """Some failures of COMMIT end the transaction, others don't; the next group must begin anew after both."""
    writer = database._live()._writer
    assert writer is not None
    writer.execute("PRAGMA foreign_keys = ON")
    await database.create("CREATE TABLE child (k REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)")
    results = await asyncio.gather(
        database.write(insert(1)),
        database.write(lambda connection: connection.execute("INSERT INTO child VALUES (99)")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    assert keys(database) == []
    assert await database.write(insert(2)) == 2
    assert keys(database) == [2]


async def test_reads_see_what_is_committed_and_write_nothing(database: Database) -> None:
    seen: list[list[int]] = []

    def run(connection: sqlite3.Connection) -> None:
        insert(1)(connection)
        seen.append(keys(database))

    await database.write(run)
    assert seen == [[]]
    assert keys(database) == await database.read(lambda c: [row[0] for row in c.execute("SELECT k FROM t")]) == [1]
    for attempt in (lambda: database.read(insert(2)), lambda: _now(database, insert(2))):
        with pytest.raises(Unavailable, match="readonly"):
            await attempt()
    assert keys(database) == [1]


async def _now(database: Database, fn: Insert) -> int:
    return database.read_now(fn)


async def test_a_read_has_one_snapshot(database: Database) -> None:
    """Two statements of one read must not see two states."""
    loop = asyncio.get_running_loop()

    def read(connection: sqlite3.Connection) -> tuple[int, int]:
        count = "SELECT count(*) FROM t"
        before = connection.execute(count).fetchone()[0]
        asyncio.run_coroutine_threadsafe(database.write(insert(1)), loop).result(10)
        return before, connection.execute(count).fetchone()[0]

    assert await database.read(read) == (0, 0)
    assert keys(database) == [1]


async def test_many_reads_at_once(database: Database) -> None:
    await database.write(insert(1))
    results = await asyncio.gather(
        *(database.read(lambda c: c.execute("SELECT k FROM t").fetchone()[0]) for _ in range(50))
    )
    assert results == [1] * 50


async def test_handles_of_a_path_share_and_close_one_by_one(database: Database, path: Path) -> None:
    """Store, queue and engine each close what they were given."""
    other = Database.open(path.parent / ".." / path.parent.name / path.name)
    await other.close()
    await other.close()
    assert await database.write(insert(1)) == 1
    with pytest.raises(Unavailable, match="closed"):
        await other.write(insert(2))
    with pytest.raises(Unavailable, match="closed"):
        await other.read(lambda connection: None)
    with pytest.raises(Unavailable, match="closed"):
        other.read_now(lambda connection: None)


async def test_closing_waits_for_writes_under_way(path: Path) -> None:
    first = Database.open(path)
    await first.create("CREATE TABLE t (k INTEGER PRIMARY KEY, v)")
    writes = [asyncio.create_task(first.write(insert(key))) for key in range(500)]
    await asyncio.sleep(0)
    await first.close()
    assert all(write.done() and not write.exception() for write in writes)
    second = Database.open(path)
    assert len(keys(second)) == 500
    await second.close()


async def test_closing_leaves_one_file(path: Path) -> None:
    """A log left beside the file would be lost by who copies only the file."""
    database = Database.open(path)
    await database.create("CREATE TABLE t (k INTEGER PRIMARY KEY, v)")
    await database.close()
    assert not [file.name for file in path.parent.iterdir() if file.name.endswith(("-wal", "-shm"))]


def test_a_loop_that_ended_without_closing_blocks_nobody(path: Path) -> None:
    """As when a test or a script fails half-way."""

    async def leave_open() -> None:
        database = Database.open(path)
        await database.create("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v)")
        pending = asyncio.create_task(database.write(insert(1)))
        await asyncio.sleep(0)
        pending.cancel()

    async def use() -> list[int]:
        database = Database.open(path)
        await database.write(insert(2))
        found = keys(database)
        await database.close()
        return found

    asyncio.run(leave_open())
    assert asyncio.run(use())[-1] == 2


async def test_tables_can_be_created_again_and_hold_triggers(database: Database) -> None:
    """A statement may have semicolons inside; and who comes second creates the same."""
    script = """
    -- a comment; with a semicolon
    CREATE TABLE IF NOT EXISTS u (v TEXT DEFAULT ';');
    CREATE TRIGGER IF NOT EXISTS tr AFTER INSERT ON u BEGIN DELETE FROM u WHERE v = 'no'; SELECT 1; END;
    ;
    """
    await asyncio.gather(*(database.create(script) for _ in range(5)))
    await database.write(lambda connection: connection.executemany("INSERT INTO u VALUES (?)", [("no",), ("yes",)]))
    assert database.read_now(lambda connection: connection.execute("SELECT v FROM u").fetchall()) == [("yes",)]


async def test_a_failed_script_creates_nothing(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await database.create("CREATE TABLE half (v); CREATE NONSENSE;")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        database.read_now(lambda connection: connection.execute("SELECT * FROM half"))


async def test_a_path_that_can_not_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "noise.db").write_bytes(b"not a database at all " * 100)
    for bad in (tmp_path, tmp_path / "file" / "x.db", tmp_path / "noise.db"):
        with pytest.raises(Unavailable):
            Database.open(bad)


async def test_who_waits_for_a_stuck_process_is_told(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended process must not suspend the others: a supervisor has to learn that its heartbeat didn't land."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    stuck = FileLock(path)
    stuck.acquire()
    results = await asyncio.gather(*(database.write(insert(key)) for key in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    with pytest.raises(Unavailable, match="another process"):
        await database.write(insert(4))
    monkeypatch.undo()
    waiting = asyncio.create_task(database.write(insert(5)))
    assert keys(database) == []  # reads don't wait
    stuck.release()
    assert await waiting == 5
    stuck.close()
    assert keys(database) == [5]


async def test_closing_does_not_wait_for_a_stuck_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host has to end within seconds after SIGTERM."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    database = Database.open(path)
    stuck = FileLock(path)
    stuck.acquire()
    with pytest.raises(Unavailable):
        await database.write(lambda connection: None)
    async with asyncio.timeout(5):
        await database.close()
    stuck.release()
    stuck.close()
    again = Database.open(path)
    await again.create("CREATE TABLE t (k)")
    await again.close()


async def test_the_loop_goes_on_while_a_write_waits_for_the_lock(database: Database, path: Path) -> None:
    other = FileLock(path)
    other.acquire()
    write = asyncio.create_task(database.write(insert(1)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not write.done()
    other.release()
    await eventually(write.done)
    other.close()


async def test_the_lock_is_fair(tmp_path: Path) -> None:
    """A process that writes without a pause would otherwise keep a cancel of another one waiting."""
    busy, patient = FileLock(tmp_path / "x"), FileLock(tmp_path / "x")
    assert busy.try_acquire()
    waiting = asyncio.create_task(asyncio.to_thread(patient.acquire))
    third = FileLock(tmp_path / "x")
    # Once the patient one stands at the door, nobody else gets through it, although the room becomes free.
    await eventually(lambda: not _door_is_free(third))
    busy.release()
    await waiting
    assert not busy.try_acquire()
    patient.release()
    assert busy.try_acquire()
    for lock in (busy, patient, third):
        lock.close()


def _door_is_free(lock: FileLock) -> bool:
    import fcntl

    try:
        fcntl.flock(lock._door, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(lock._door, fcntl.LOCK_UN)
    return True
