"""The task hub in SQLite: its tables, and the transactions that keep it true.

Every function here runs inside one transaction (or one snapshot) of `shared.sqlite.Database`. Nothing in memory is
needed to go on after a kill: an instance is its row, its history and its inbox; an activity that was not recorded as
ended is still in `durable_tasks`. `owner` is the host process that works on a row (`work.py` says who that is): what a
process writes lands only while it is the owner, so one that was declared dead can't write over its successor.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from devhost.durable import events
from devhost.durable.events import Event, EventType, compact
from devhost.durable.replay import Work

SCHEMA = """
CREATE TABLE IF NOT EXISTS durable_instances (
    id TEXT PRIMARY KEY, execution_id TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
    input TEXT, output TEXT, custom_status TEXT, created_at REAL NOT NULL, updated_at REAL NOT NULL,
    parent_id TEXT, parent_execution_id TEXT, parent_task_id INTEGER, owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS durable_history (
    instance_id TEXT NOT NULL, episode INTEGER NOT NULL, events TEXT NOT NULL, PRIMARY KEY (instance_id, episode)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS durable_inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, execution_id TEXT NOT NULL, event TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS durable_inbox_instance ON durable_inbox (instance_id, id);
CREATE TABLE IF NOT EXISTS durable_tasks (
    execution_id TEXT NOT NULL, task_id INTEGER NOT NULL, instance_id TEXT NOT NULL, name TEXT NOT NULL, input TEXT,
    owner TEXT NOT NULL, PRIMARY KEY (execution_id, task_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS durable_timers (
    execution_id TEXT NOT NULL, timer_id INTEGER NOT NULL, instance_id TEXT NOT NULL, fire_at REAL NOT NULL,
    PRIMARY KEY (execution_id, timer_id)
) WITHOUT ROWID
"""

ENDED = frozenset({"Completed", "Failed", "Terminated"})

News = tuple[str, str]
"""An instance that has something in its inbox, and its owner, who is to be woken."""
WhoRuns = Callable[[sqlite3.Connection, int], Sequence[str]]
"""Answers the owners of so many new activities."""


class UnknownInstance(Exception):
    """There is no such instance."""


class InstanceEnded(Exception):
    """The instance is completed, failed or terminated, or another execution took its id."""


class InstanceExists(Exception):
    """An instance of that id has not ended. `status` says where it is."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(instance_id, status)
        self.instance_id, self.status = instance_id, status

    def __str__(self) -> str:
        return f"An orchestration with id '{self.instance_id}' already exists. It is in state {self.status}"


class LostInstance(Exception):
    """The instance is not ours (any more): what was computed from our view of it must not be written."""


@dataclass(frozen=True, slots=True)
class Parent:
    """Who waits for a sub-orchestration."""

    instance_id: str
    execution_id: str
    task_id: int


@dataclass(slots=True)
class Instance:
    """A row of `durable_instances`. Inputs, outputs and custom statuses are JSON texts; times are Unix seconds."""

    id: str
    execution_id: str
    name: str
    status: str
    input_json: str | None
    output_json: str | None
    custom_status_json: str | None
    created_at: float
    updated_at: float
    owner: str = ""
    parent: Parent | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(slots=True)
class Loaded:
    """An instance with its history: parsed for the replay, and as the text that goes into the SDK's context."""

    instance: Instance
    history: list[Event] = field(default_factory=list)
    text: str = ""
    episodes: int = 0

    def append(self, text: str, parsed: Iterable[Event]) -> None:
        self.history.extend(parsed)
        self.text = f"{self.text},{text}" if self.text else text
        self.episodes += 1


@dataclass(frozen=True, slots=True)
class Message:
    """What waits in an instance's inbox."""

    id: int
    execution_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class ActivityTask:
    """An activity to run. `input_json` is JSON text, or any text."""

    instance_id: str
    execution_id: str
    task_id: int
    name: str
    input_json: str | None


@dataclass(frozen=True, slots=True)
class Timer:
    """When (Unix seconds) to tell which instance."""

    fire_at: float
    execution_id: str
    timer_id: int
    instance_id: str


@dataclass(frozen=True, slots=True)
class Landed:
    """What a recorded episode leads to: who has news, and who runs its new activities (by task id; '': nobody yet)."""

    news: list[News]
    runners: dict[int, str]


@dataclass(frozen=True, slots=True)
class Episode:
    """Everything that one call of an orchestrator changes."""

    instance: Instance
    number: int
    at: float
    consumed: Sequence[int]
    events_text: str
    status: str
    output_json: str | None
    custom_status_json: str | None
    work: Sequence[Work]
    cancelled_timers: frozenset[int]
    for_parent: Event | None


_COLUMNS = (
    "id, execution_id, name, status, input, output, custom_status, created_at, updated_at, owner, "
    "parent_id, parent_execution_id, parent_task_id"
)


def _instance(row: Sequence[Any]) -> Instance:
    found = Instance(*row[:10])
    if row[10] is not None:
        found.parent = Parent(*row[10:])
    return found


def instance(connection: sqlite3.Connection, instance_id: str) -> Instance:
    """The row of `instance_id`. Raises `UnknownInstance`."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM durable_instances WHERE id = ?", (instance_id,)).fetchone()  # noqa: S608
    if row is None:
        raise UnknownInstance(instance_id)
    return _instance(row)


def instances(connection: sqlite3.Connection) -> list[Instance]:
    """All instances, oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM durable_instances ORDER BY created_at, id")  # noqa: S608
    return [_instance(row) for row in rows]


def load(connection: sqlite3.Connection, instance_id: str) -> Loaded:
    """An instance with its history. Raises `UnknownInstance`."""
    loaded = Loaded(instance(connection, instance_id))
    rows = connection.execute(
        "SELECT events FROM durable_history WHERE instance_id = ? ORDER BY episode", (instance_id,)
    )
    for (text,) in rows:
        loaded.append(text, json.loads(f"[{text}]"))
    return loaded


def inbox(connection: sqlite3.Connection, instance_id: str) -> list[Message]:
    """What waits for an instance, in the order in which it came."""
    rows = connection.execute(
        "SELECT id, execution_id, event FROM durable_inbox WHERE instance_id = ? ORDER BY id", (instance_id,)
    )
    return [Message(number, execution_id, json.loads(event)) for number, execution_id, event in rows]


def start(
    connection: sqlite3.Connection,
    owner: str,
    at: float,
    *,
    instance_id: str,
    name: str,
    input_json: str | None,
    parent: Parent | None = None,
    parent_name: str = "",
) -> None:
    """Create an instance, in place of one that has ended. Raises `InstanceExists` if one has not."""
    row = connection.execute("SELECT status FROM durable_instances WHERE id = ?", (instance_id,)).fetchone()
    if row is not None:
        if row[0] not in ENDED:
            raise InstanceExists(instance_id, row[0])
        _forget(connection, instance_id)
    execution_id = str(uuid4())
    columns: tuple[Any, Any, Any] = (None, None, None)
    if parent is not None:
        columns = (parent.instance_id, parent.execution_id, parent.task_id)
    connection.execute(
        "INSERT INTO durable_instances (id, execution_id, name, status, input, created_at, updated_at, parent_id, "
        "parent_execution_id, parent_task_id, owner) VALUES (?, ?, ?, 'Pending', ?, ?, ?, ?, ?, ?, ?)",
        (instance_id, execution_id, name, input_json, at, at, *columns, owner),
    )
    told = events.parent_instance(parent_name, *columns) if parent else None
    event = events.execution_started(
        at, name, instance_id=instance_id, execution_id=execution_id, input_json=input_json, parent=told
    )
    _put(connection, instance_id, execution_id, event)


def post(connection: sqlite3.Connection, instance_id: str, event: Event, execution_id: str | None = None) -> News:
    """Put `event` into an inbox, if it is (still) that execution's. Raises `UnknownInstance`, `InstanceEnded`."""
    row = connection.execute(
        "SELECT execution_id, status, owner FROM durable_instances WHERE id = ?", (instance_id,)
    ).fetchone()
    if row is None:
        raise UnknownInstance(instance_id)
    if row[1] in ENDED or execution_id not in (None, row[0]):
        raise InstanceEnded(instance_id)
    _put(connection, instance_id, row[0], event)
    return instance_id, row[2]


def purge(connection: sqlite3.Connection, instance_id: str) -> None:
    """Delete an instance that has ended and all it left. Raises `UnknownInstance`, `InstanceExists`."""
    row = instance(connection, instance_id)
    if not row.ended:
        raise InstanceExists(instance_id, row.status)
    _forget(connection, instance_id)
    connection.execute("DELETE FROM durable_tasks WHERE execution_id = ?", (row.execution_id,))


def commit_episode(connection: sqlite3.Connection, owner: str, episode: Episode, who_runs: WhoRuns) -> Landed:
    """Record what an orchestrator's call changes; its instance is `owner`'s then. Raises `LostInstance`.

    It lands only if nobody has taken or carried on the instance since it was loaded, and `owner` wasn't declared dead.
    """
    row, at = episode.instance, episode.at
    landed = connection.execute(
        "UPDATE durable_instances SET status = ?, output = ?, custom_status = ?, updated_at = ?, owner = ? "
        "WHERE id = ? AND execution_id = ? AND owner = ? AND ? IN (SELECT id FROM durable_processes)",
        (
            *(episode.status, episode.output_json, episode.custom_status_json, at, owner),
            *(row.id, row.execution_id, row.owner, owner),
        ),
    ).rowcount
    if landed != 1:
        raise LostInstance(row.id)
    connection.executemany("DELETE FROM durable_inbox WHERE id = ?", [(number,) for number in episode.consumed])
    try:
        connection.execute(
            "INSERT INTO durable_history (instance_id, episode, events) VALUES (?, ?, ?)",
            (row.id, episode.number, episode.events_text),
        )
    except sqlite3.IntegrityError as error:  # our view of the history is older than the hub's
        raise LostInstance(row.id) from error
    runners = _schedule(connection, episode, who_runs)
    news = _start_children(connection, owner, episode)
    if episode.status in ENDED:
        connection.execute("DELETE FROM durable_inbox WHERE instance_id = ?", (row.id,))
        connection.execute("DELETE FROM durable_timers WHERE execution_id = ?", (row.execution_id,))
    if episode.for_parent is not None and row.parent is not None:
        news += tell(connection, row.parent.instance_id, row.parent.execution_id, episode.for_parent)
    return Landed(news, runners)


def fire(connection: sqlite3.Connection, due: Iterable[Timer], at: float) -> list[News]:
    """Tell the instances of `due` timers that still exist; answers whom to wake."""
    news: list[News] = []
    for timer in due:
        key = (timer.execution_id, timer.timer_id)
        landed = connection.execute("DELETE FROM durable_timers WHERE execution_id = ? AND timer_id = ?", key).rowcount
        if landed:
            event = events.timer_fired(at, timer.timer_id, timer.fire_at)
            news += tell(connection, timer.instance_id, timer.execution_id, event)
    return news


def tell(connection: sqlite3.Connection, instance_id: str, execution_id: str, event: Event) -> list[News]:
    """`post`, but an execution that has ended needs no news."""
    try:
        return [post(connection, instance_id, event, execution_id)]
    except (UnknownInstance, InstanceEnded):
        return []  # nobody waits any more


def _put(connection: sqlite3.Connection, instance_id: str, execution_id: str, event: Event) -> None:
    connection.execute(
        "INSERT INTO durable_inbox (instance_id, execution_id, event) VALUES (?, ?, ?)",
        (instance_id, execution_id, compact(event)),
    )


def _forget(connection: sqlite3.Connection, instance_id: str) -> None:
    # Activities stay: like the extension's, those of a terminated instance run to their end, unheard.
    connection.execute("DELETE FROM durable_instances WHERE id = ?", (instance_id,))
    connection.execute("DELETE FROM durable_history WHERE instance_id = ?", (instance_id,))


def _schedule(connection: sqlite3.Connection, episode: Episode, who_runs: WhoRuns) -> dict[int, str]:
    row = episode.instance
    tasks = [work for work in episode.work if work.kind == EventType.TASK_SCHEDULED]
    runners = who_runs(connection, len(tasks)) if tasks else ()
    connection.executemany(
        "INSERT INTO durable_tasks (execution_id, task_id, instance_id, name, input, owner) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (row.execution_id, work.task_id, row.id, work.name, work.input_json, runner)
            for work, runner in zip(tasks, runners, strict=True)
        ],
    )
    connection.executemany(
        "INSERT INTO durable_timers (execution_id, timer_id, instance_id, fire_at) VALUES (?, ?, ?, ?)",
        [
            (row.execution_id, work.task_id, row.id, work.fire_at)
            for work in episode.work
            if work.kind == EventType.TIMER_CREATED
        ],
    )
    connection.executemany(
        "DELETE FROM durable_timers WHERE execution_id = ? AND timer_id = ?",
        [(row.execution_id, timer_id) for timer_id in episode.cancelled_timers],
    )
    return {work.task_id: runner for work, runner in zip(tasks, runners, strict=True)}


def _start_children(connection: sqlite3.Connection, owner: str, episode: Episode) -> list[News]:
    row, news = episode.instance, []
    for work in episode.work:
        if work.kind != EventType.CHILD_CREATED:
            continue
        try:
            start(
                connection,
                owner,
                episode.at,
                instance_id=work.instance_id,
                name=work.name,
                # The SDK's action holds JSON text, and the extension encodes that text once more.
                input_json=None if work.input_json is None else compact(work.input_json),
                parent=Parent(row.id, row.execution_id, work.task_id),
                parent_name=row.name,
            )
            news.append((work.instance_id, owner))
        except InstanceExists as error:
            event = events.child_failed(episode.at, work.task_id, str(error), "")
            news += tell(connection, row.id, row.execution_id, event)
    return news
