"""Blob triggers: each version of a blob that fits calls a function once, and again when that failed.

As in the host there are two halves. Each function's listener scans its container and puts a message into a queue for each
version that has no receipt, then writes the receipt. One consumer takes the messages and calls the functions; what fails
too often ends in `webjobs-blobtrigger-poison`. A blob that is gone or has a newer version by then is passed over.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from azure.functions.blob import BlobConverter

from devhost.bindings import BadBinding, Unserved, check_annotation, resolved
from devhost.functions import HostedFunction
from devhost.triggers.blob_paths import BlobPath, check_container_name, parse_blob_path
from devhost.triggers.calls import Caller, log
from devhost.triggers.consumer import Consumer
from devhost.triggers.containers import input_stream
from devhost.triggers.leader import Leadership
from devhost.triggers.queue_options import QueueOptions
from devhost.triggers.storage import Storage, check_connection
from shared.errors import NotFound, StoreError, TooLarge
from shared.queues import Received
from shared.sqlite import Database

KIND = "blobTrigger"
QUEUE = "webjobs-blobtrigger"
SCHEMA = """
CREATE TABLE IF NOT EXISTS trigger_blobs (
    function TEXT NOT NULL, name TEXT NOT NULL, etag TEXT NOT NULL, PRIMARY KEY (function, name)
) WITHOUT ROWID
"""
FUNCTION_ID = "Host.Functions."
AT_ONCE = 32
REST = 10
"""A scan is followed by a pause of at least so many times its own duration."""
_SOURCES = (None, "EventGrid", "LogsAndContainerScan")


class Blob:
    """The listener of one blob function."""

    def __init__(self, caller: Caller, storage: Storage, database: Database, leadership: Leadership) -> None:
        """Raises `BadBinding`, `Unserved`, `SettingsError`, `Unavailable`."""
        self.caller = caller
        self._storage, self._database, self._leadership = storage, database, leadership
        function = caller.function
        trigger: Any = function.trigger
        check_annotation(function, BlobConverter.check_input_type_annotation)
        check_connection(function, trigger.connection)
        if trigger.source not in _SOURCES:
            raise Unserved(function.name, f"a blob trigger with source {trigger.source!r}")
        self._path = _blob_path(function, trigger.path)
        self._container = storage.container(self._path.container)
        self._queues = storage.queues()
        self._out_of_reach = False

    async def run(self) -> None:
        """Scan until cancelled. Raises `NotLeader`, `StoreError`."""
        await self._storage.make_queue(QUEUE)
        sql = "SELECT name, etag FROM trigger_blobs WHERE function = ?"
        receipts: dict[str, str] = dict(self._database.fetch(sql, (self.caller.function.name,)))
        before: Mapping[str, str] | None = None
        while True:
            began = time.monotonic()
            found = await self._scan()
            took = time.monotonic() - began
            if found is not None:
                await self._forget(receipts, [name for name in receipts if name not in found])
                settled = found.items() if not self._container.settles else found.items() & (before or {}).items()
                await self._announce(receipts, [(name, etag) for name, etag in settled if receipts.get(name) != etag])
                before = found
            await asyncio.sleep(max(self._storage.scan_seconds, REST * took))

    async def by_hand(self, given: str | None) -> None:
        """Call the function with the blob at `container/name`. Raises `StoreError`, `ValueError`."""
        container, _, name = (given or "").partition("/")
        check_container_name(container)
        blob = await self._storage.container(container).open(name)
        await self.caller(input_stream(container, name, blob))

    async def work(self, message: Mapping[str, Any]) -> bool:
        """Call the function with the version that a message means, if it is still there; whether that is done with."""
        name = message["BlobName"]
        try:
            blob = await self._container.open(name)
        except NotFound:
            return True
        except (TooLarge, ValueError) as error:
            log.error("blob %s can't be given to function %s: %s", name, self.caller.function.name, error)
            return False
        if blob.etag != message["ETag"]:
            return True
        return await self.caller(input_stream(self._path.container, name, blob))

    async def _scan(self) -> dict[str, str] | None:
        """The versions there are that fit; None if nobody can say."""
        try:
            found = await self._container.versions(self._path.prefix)
        except StoreError as error:
            if not self._out_of_reach:
                log.warning("container %s can't be read; trying again: %s", self._path.container, error)
            self._out_of_reach = True
            return None
        if self._out_of_reach:
            log.info("container %s can be read again", self._path.container)
        self._out_of_reach = False
        return {name: etag for name, etag in found.items() if self._path.fits(name)}

    async def _announce(self, receipts: dict[str, str], versions: Sequence[tuple[str, str]]) -> None:
        """Send messages, then write receipts: killed in between, we send some twice rather than none."""
        rest = iter(versions)
        while some := list(islice(rest, AT_ONCE)):
            await asyncio.gather(*(self._queues.send(QUEUE, self._message(*version)) for version in some))
            rows = [(self.caller.function.name, *version) for version in some]

            def write(connection: sqlite3.Connection, rows: Sequence[Any] = rows) -> None:
                connection.executemany("INSERT OR REPLACE INTO trigger_blobs VALUES (?, ?, ?)", rows)

            await self._leadership.write(write)
            receipts.update(some)

    async def _forget(self, receipts: dict[str, str], gone: Sequence[str]) -> None:
        if not gone:
            return
        rows = [(self.caller.function.name, name) for name in gone]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM trigger_blobs WHERE function = ? AND name = ?", rows)

        await self._leadership.write(write)
        for name in gone:
            del receipts[name]

    def _message(self, name: str, etag: str) -> dict[str, str]:
        """As the host writes it, since people find it in the poison queue."""
        return {
            "Type": "BlobTrigger",
            "FunctionId": FUNCTION_ID + self.caller.function.name,
            "BlobType": "BlockBlob",
            "ContainerName": self._path.container,
            "BlobName": name,
            "ETag": etag,
        }


class BlobMessages:
    """Takes the messages that the listeners sent, and has the functions called."""

    def __init__(self, blobs: Sequence[Blob], storage: Storage, options: QueueOptions) -> None:
        """Raises `SettingsError`, `Unavailable`."""
        self._storage = storage
        self._by_id = {FUNCTION_ID + blob.caller.function.name: blob for blob in blobs}
        self._consumer = Consumer(QUEUE, storage.queues(), options, storage.longest_poll, self._work)

    async def run(self) -> None:
        """Work until cancelled. Raises `StoreError`."""
        await self._storage.make_queue(QUEUE)
        await self._consumer.run()

    async def _work(self, message: Received) -> bool:
        try:
            body = json.loads(message.text)
            blob = self._by_id.get(body["FunctionId"])
            return True if blob is None else await blob.work(body)
        except Exception:
            log.exception("message %s of queue %s can't be worked on", message.id, QUEUE)
            return False


def _blob_path(function: HostedFunction, text: str) -> BlobPath:
    path = resolved(function, text)
    try:
        return parse_blob_path(path)
    except ValueError as error:
        raise BadBinding(function.name, f"path {path!r} can't be used: {error}") from error
