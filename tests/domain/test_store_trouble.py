"""A store that is away in the middle of an operation: its run goes on or fails cleanly, and nothing is left in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import operation_context, persistence
from shared.errors import Misconfigured, StoreError, Unavailable
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Op, Patch
from tests.support.world import RecordingStore, Script, World, open_world

PATIENT = {"retries": {"max": 1, "backoff_seconds": 0}}
ONCE = {"retries": {"max": 0, "backoff_seconds": 0}}
ASK = {"kind": "model", "prompt": "Go"}
READ = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Go"}
AWAY = Unavailable("pulled the plug")
NOT_MADE = Misconfigured("AzureWebJobsStorage: ContainerNotFound", ("AzureWebJobsStorage",))


async def large(request: Any, on_text: Callable[[str], None]) -> str:
    """A model's answer that doesn't fit into a document."""
    on_text("word ")
    return "word " * 10_000


class Shelf:
    """Blobs whose next puts of outputs fail."""

    def __init__(self, inner: Any, *faults: StoreError) -> None:
        self.inner, self.faults = inner, list(faults)

    async def put(self, name: str, data: bytes, content_type: str) -> Any:
        if self.faults and name.startswith("outputs/"):
            raise self.faults.pop()
        return await self.inner.put(name, data, content_type)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@asynccontextmanager
async def world_with(directory: Path, script: Script, *faults: StoreError) -> AsyncIterator[World]:
    """A world whose blobs have these faults, with one document."""
    async with open_world(directory, script) as one:
        shelf = Shelf(one.services.blobs, *faults)
        await shelf.put("documents/user:alice/a.txt", b"A few words.", "text/plain")
        yield World(replace(one.services, blobs=shelf, store=RecordingStore(one.store)), one.model)


async def drive(world: World, step: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run a workflow of one step. Answers how the run ended and its error, and checks that nothing is left of it."""
    ref = await world.start(await world.workflow(step))
    status = await world.drive(ref)
    run = await world.run(ref)
    assert run["in_flight"] == 0
    assert {one["status"] for one in (await world.executions(ref)).values()} <= {Ex.COMPLETED, Ex.FAILED}
    assert await world.idle(ref)
    return status, run["error"] or {}


@pytest.mark.parametrize("step", [ASK, READ], ids=["step", "item"])
async def test_an_output_waits_for_storage_that_is_away_for_a_moment(tmp_path: Path, step: dict[str, Any]) -> None:
    """Guards paid work: the model is asked once, and its answer kept."""
    async with world_with(tmp_path, large, AWAY, AWAY) as world:
        assert (await drive(world, {**step, **ONCE}))[0] == "completed"
        assert len(world.model.began) == 1


@pytest.mark.parametrize("step", [ASK, READ], ids=["step", "item"])
async def test_an_output_that_cannot_be_stored_fails_the_step_with_the_setting(
    tmp_path: Path, step: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against asking a model again and again for what can't be kept, and against a run that can't end."""
    monkeypatch.setattr(persistence, "PATIENCE_SECONDS", 0.0)
    async with world_with(tmp_path, large, *[NOT_MADE] * 50) as world:
        status, error = await drive(world, {**step, **PATIENT})
        assert (status, error["code"]) == ("failed", "store_unavailable")
        assert "AzureWebJobsStorage" in error["message"]
        assert len(world.model.began) == 2


async def test_an_inner_operation_whose_end_could_not_be_written_is_settled_by_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the end of the run: a model call left on record as working would keep it from ending for ever."""
    monkeypatch.setattr(operation_context, "FINISH_SECONDS", 0.05)

    async def answer(request: Any, on_text: Callable[[str], None]) -> str:
        return "answer"

    async with world_with(tmp_path, answer) as world:
        lost: list[str] = []

        async def before(ops: Sequence[Op]) -> None:
            ends = [op.id for op in ops if isinstance(op, Patch) and op.set.get("status") == Ex.COMPLETED]
            if any(one.endswith(".m") for one in ends) and not lost:
                lost.extend(ends)
                raise AWAY

        world.store.before = before  # type: ignore[attr-defined]
        assert (await drive(world, {**READ, **ONCE}))[0] == "completed"
        assert lost
        assert len(world.model.began) == 2


@pytest.mark.parametrize("begun", [False, True], ids=["queued", "between two operations"])
async def test_a_cancel_is_answered_once_it_is_accepted_even_if_it_cannot_be_settled(
    tmp_path: Path, begun: bool
) -> None:
    """Guards the wake-up and the answer: an accepted cancel that says 503 looks refused. The orchestration settles it."""
    async with world_with(tmp_path, large) as world:
        ref = await world.start(await world.workflow(ASK))
        if begun:
            await world.begin(ref)

        async def before(ops: Sequence[Op]) -> None:
            if not any(isinstance(op, Patch) and op.set.get("status") == RunStatus.CANCELLING for op in ops):
                raise AWAY

        world.store.before = before  # type: ignore[attr-defined]
        assert (await world.cancel(ref))["status"] == RunStatus.CANCELLING
        with pytest.raises(Unavailable):
            await world.cancel(ref, force=True)
        world.store.before = None  # type: ignore[attr-defined]
        assert await world.drive(ref) == "cancelled"
        assert await world.idle(ref)
