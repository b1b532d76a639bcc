"""Messages between functions: run requests and notifications. A port, and a table in the SQLite file.

Like Azure's queues: a message is seen at least once, in no promised order, and carries a small JSON object.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from shared.errors import TooLarge
from shared.sqlite import Database

MAX_BODY = 48 * 1024
"""Azure takes 64 KB of base64, which is this much JSON."""
MAX_PEEK = 32
_NAME = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")

# Times are Unix seconds of the machine's clock. A trigger leases a message by moving `visible_at` into the future and
# counting the delivery; `id` then tells it apart and gives the order.
_TABLES = """
CREATE TABLE IF NOT EXISTS queue_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL, queue TEXT NOT NULL, body TEXT NOT NULL,
    inserted_at REAL NOT NULL, visible_at REAL NOT NULL, dequeue_count INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS queue_by_time ON queue_messages (queue, visible_at, id);
"""


class QueueSender(Protocol):
    """Sends messages. Both methods raise `Unavailable`, and `ValueError` for a queue name that Azure would refuse."""

    async def send(self, queue: str, body: Mapping[str, Any]) -> None:
        """Put one message; durable when this returns. Raises `TooLarge` over 48 KB of JSON."""
        ...

    async def peek(self, queue: str, limit: int = 32) -> list[dict[str, Any]]:
        """The bodies of messages that wait, the oldest first, leaving them there; `limit` is 1 to 32."""
        ...


def message_text(queue: str, body: Mapping[str, Any]) -> str:
    """The message as JSON text. Raises `ValueError` for a name or value that can't be sent, `TooLarge`."""
    check_queue_name(queue)
    text = json.dumps(dict(body), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    size = len(text.encode())
    if size > MAX_BODY:
        raise TooLarge(f"bytes in a message to {queue!r}", size, MAX_BODY)
    return text


def check_queue_name(queue: str) -> None:
    """Raise `ValueError` unless this is a queue's name: 3 to 63 lower-case letters, digits and single inner hyphens."""
    if not _NAME.fullmatch(queue):
        raise ValueError(f"{queue!r} is not a queue name")


def check_peek(queue: str, limit: int) -> None:
    """Raise `ValueError` for a name or limit that Azure would refuse."""
    check_queue_name(queue)
    if not 1 <= limit <= MAX_PEEK:
        raise ValueError(f"limit is 1 to {MAX_PEEK}, not {limit}")


class SqliteQueue:
    """`QueueSender` on a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ready = False

    async def send(self, queue: str, body: Mapping[str, Any]) -> None:
        text = message_text(queue, body)
        await self._prepare()
        now = time.time()
        values = (uuid.uuid4().hex, queue, text, now, now)

        def run(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO queue_messages (message_id, queue, body, inserted_at, visible_at) VALUES (?, ?, ?, ?, ?)",
                values,
            )

        await self._database.write(run)

    async def peek(self, queue: str, limit: int = MAX_PEEK) -> list[dict[str, Any]]:
        check_peek(queue, limit)
        await self._prepare()
        sql = "SELECT body FROM queue_messages WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?"
        values = (queue, time.time(), limit)
        rows = self._database.read_now(lambda connection: connection.execute(sql, values).fetchall())
        return [json.loads(row[0]) for row in rows]

    async def _prepare(self) -> None:
        if not self._ready:
            await self._database.create(_TABLES)
            self._ready = True
