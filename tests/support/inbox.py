"""The folder of one workflow with a `file_sync` trigger, its deliveries, and a clock."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shared.executions import RunRef
from shared.file_messages import deliver, handle
from shared.folder_blobs import container_folder
from shared.names import CONTAINER_FILE_SYNC, QUEUE_FILE_SYNC, DocumentType
from shared.source_files import folder_of
from shared.store.port import Document, Partition, Query
from tests.support.orchestrations import FakeOrchestrations
from tests.support.world import World

STEP = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Inbox:
    """The folder of one workflow, the queue of its bursts, and a clock."""

    def __init__(self, world: World, data: Path, workflow: Document) -> None:
        self.world, self.services, self.workflow = world, world.services, workflow
        self.partition = Partition(workflow["scope"], workflow["workflow_id"])
        self.folder = container_folder(data, CONTAINER_FILE_SYNC) / folder_of(self.partition)
        self.orchestrations = FakeOrchestrations()
        self.now = NOON
        self.sent: list[tuple[datetime, dict[str, Any]]] = []
        self.services.queue.send = self._send  # type: ignore[method-assign]
        self.delivered = 0
        self._writes = 0

    async def _send(self, queue: str, body: Any, delay_seconds: int = 0) -> None:
        assert queue == QUEUE_FILE_SYNC
        self.sent.append((self.now + timedelta(seconds=delay_seconds), dict(body)))

    def drop(self, path: str, data: bytes = b"text") -> None:
        """A person puts a file there."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.with_name(".dropped")
        whole.write_bytes(data)
        self._writes += 1
        os.utime(whole, ns=(1, self._writes))  # a version of its own, however coarse the clock
        whole.replace(file)

    def blob(self, path: str) -> str:
        """The name of its blob."""
        return folder_of(self.partition) + path

    async def deliver(self, path: str) -> str:
        """The blob trigger delivers it."""
        return await deliver(self.services, self.blob(path), self.now)

    async def put(self, *paths: str, data: bytes = b"text") -> None:
        """Files are dropped, and delivered."""
        for path in paths:
            self.drop(path, data)
            await self.deliver(path)
            self.now += timedelta(milliseconds=1)

    async def close(self, body: Any) -> None:
        """The queue trigger delivers a message."""
        self.delivered += 1
        await self.handle(json.dumps(body))

    async def handle(self, text: str) -> str:
        """The queue trigger delivers this text. Answers what became of it."""
        return await handle(self.services, self.orchestrations, text, self.now)

    async def later(self, seconds: float = 0.0) -> None:
        """Let time pass, and deliver what becomes due. A message whose delivery raises stays."""
        end = self.now + timedelta(seconds=seconds)
        for _ in range(2000):
            due = sorted((one for one in self.sent if one[0] <= end), key=lambda one: one[0])
            if not due:
                break
            self.now = max(self.now, due[0][0])
            await self.close(due[0][1])
            self.sent.remove(due[0])
        else:
            raise AssertionError("messages without an end")
        self.now = max(self.now, end)

    async def runs(self) -> list[Document]:
        """The runs, the oldest first."""
        found = await self.world.store.query(Query(DocumentType.RUN, self.partition, order_by="created_at", limit=1000))
        return found.items

    async def paths(self) -> list[list[str]]:
        """The files of each run."""
        return [[file["path"] for file in run["input"]["files"]] for run in await self.runs()]

    async def paths_started(self) -> list[list[str]]:
        """The files of each run that files started."""
        started = [run for run in await self.runs() if run["id"] in self.orchestrations.started]
        return [[file["path"] for file in run["input"]["files"]] for run in started]

    async def drive(self, run: Document) -> str:
        """Work on a run until it ends."""
        return await self.world.drive(RunRef(*self.partition, run["id"], run["epoch"]))

    async def drive_started(self) -> None:
        """Work on every run whose instance was started, until it ends."""
        for run in await self.runs():
            if run["id"] in self.orchestrations.started:
                await self.drive(run)

    async def at_rest(self) -> bool:
        """Whether nothing waits: no message, no burst, no pending file."""
        bursts = await self.world.store.query(Query(DocumentType.BURST, self.partition))
        files = await self.world.store.query(Query(DocumentType.FILE, self.partition, limit=1000))
        return not self.sent and not bursts.items and all(file["status"] == "taken" for file in files.items)


def trigger(**options: Any) -> dict[str, Any]:
    return {"kind": "file_sync", "debounce_seconds": 5, **options}


async def inbox_of(world: World, data: Path, **options: Any) -> Inbox:
    return Inbox(world, data, await world.workflow(STEP, **{"trigger": trigger(), **options}))
