"""Which of the processes on a data folder runs the triggers: one, and another within seconds of its death.

The leader is a process of the Durable engine's table, which knows who lives (`durable/processes.py`): who finds that the
leader is not among the living takes its place. What a leader writes lands only while it is the leader, so one that was
declared dead and comes back can't write over its successor.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from shared.sqlite import Database

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS trigger_leader (
    only INTEGER PRIMARY KEY CHECK (only = 1), owner TEXT NOT NULL
) WITHOUT ROWID
"""
_LIVING = "(SELECT id FROM durable_processes)"
_CLAIM = f"""
INSERT INTO trigger_leader (only, owner) SELECT 1, :me WHERE :me IN {_LIVING}
ON CONFLICT (only) DO UPDATE SET owner = :me WHERE owner NOT IN {_LIVING}
"""


class NotLeader(Exception):
    """Another process runs the triggers (now)."""


class Leadership:
    """This process's claim. `me` answers the id under which it lives in the hub, which changes when it was declared dead."""

    def __init__(self, database: Database, me: Callable[[], str]) -> None:
        self._database, self._me = database, me

    async def prepare(self) -> None:
        """Make the table. Raises `Unavailable`."""
        await self._database.create(SCHEMA)

    async def claim(self) -> bool:
        """Become the leader if none is alive; answers whether we lead. Raises `Unavailable`."""
        me = self._me()
        leader = self._database.fetch(f"SELECT owner, owner IN {_LIVING} FROM trigger_leader", ())  # noqa: S608
        if leader and (leader[0][0] == me or leader[0][1]):
            return bool(leader[0][0] == me)
        return await self._database.write(lambda connection: connection.execute(_CLAIM, {"me": me}).rowcount == 1)

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """`Database.write` that only the leader can. Raises `NotLeader`, `Unavailable`."""
        me = self._me()

        def guarded(connection: sqlite3.Connection) -> T:
            if connection.execute("SELECT 1 FROM trigger_leader WHERE owner = ?", (me,)).fetchone() is None:
                raise NotLeader
            return change(connection)

        return await self._database.write(guarded)
