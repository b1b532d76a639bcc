"""The `file_sync` step: dropped files become documents, one operation a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.documents import Documents
from shared.errors import NotFound, Unavailable
from shared.executions import RunRef
from shared.ids import new_ulid
from shared.outputs import load
from shared.resume import Resume, resume_run
from shared.starting import Start
from shared.store.port import Document
from tests.support.inbox import Inbox, trigger
from tests.support.waiting import eventually
from tests.support.world import ALICE, World, open_world

BRING = {"kind": "file_sync", "name": "bring"}
ANALYZE = {"kind": "analyze_documents", "name": "read", "prompt": "Sum up", "documents": {"step": "bring"}}


async def inbox_with(world: World, data: Path, *steps: dict[str, Any], **options: Any) -> Inbox:
    return Inbox(world, data, await world.workflow(*steps, **{"trigger": trigger(), **options}))


async def documents_of(inbox: Inbox) -> dict[str, bytes]:
    """The scope's documents."""
    documents = Documents(inbox.services.blobs, inbox.partition.scope)
    return {name: (await documents.get(name)).data for name in await documents.names()}


async def output_of(inbox: Inbox, run: Document, path: str = "s01") -> Any:
    """The output of a step."""
    executions = await inbox.world.executions(RunRef(*inbox.partition, run["id"], 1))
    return await load(inbox.services.blobs, executions[path])


async def by_hand(inbox: Inbox) -> Document:
    """A run that a person starts, to its end."""
    ref = await inbox.world.start(inbox.workflow)
    assert await inbox.world.drive(ref) == "completed"
    return await inbox.world.run(ref)


async def test_the_files_of_the_burst_become_documents_and_later_steps_see_only_those(
    world: World, tmp_path: Path
) -> None:
    """Guards `only_changed`: a file that was there before is neither copied nor analysed again."""
    inbox = await inbox_with(world, tmp_path, BRING, ANALYZE)
    await inbox.put("old.txt")
    await inbox.later(10)
    await inbox.drive_started()
    await inbox.put("in/ü.md", "b.csv", data=b"a,b")
    await inbox.later(10)
    _, run = await inbox.runs()
    assert await inbox.drive(run) == "completed"
    assert await documents_of(inbox) == {"old.txt": b"text", "in/ü.md": b"a,b", "b.csv": b"a,b"}
    assert await output_of(inbox, run) == {"documents": ["in/ü.md", "b.csv"], "skipped": []}
    items = await inbox.world.executions(RunRef(*inbox.partition, run["id"], 1))
    assert [items[path]["name"] for path in ("s01.i001", "s01.i002", "s02.i001", "s02.i002")] == [
        "in/ü.md",
        "b.csv",
    ] * 2
    assert "s02.i003" not in items
    assert [one["what"] for one in items["s01.i001"]["side_effects"]] == ["in/ü.md"]


@pytest.mark.parametrize("where", ["trigger", "step"])
async def test_all_files_can_be_brought_in(world: World, tmp_path: Path, where: str) -> None:
    """Guards the option: what the trigger says holds, unless the step says otherwise."""
    step = {**BRING, "only_changed": False} if where == "step" else BRING
    on_trigger = trigger(prefix="in/", only_changed=where != "trigger")
    inbox = await inbox_with(world, tmp_path, {**step, "into": "synced/"}, trigger=on_trigger)
    inbox.drop("in/there.txt")
    inbox.drop("out/there.txt")
    await inbox.put("in/a.txt")
    await inbox.later(10)
    (run,) = await inbox.runs()
    assert [file["path"] for file in run["input"]["files"]] == ["in/a.txt"]
    assert await inbox.drive(run) == "completed"
    assert set(await documents_of(inbox)) == {"synced/in/a.txt", "synced/in/there.txt"}


async def test_a_run_that_no_file_started_brings_in_what_is_newer_than_its_document(
    world: World, tmp_path: Path
) -> None:
    """Guards a person's or a schedule's run: it catches up with what a cancelled or skipped run left."""
    inbox = await inbox_with(world, tmp_path, {**BRING, "prefix": "in/"}, trigger={"kind": "manual"})
    for path in ("in/a.txt", "in/b.txt", "out.txt"):
        inbox.drop(path)
    assert (await output_of(inbox, await by_hand(inbox)))["documents"] == ["in/a.txt", "in/b.txt"]
    assert (await output_of(inbox, await by_hand(inbox)))["documents"] == []
    inbox.drop("in/b.txt", b"other size")
    assert (await output_of(inbox, await by_hand(inbox)))["documents"] == ["in/b.txt"]
    os.utime(inbox.folder / "in/a.txt")
    assert (await output_of(inbox, await by_hand(inbox)))["documents"] == ["in/a.txt"]
    await Documents(inbox.services.blobs, inbox.partition.scope).delete("in/b.txt")
    assert (await output_of(inbox, await by_hand(inbox)))["documents"] == ["in/b.txt"]


