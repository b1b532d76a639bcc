"""One SQLite file for everything a machine without Azure keeps: documents, queues, devhost's orchestrations.

Every write must be on disk before its caller goes on, and a disk flush costs far more than a small write. So writes
that come together share one transaction (group commit): they run one after the other on the loop's own thread, each in
a savepoint, and one COMMIT in a helper thread makes all of them durable; what arrives meanwhile forms the next group.
They don't run in that thread because every SQLite call there gives up the GIL and, on a busy loop, gets it back 5 ms
later. Several processes may write to one file: they take turns by a `FileLock`, as SQLite's own waiting is by sleeping.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from shared.errors import Unavailable
from shared.filelock import FileLock

T = TypeVar("T")
Job = Callable[[], None]
Then = Callable[[BaseException | None], None]

GROUP_WRITES = 200
GROUP_SECONDS = 0.005
"""How long the writes of one group may hold the loop; one write that takes longer still runs to its end."""
BUSY_SECONDS = 10.0
READER_THREADS = 2

_OUTSIDE_OUR_POWER = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


class Database:
    """A handle on the file at one path. Handles of one path on one event loop share connections and commits.

    Use it on the loop it was opened on. Every method raises `Unavailable` when the file can't be written or read, when
    another process holds it for over 10 seconds, and when the handle is closed.
    """

    def __init__(self, core: _Core) -> None:
        self._core: _Core | None = core

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the file, made with its directories if missing. Needs a running event loop."""
        return cls(_shared_core(path, asyncio.get_running_loop()))

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in a transaction and answer what it answers, once that is on disk.

        `fn` runs on the loop's thread: keep it short. It must not begin, commit or roll back. When it raises, what it
        did is undone and its caller gets the error; other writes are not touched. A caller that is cancelled while it
        waits doesn't know whether its write happened.
        """
        entry = self._live().submit(fn)
        await entry.landed
        if entry.error is not None:
            try:
                raise entry.error
            finally:
                entry.error = None  # else the error and this frame would keep each other alive
        result: T = entry.value
        return result

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn`, which may take long, in a thread, on one snapshot. Fetch few rows: each is a hand-over of the GIL."""
        core = self._live()
        return await core.loop.run_in_executor(core.readers, core.read_off_loop, fn)

    def read_now(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` here and now, on one snapshot of what is committed. For reads of microseconds."""
        return _snapshot(self._live().near_reader, fn)

    def fetch(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All rows of one statement, here and now: a statement is a snapshot by itself. For reads of microseconds."""
        try:
            return self._live().near_reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _translated(error) from error

    async def create(self, script: str) -> None:
        """Run DDL (`CREATE … IF NOT EXISTS`, separated by `;`) in one transaction. Any process may, at any time."""
        statements = list(_statements(script))

        def run(connection: sqlite3.Connection) -> None:
            for statement in statements:
                connection.execute(statement)

        await self.write(run)

    async def close(self) -> None:
        """Give up this handle; the last one waits for the writes under way and closes the file. Idempotent."""
        core, self._core = self._core, None
        if core is not None:
            await core.release()

    def _live(self) -> _Core:
        if self._core is None:
            raise Unavailable("the database is closed")
        return self._core


_cores: dict[tuple[asyncio.AbstractEventLoop, Path], _Core] = {}
_cores_lock = threading.Lock()


def _shared_core(path: Path, loop: asyncio.AbstractEventLoop) -> _Core:
    """The core for `path` on `loop`, with one more reference."""
    path = path.resolve()
    with _cores_lock:
        for key in [key for key in _cores if key[0].is_closed()]:  # their owners never closed them
            _cores.pop(key).shut()
        core = _cores.get((loop, path))
        if core is None:
            core = _cores[loop, path] = _Core(path, loop)
        core.references += 1
        return core


class _Write:
    """One caller's write. The outcome is kept here until the COMMIT: before it, even a failure is not yet a fact."""

    __slots__ = ("error", "fn", "landed", "value")

    def __init__(self, fn: Callable[[sqlite3.Connection], Any], landed: asyncio.Future[None]) -> None:
        self.fn, self.landed = fn, landed
        self.value: Any = None
        self.error: BaseException | None = None

    def settle(self, failure: str | None = None) -> None:
        """Let the caller go on, with `Unavailable` if the group failed."""
        if failure is not None:
            self.value, self.error = None, Unavailable(failure)
        if not self.landed.done():
            self.landed.set_result(None)


class _Core:
    """What handles share: the writer, its queue, the connections. Made of callbacks, as a task could be cancelled."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.loop, self.references = path, loop, 0
        self._queue: deque[_Write] = deque()
        self._working = self._shut = False
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._patience: asyncio.TimerHandle | None = None
        self._idle_readers: list[sqlite3.Connection] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path)
        except OSError as error:
            raise Unavailable(str(error)) from error
        try:
            self._writer: sqlite3.Connection | None = self._connect_writer()
            self._switch_to_wal(self._writer)
            self.near_reader = _connect(path, read_only=True)
        except (OSError, sqlite3.Error) as error:
            self._lock.close()
            raise Unavailable(str(error)) from error
        self._helper = _Helper(loop)
        self.readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="sqlite-read")

    def submit(self, fn: Callable[[sqlite3.Connection], Any]) -> _Write:
        """Queue a write."""
        entry = _Write(fn, self.loop.create_future())
        self._queue.append(entry)
        if not self._working:
            self._working = True
            self._at_rest.clear()
            self.loop.call_soon(self._next_group)  # soon, so that all who write in this turn of the loop share it
        return entry

    def _next_group(self) -> None:
        if self._shut:
            self._fail_queue("the database is closed")
        if not self._queue:
            self._working = False
            self._at_rest.set()
        elif self._lock.try_acquire():
            self._run_group()
        else:
            self._patience = self.loop.call_later(BUSY_SECONDS, self._lose_patience)
            self._helper.post(self._lock.acquire, self._lock_acquired)

    def _lose_patience(self) -> None:
        """The lock was held for too long (by a suspended process?). Wait on, but don't let callers wait with us."""
        self._patience = self.loop.call_later(BUSY_SECONDS, self._lose_patience)
        self._fail_queue(f"another process has held {self.path.name} for {BUSY_SECONDS:g} s")
        self._at_rest.set()

    def _lock_acquired(self, error: BaseException | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._shut:
            return  # and with the file's descriptor the lock went
        self._at_rest.clear()
        if error is None:
            self._run_group()
        else:
            self._fail_queue(str(error))
            self._next_group()

    def _run_group(self) -> None:
        group: list[_Write] = []
        try:
            connection = self._writer = self._writer or self._connect_writer()
            connection.execute("BEGIN IMMEDIATE")
            end = time.perf_counter() + GROUP_SECONDS
            while self._queue and len(group) < GROUP_WRITES and (not group or time.perf_counter() < end):
                entry = self._queue.popleft()
                if not entry.landed.done():  # else its caller was cancelled before it began
                    group.append(entry)
                    _apply(connection, entry)
        except Exception as error:
            self._drop_writer()
            self._lock.release()
            if not group:
                self._fail_queue(str(error))
            self._landed(group, error)
        else:
            self._helper.post(lambda: self._commit(connection), lambda error: self._landed(group, error))

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except BaseException:
            self._drop_writer()
            raise
        finally:
            self._lock.release()  # here rather than on the loop, which may be busy while another process waits

    def _landed(self, group: list[_Write], error: BaseException | None) -> None:
        for entry in group:
            entry.settle(None if error is None else str(error))
        self._next_group()

    def _fail_queue(self, why: str) -> None:
        while self._queue:
            self._queue.popleft().settle(why)

    def _drop_writer(self) -> None:
        """Closing rolls back whatever state an error left; the next group gets a new connection."""
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.close()

    def _connect_writer(self) -> sqlite3.Connection:
        connection = _connect(self.path, read_only=False)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """Once a file. Under the lock: of two processes that do it at once, one would get "database is locked"."""
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            self._lock.acquire()
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                self._lock.release()

    def read_off_loop(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on a read connection of this thread's own."""
        try:
            connection = self._idle_readers.pop()
        except IndexError:
            connection = _connect(self.path, read_only=True)
        try:
            return _snapshot(connection, fn)
        finally:
            self._idle_readers.append(connection)

    async def release(self) -> None:
        """Drop a reference; the last one closes."""
        with _cores_lock:
            self.references -= 1
            if self.references:
                return
            del _cores[self.loop, self.path]
        try:
            await self._at_rest.wait()
        finally:
            if self._patience is not None:
                self._patience.cancel()
            await asyncio.to_thread(self.shut)

    def shut(self) -> None:
        """Close everything."""
        self._shut = True
        self._helper.stop()
        self.readers.shutdown(wait=True)
        for connection in (*self._idle_readers, self.near_reader):
            connection.close()
        self._drop_writer()
        self._lock.close()


class _Helper:
    """A daemon thread that does one job after the other: one that waits for a stuck process can't keep ours alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Job, Then] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="sqlite-commit", daemon=True)
        self._thread.start()

    def post(self, job: Job, then: Then) -> None:
        """Do `job` in the thread, then call `then` on the loop with the error it raised, or None."""
        self._jobs.put((job, then))

    def stop(self) -> None:
        """End the thread once it has done what was posted; one that is stuck is left behind after a second."""
        self._jobs.put(None)
        self._thread.join(timeout=1.0)

    def _serve(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, then = entry
            failure: BaseException | None = None
            try:
                job()
            except BaseException as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(then, failure)
            except RuntimeError:
                return  # the loop was closed: nobody waits any more
            del entry, job, then, failure  # while it sleeps, a thread's frame must not keep a group's documents alive


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS / 2, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _apply(connection: sqlite3.Connection, entry: _Write) -> None:
    connection.execute("SAVEPOINT entry")
    try:
        entry.value = entry.fn(connection)
    except BaseException as error:
        if not connection.in_transaction:  # SQLite gave up the whole transaction: the others' writes are gone too
            raise sqlite3.OperationalError(f"the transaction was lost: {error}") from error
        connection.execute("ROLLBACK TO entry")
        entry.error = _translated(error)
    connection.execute("RELEASE entry")


def _snapshot(connection: sqlite3.Connection, fn: Callable[[sqlite3.Connection], T]) -> T:
    try:
        connection.execute("BEGIN")
        try:
            return fn(connection)
        finally:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise _translated(error) from error


def _translated(error: BaseException) -> BaseException:
    """`Unavailable` for what a healthy machine would not have done; a mistake of ours stays what it is."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _OUTSIDE_OUR_POWER:
        return Unavailable(f"{error} ({getattr(error, 'sqlite_errorname', code)})")
    return error


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \t\r\n;"):
                yield statement
            statement = ""
