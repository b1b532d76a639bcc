"""A run in some phase, for the tests of `reconcile`: its orchestration is a fake, everything else is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activities import lifecycle
from shared.executions import ExecutionSpec, RunRef
from shared.names import CancelSource, Kind
from shared.operations import Begun, begin
from shared.reconcile import reconcile
from shared.runs import CancelRequest, _accept
from tests.support.orchestrations import FakeOrchestrations
from tests.support.waiting import eventually
from tests.support.world import World, at_once, open_world

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
MODEL = {"kind": "model", "prompt": "Go"}
READ = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "parallel": 3}
SOON = {"start_after_seconds": "0.000001", "fence_seconds": "0.1"}


@dataclass
class Scene:
    """A run in some phase, whose orchestration the fake knows as running."""

    world: World
    durable: FakeOrchestrations
    ref: RunRef
    driving: asyncio.Task[str] | None = None

    async def reconcile(self) -> dict[str, int]:
        """One pass."""
        return await reconcile(self.world.services, self.durable)

    async def run(self) -> dict[str, Any]:
        """The run."""
        return await self.world.run(self.ref)

    async def repairs(self) -> list[str]:
        """The repairs that the run's events tell."""
        types = [event["event_type"] for event in await self.world.events(self.ref)]
        return [one for one in types if one.startswith("repair.")]


@asynccontextmanager
async def scene(
    directory: Path, *steps_: dict[str, Any], script: Any = at_once, **settings: str
) -> AsyncIterator[Scene]:
    """A queued run of these steps."""
    async with open_world(directory, script, **{**SOON, **settings}) as world:
        for i in range(6 if READ in steps_ else 0):
            await world.services.blobs.put(f"documents/user:alice/{i}.txt", b"text", "text/plain")
        ref = await world.start(await world.workflow(*steps_, grace_seconds=20), run_id="r1")
        found = Scene(world, FakeOrchestrations(), ref)
        found.durable.put(ref, "Running")
        try:
            yield found
        finally:
            if found.driving is not None:
                found.driving.cancel()
                with suppress(asyncio.CancelledError):
                    await found.driving


async def begun(scene: Scene) -> None:
    await lifecycle.begin(scene.world.services, scene.ref)


async def driven(scene: Scene, at_work: int) -> None:
    scene.driving = asyncio.create_task(scene.world.drive(scene.ref))
    await eventually(lambda: scene.world.model.open == at_work)


async def accept_only(scene: Scene, grace_seconds: float = 20) -> None:
    """A cancel whose process died right after the accept."""
    request = CancelRequest({"id": "alice", "name": "Alice"}, CancelSource.API, None, grace_seconds)
    assert await _accept(scene.world.services, scene.ref.partition, await scene.run(), request, ()) is not None


async def at_work(scene: Scene) -> Begun:
    """An operation with one inside it, whose process is gone."""
    await begun(scene)
    store, call = scene.world.store, ExecutionSpec("s01.m", Kind.MODEL_CALL, "model")
    opened = await begin(store, scene.ref, [ExecutionSpec("s01", Kind.STEP, "step0"), call])
    assert isinstance(opened, Begun)
    inner = await begin(store, scene.ref, [ExecutionSpec("s01.m.c0", Kind.TOOL_CALL, "t")], inside=opened)
    assert isinstance(inner, Begun)
    return opened