async def test_a_resumed_run_brings_in_the_files_that_started_the_first_one(world: World, tmp_path: Path) -> None:
    """Guards a burst that was cancelled: going on with it means these files, whatever else lies there."""
    inbox = await inbox_with(world, tmp_path, BRING)
    inbox.drop("other.txt")
    await inbox.put("a.txt")
    await inbox.later(10)
    (cancelled,) = await inbox.runs()
    await world.cancel(RunRef(*inbox.partition, cancelled["id"], cancelled["epoch"]))
    old = await world.run(RunRef(*inbox.partition, cancelled["id"], cancelled["epoch"]))
    start = Start(new_ulid(), new_ulid(), None, ALICE)
    resumed, _ = await resume_run(inbox.services, inbox.partition, inbox.workflow, old, start, Resume())
    assert await inbox.drive(resumed) == "completed"
    assert (await output_of(inbox, resumed))["documents"] == ["a.txt"]


async def test_what_cannot_be_brought_in_is_told_and_the_rest_is(tmp_path: Path) -> None:
    """Guards against a file that changes for the worse, or goes, between its arrival and its turn."""
    async with open_world(tmp_path, document_max_bytes="100") as world:
        inbox = await inbox_with(world, tmp_path, {**BRING, "only_changed": False, "parallel": 1})
        for path in ("a.txt", "b.exe"):
            inbox.drop(path)
        inbox.drop("c.txt", b"x" * 101)
        inbox.drop("d.txt", b"")
        await inbox.put("e.txt", "gone.txt")
        await inbox.later(10)
        (run,) = await inbox.runs()
        sources = inbox.services.sources
        inbox.services.sources = Vanishing(sources, inbox.blob("gone.txt"))  # type: ignore[assignment]
        assert await inbox.drive(run) == "completed"
        output = await output_of(inbox, run)
        assert output["documents"] == ["a.txt", "e.txt"]
        assert {one["path"]: one["code"] for one in output["skipped"]} == {
            "b.exe": "document_type_unsupported",
            "c.txt": "document_too_large",
            "d.txt": "document_empty",
            "gone.txt": "file_gone",
        }


class Vanishing:
    """Sources of which one is deleted before it is read."""

    def __init__(self, inner: Any, name: str) -> None:
        self._inner, self._name = inner, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def get(self, name: str) -> Any:
        if name == self._name:
            raise NotFound(name)
        return await self._inner.get(name)


class Held:
    """Sources whose reads wait until they are let go."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.reading = 0
        self.go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def get(self, name: str) -> Any:
        self.reading += 1
        await self.go.wait()
        return await self._inner.get(name)


@pytest.fixture
async def held(world: World, tmp_path: Path) -> AsyncIterator[tuple[Inbox, Held, asyncio.Task[str]]]:
    """A run of five files, two at a time, of which the first two are being read."""
    inbox = await inbox_with(world, tmp_path, {**BRING, "parallel": 2})
    await inbox.put(*(f"{index}.txt" for index in range(5)))
    await inbox.later(10)
    sources = Held(inbox.services.sources)
    inbox.services.sources = sources  # type: ignore[assignment]
    (run,) = await inbox.runs()
    driven = asyncio.create_task(inbox.drive(run))
    await eventually(lambda: sources.reading == 2)
    yield inbox, sources, driven
    sources.go.set()
    await driven


async def test_a_cancel_stops_at_the_file_in_hand(held: tuple[Inbox, Held, asyncio.Task[str]]) -> None:
    """Guards the promise at every file: after the accept no file is begun, and none that is in hand is published."""
    inbox, sources, driven = held
    (run,) = await inbox.runs()
    ref = RunRef(*inbox.partition, run["id"], run["epoch"])
    await inbox.world.cancel(ref)
    assert await driven == "cancelled"
    assert sources.reading == 2
    assert await documents_of(inbox) == {}
    assert {one["status"] for one in (await inbox.world.executions(ref)).values()} == {"cancelled"}
    assert await inbox.world.idle(ref)
    for _ in range(10):
        for index in range(5):
            await inbox.deliver(f"{index}.txt")
        await inbox.later(1000)
    assert len(await inbox.runs()) == 1


async def test_a_container_that_is_away_is_tried_again(world: World, tmp_path: Path) -> None:
    """Guards a storage account that has a bad moment: the item waits, and is not lost."""
    inbox = await inbox_with(world, tmp_path, {**BRING, "retries": {"max": 2, "backoff_seconds": 0}})
    await inbox.put("a.txt")
    await inbox.later(10)
    (run,) = await inbox.runs()
    inner, failures = inbox.services.sources, iter([True, True])

    class Away(Vanishing):
        async def get(self, name: str) -> Any:
            if next(failures, False):
                raise Unavailable("the account is away")
            return await inner.get(name)

    inbox.services.sources = Away(inner, "")  # type: ignore[assignment]
    assert await inbox.drive(run) == "completed"
    assert await documents_of(inbox) == {"a.txt": b"text"}


async def test_too_many_files_fail_the_step_with_their_number(tmp_path: Path) -> None:
    """Guards the bound of a fan-out."""
    async with open_world(tmp_path, items_max="3") as world:
        inbox = await inbox_with(world, tmp_path, {**BRING, "only_changed": False})
        for index in range(4):
            inbox.drop(f"{index}.txt")
        ref = await world.start(inbox.workflow)
        assert await world.drive(ref) == "failed"
        assert (await world.run(ref))["error"]["code"] == "too_many_documents"
