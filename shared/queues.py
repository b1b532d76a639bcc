"""Messages between functions: run requests and notifications. Two ports, and a table in the SQLite file.

Like Azure's queues: a message is seen at least once, in no promised order, and carries a small JSON object. What is too
large for one goes by reference (`queue_bodies.py`).
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from shared.errors import NotFound, TooLarge
from shared.ids import to_text
from shared.sqlite import Database

MAX_BODY = 48 * 1024
"""Azure takes 64 KB of base64, which is this much JSON."""
MAX_PEEK = 32
MAX_VISIBILITY = 7 * 24 * 3600
MAX_DELAY = 6 * 24 * 3600
"""Azure drops a message after 7 days, and refuses one that would not be seen before."""
NEVER = "9999-12-31T23:59:59.999Z"
"""When a message expires that doesn't."""
POISON = "-poison"
"""What the Functions host puts at the end of a queue's name for the messages that nobody could work on."""
_NAME = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")

# Times are Unix seconds of the machine's clock. A lease moves `visible_at` into the future and counts the delivery: the
# two together are its receipt, as every lease and renewal changes them. `id` gives the order.
_TABLES = """
CREATE TABLE IF NOT EXISTS queue_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL, queue TEXT NOT NULL, body TEXT NOT NULL,
    inserted_at REAL NOT NULL, visible_at REAL NOT NULL, dequeue_count INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS queue_by_time ON queue_messages (queue, visible_at, id);
CREATE INDEX IF NOT EXISTS queue_by_message ON queue_messages (message_id);
"""
_RECEIPT = "printf('%d:%.6f', dequeue_count, visible_at)"
_FIELDS = f"queue, message_id, body, {_RECEIPT}, dequeue_count, inserted_at, visible_at"
_LEASED = f"message_id = ? AND queue = ? AND {_RECEIPT} = ?"


@dataclass(frozen=True, slots=True)
class Received:
    """A message that is leased to us. `text` is JSON if we sent it; `receipt` proves the lease, until it is renewed or
    has run out and the message was leased again. `dequeue_count` is 1 at the first delivery; times are RFC 3339 UTC.
    `garbled`: it is not in the queue's encoding, and `text` is what is there instead."""

    queue: str
    id: str
    text: str
    receipt: str
    dequeue_count: int
    inserted_at: str
    visible_at: str
    expires_at: str
    garbled: bool = False


class QueueSender(Protocol):
    """Sends messages. Methods raise `Throttled`, `Unavailable`, and `ValueError` for a queue name that Azure would refuse.

    In Azure a queue must have been made (`python -m truestop.admin init`); one that isn't there is `Unavailable`.
    """

    async def send(self, queue: str, body: Mapping[str, Any], delay_seconds: int = 0) -> None:
        """Put one message; durable when this returns. `delay_seconds`: nobody sees it before, at most 6 days.

        Raises `TooLarge` over 48 KB of JSON.
        """
        ...

    async def peek(self, queue: str, limit: int = 32) -> list[dict[str, Any]]:
        """The bodies of messages that wait, the oldest first, leaving them there; `limit` is 1 to 32.

        Messages of others that aren't JSON objects are left out.
        """
        ...

    async def close(self) -> None:
        """Release what this holds. Idempotent."""
        ...


class QueueReader(Protocol):
    """Takes messages, at least once each. Raises as `QueueSender` does.

    In Azure the Functions host reads queues; this is for who stands in for it. A message is invisible to others while it
    is leased. When its lease runs out, or its reader dies, it is delivered again.
    """

    async def receive(self, queue: str, visibility_seconds: int, limit: int = 1) -> list[Received]:
        """Lease up to `limit` (1 to 32) messages for 1 s to 7 days."""
        ...

    async def update(self, message: Received, visibility_seconds: int) -> Received:
        """Renew the lease from now on (0: give it back). `NotFound` if it was lost; the old receipt is void."""
        ...

    async def delete(self, message: Received) -> None:
        """The message is done. Raises `NotFound` if the lease was lost: someone else has it, or had it and is done."""
        ...

    async def poison(self, message: Received) -> None:
        """Move it to `<queue>-poison`, made if needed. Raises `NotFound` if the lease was lost (it may be there twice)."""
        ...


