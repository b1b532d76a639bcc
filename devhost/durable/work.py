"""Who does what: the processes of a task hub, and the transactions that divide its work among them and pass it on.

An instance belongs to the process that runs its episodes; an activity to the one that runs it, or to nobody (`''`) while
all have enough. An owner is always a process of `durable_processes`, for both are written in transactions that look
there. So declaring a process dead is deleting its row and giving away what it owned; what it still writes
afterwards fails on the owner.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle

from devhost.durable import hub
from devhost.durable.events import Event
from devhost.durable.hub import ActivityTask, News, Timer
from devhost.durable.processes import Process

SCHEMA = """
CREATE TABLE IF NOT EXISTS durable_processes (
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, port INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS durable_tasks_owner ON durable_tasks (owner);
CREATE INDEX IF NOT EXISTS durable_timers_due ON durable_timers (fire_at)
"""
"""Beside `hub.SCHEMA`, which must be there first."""

NOBODY = ""
MANY = 1000
_LIVING = "(SELECT id FROM durable_processes)"


@dataclass(frozen=True, slots=True)
class Sight:
    """What one process sees in the hub.

    `tasks` are its own that it does not know of yet; `free` counts those that belong to nobody; `mine` are its instances
    with news; `foreign` other processes' instances with news, each with its oldest message; `last_message` is the newest.
    """

    processes: list[Process]
    tasks: list[ActivityTask]
    free: int
    timers: list[Timer]
    mine: list[str]
    foreign: list[tuple[str, int]]
    last_message: int


def join(connection: sqlite3.Connection, process: Process) -> None:
    """Add a process, and give away what belongs to none that is known."""
    row = (process.id, process.pid, process.port)
    connection.execute("INSERT INTO durable_processes (id, pid, port) VALUES (?, ?, ?)", row)
    _give_away(connection)


def bury(connection: sqlite3.Connection, dead: Iterable[str]) -> None:
    """Remove processes and give away what they owned. Whoever comes second finds nothing to do."""
    connection.executemany("DELETE FROM durable_processes WHERE id = ?", [(one,) for one in dead])
    _give_away(connection)


def look(
    connection: sqlite3.Connection,
    owner: str,
    known: Container[tuple[str, int]],
    now: float,
    horizon: float,
    late: float,
) -> Sight:
    """What `owner` has to see to. `known`: (execution id, task id) of the activities that it has already.

    Timers are its own that are due within `horizon` seconds, and anybody's that should have fired `late` seconds ago.
    """
    processes = connection.execute("SELECT id, pid, port FROM durable_processes")
    keys = connection.execute("SELECT execution_id, task_id FROM durable_tasks WHERE owner = ?", (owner,))
    unknown = [key for key in keys if key not in known]
    free = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM durable_tasks WHERE owner = '' LIMIT ?)", (MANY,)
    ).fetchone()[0]
    timers = connection.execute(
        "SELECT t.fire_at, t.execution_id, t.timer_id, t.instance_id FROM durable_timers t "
        "JOIN durable_instances n ON n.id = t.instance_id WHERE t.fire_at <= ? AND (n.owner = ? OR t.fire_at <= ?)",
        (now + horizon, owner, now - late),
    )
    inbox = connection.execute(
        "SELECT b.instance_id, n.owner, min(b.id), max(b.id) FROM durable_inbox b "
        "JOIN durable_instances n ON n.id = b.instance_id GROUP BY b.instance_id"
    ).fetchall()
    return Sight(
        processes=[Process(*row) for row in processes],
        tasks=[_task(connection, key) for key in unknown],
        free=free,
        timers=[Timer(*row) for row in timers],
        mine=[row[0] for row in inbox if row[1] == owner],
        foreign=[(row[0], row[2]) for row in inbox if row[1] != owner],
        last_message=max((row[3] for row in inbox), default=0),
    )


def loads(connection: sqlite3.Connection) -> dict[str, int]:
    """How many activities each process has."""
    rows = connection.execute(
        "SELECT id, (SELECT count(*) FROM durable_tasks WHERE owner = durable_processes.id) FROM durable_processes"
    )
    return dict(rows.fetchall())


def share_out(owner: str, loads: Mapping[str, int], count: int, limit: int) -> list[str]:
    """Who gets each of `count` new activities of `owner`'s: who has the fewest, of equals `owner`; nobody above `limit`."""
    heap = [(load, one != owner, one) for one, load in loads.items()]
    heapq.heapify(heap)
    chosen = []
    for _ in range(count):
        load, other, one = heap[0] if heap else (limit, True, NOBODY)
        if load >= limit:
            chosen.append(NOBODY)
        else:
            chosen.append(one)
            heapq.heapreplace(heap, (load + 1, other, one))
    return chosen


def finish_task(
    connection: sqlite3.Connection, owner: str, task: ActivityTask, event: Event, claim_next: bool
) -> tuple[list[News], list[ActivityTask]]:
    """Record how an activity ended; answers the news, none if the task was no longer ours, and what to do next."""
    key = (task.execution_id, task.task_id, owner)
    landed = connection.execute(
        "DELETE FROM durable_tasks WHERE execution_id = ? AND task_id = ? AND owner = ?", key
    ).rowcount
    news = hub.tell(connection, task.instance_id, task.execution_id, event) if landed else []
    return news, claim(connection, owner, 1) if claim_next else []


def claim(connection: sqlite3.Connection, owner: str, count: int) -> list[ActivityTask]:
    """Make up to `count` activities that belong to nobody `owner`'s; none if it is dead."""
    keys = connection.execute(
        f"SELECT execution_id, task_id FROM durable_tasks WHERE owner = '' AND ? IN {_LIVING} LIMIT ?",  # noqa: S608
        (owner, count),
    ).fetchall()
    connection.executemany(
        "UPDATE durable_tasks SET owner = ? WHERE execution_id = ? AND task_id = ?", [(owner, *key) for key in keys]
    )
    return [_task(connection, key) for key in keys]


def _task(connection: sqlite3.Connection, key: tuple[str, int]) -> ActivityTask:
    row = connection.execute(
        "SELECT instance_id, execution_id, task_id, name, input FROM durable_tasks "
        "WHERE execution_id = ? AND task_id = ?",
        key,
    ).fetchone()
    return ActivityTask(*row)


def _give_away(connection: sqlite3.Connection) -> None:
    """Instances whose owner is gone go to the living, in turn; activities to whoever has room."""
    living = [row[0] for row in connection.execute("SELECT id FROM durable_processes ORDER BY id")]
    orphans = connection.execute(
        f"SELECT id FROM durable_instances WHERE status NOT IN ('Completed', 'Failed', 'Terminated') "  # noqa: S608
        f"AND owner NOT IN {_LIVING}"
    ).fetchall()
    if living:
        heirs = cycle(living)
        connection.executemany(
            "UPDATE durable_instances SET owner = ? WHERE id = ?", [(next(heirs), row[0]) for row in orphans]
        )
    connection.execute(f"UPDATE durable_tasks SET owner = '' WHERE owner != '' AND owner NOT IN {_LIVING}")  # noqa: S608