def message_text(queue: str, body: Mapping[str, Any], limit: int | None = MAX_BODY) -> str:
    """The message as JSON text. Raises `ValueError` or `TypeError` for a name or value that can't be sent, `TooLarge`."""
    check_queue_name(queue)
    text = json.dumps(dict(body), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    size = len(text.encode())
    if limit is not None and size > limit:
        raise TooLarge(f"bytes in a message to {queue!r}", size, limit)
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


def check_visibility(seconds: int, least: int) -> None:
    """Raise `ValueError` unless a message may be hidden for so long."""
    if not least <= seconds <= MAX_VISIBILITY:
        raise ValueError(f"a message is hidden for {least} to {MAX_VISIBILITY} seconds, not {seconds}")


def check_delay(seconds: int) -> None:
    """Raise `ValueError` unless a message may be sent with this delay."""
    if not 0 <= seconds <= MAX_DELAY:
        raise ValueError(f"a message is delayed for 0 to {MAX_DELAY} seconds, not {seconds}")


def bodies(texts: Iterable[str]) -> list[dict[str, Any]]:
    """The JSON objects among `texts`."""
    found = []
    for text in texts:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(body, dict):
            found.append(body)
    return found


class SqliteQueue:
    """`QueueSender` and `QueueReader` on a `Database`, which stays its owner's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ready = False

    async def send(self, queue: str, body: Mapping[str, Any], delay_seconds: int = 0) -> None:
        text = message_text(queue, body)
        check_delay(delay_seconds)
        await self._prepare()
        await self._database.write(partial(_insert, queue=queue, text=text, delay_seconds=delay_seconds))

    async def peek(self, queue: str, limit: int = MAX_PEEK) -> list[dict[str, Any]]:
        check_peek(queue, limit)
        await self._prepare()
        sql = "SELECT body FROM queue_messages WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?"
        values = (queue, time.time(), limit)
        rows = self._database.fetch(sql, values)
        return bodies(row[0] for row in rows)

    async def close(self) -> None:
        """Nothing is held but the database."""

    async def receive(self, queue: str, visibility_seconds: int, limit: int = 1) -> list[Received]:
        check_peek(queue, limit)
        check_visibility(visibility_seconds, 1)
        await self._prepare()
        sql = "SELECT 1 FROM queue_messages WHERE queue = ? AND visible_at <= ? LIMIT 1"
        if not self._database.fetch(sql, (queue, time.time())):
            return []  # a write that changes nothing would still have its turn among the others

        def lease(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            now = time.time()
            sql = "SELECT id FROM queue_messages WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?"
            ids = connection.execute(sql, (queue, now, limit)).fetchall()
            sql = f"""UPDATE queue_messages SET visible_at = ?, dequeue_count = dequeue_count + 1 WHERE id = ?
                RETURNING {_FIELDS}"""  # noqa: S608 - a constant
            return [connection.execute(sql, (now + visibility_seconds, *row)).fetchone() for row in ids]

        return [_received(row) for row in await self._database.write(lease)]

    async def update(self, message: Received, visibility_seconds: int) -> Received:
        check_visibility(visibility_seconds, 0)
        await self._prepare()

        def renew(connection: sqlite3.Connection) -> tuple[Any, ...]:
            sql = f"UPDATE queue_messages SET visible_at = ? WHERE {_LEASED} RETURNING {_FIELDS}"  # noqa: S608
            return _leased(connection, message, sql, time.time() + visibility_seconds)

        return _received(await self._database.write(renew))

    async def delete(self, message: Received) -> None:
        await self._prepare()
        await self._database.write(partial(_delete, message=message))

    async def poison(self, message: Received) -> None:
        queue = message.queue + POISON
        check_queue_name(queue)
        await self._prepare()

        def move(connection: sqlite3.Connection) -> None:
            _delete(connection, message)
            _insert(connection, queue, message.text)

        await self._database.write(move)

    async def _prepare(self) -> None:
        if not self._ready:
            await self._database.create(_TABLES)
            self._ready = True


def _insert(connection: sqlite3.Connection, queue: str, text: str, delay_seconds: int = 0) -> None:
    now = time.time()
    connection.execute(
        "INSERT INTO queue_messages (message_id, queue, body, inserted_at, visible_at) VALUES (?, ?, ?, ?, ?)",
        (uuid.uuid4().hex, queue, text, now, now + delay_seconds),
    )


def _delete(connection: sqlite3.Connection, message: Received) -> None:
    _leased(connection, message, f"DELETE FROM queue_messages WHERE {_LEASED} RETURNING id")  # noqa: S608


def _leased(connection: sqlite3.Connection, message: Received, sql: str, *values: float) -> tuple[Any, ...]:
    """Run `sql` on the message if the lease is still ours. Raises `NotFound`."""
    key = (message.id, message.queue, message.receipt)
    row: tuple[Any, ...] | None = connection.execute(sql, (*values, *key)).fetchone()
    if row is None:
        raise NotFound(message.id)
    return row


def _received(row: tuple[Any, ...]) -> Received:
    queue, message_id, body, receipt, dequeue_count, inserted_at, visible_at = row
    inserted, visible = (to_text(datetime.fromtimestamp(seconds, UTC)) for seconds in (inserted_at, visible_at))
    return Received(queue, message_id, body, receipt, dequeue_count, inserted, visible, NEVER)
