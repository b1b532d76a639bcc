"""The domain in one process: real store, blobs and queue on a temporary folder, a scripted model, no host.

`drive` does what the orchestrators do, by calling the activities' bodies directly; a test may kill it at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from activities import agents, child_runs, items, lifecycle, steps
from orchestrators.pipeline import STEP_CANCELLED
from shared import children, workflows
from shared.cancellation import checkpoint
from shared.executions import RunRef, item_path, run_ref
from shared.ids import new_ulid
from shared.model_answers import ModelAnswer
from shared.model_client import ModelRequest
from shared.names import DocumentType
from shared.runs import CancelRequest, request_cancel
from shared.services import Services, make_services
from shared.settings import load
from shared.starting import Start, start_run
from shared.store.port import Document, Op, Partition, Prefix, Query

ALICE = {"id": "alice", "name": "Alice"}
Script = Callable[[ModelRequest, Callable[[str], None]], Awaitable[str | ModelAnswer]]


@dataclass
class ScriptedModel:
    """Stands in for the model client: runs the test's script, and counts."""

    script: Script
    began: list[float] = field(default_factory=list)
    open: int = 0

    async def complete(self, request: ModelRequest, on_text: Callable[[str], None]) -> ModelAnswer:
        checkpoint()
        self.began.append(asyncio.get_running_loop().time())
        self.open += 1
        try:
            answer = await self.script(request, on_text)
        finally:
            self.open -= 1
        if isinstance(answer, ModelAnswer):
            return answer
        return ModelAnswer(text=answer, finish_reason="stop", usage=None, model="scripted")

    async def close(self) -> None:
        """Nothing to close."""


def streaming(tokens: int = 20, pause: float = 0.002) -> Script:
    """A script that streams `tokens` words."""

    async def script(request: ModelRequest, on_text: Callable[[str], None]) -> str:
        words = []
        for i in range(tokens):
            await asyncio.sleep(pause)
            checkpoint()
            words.append(f"w{i} ")
            on_text(words[-1])
        return "".join(words)

    return script


async def at_once(request: ModelRequest, on_text: Callable[[str], None]) -> str:
    """A script that answers at once."""
    on_text("answer")
    return "answer"


class World:
    """Services and what tests do with them."""

    def __init__(self, services: Services, model: ScriptedModel) -> None:
        self.services, self.model = services, model
        self.store = services.store

    async def workflow(self, *steps_: dict[str, Any], scope: str = "user:alice", **options: Any) -> Document:
        """A workflow (of Alice's) with these steps."""
        named = [{"name": f"step{i}", **step} for i, step in enumerate(steps_)]
        return await workflows.create(self.services, scope, {"name": "A workflow", "steps": named, **options})

    async def start(self, workflow: Document, run_id: str | None = None, given: Any = None) -> RunRef:
        """Start a run of it."""
        partition = Partition(workflow["scope"], workflow["workflow_id"])
        rid = run_id or new_ulid()
        run, _ = await start_run(
            self.services, partition, workflow, Start(rid, rid, given, ALICE, keys=(run_id,) if run_id else ())
        )
        return run_ref(run)

    async def cancel(self, ref: RunRef, **options: Any) -> Document:
        """Cancel it, as Alice."""
        return await request_cancel(self.services, ref.partition, ref.run_id, CancelRequest(ALICE, **options))

    async def run(self, ref: RunRef) -> Document:
        """The run's document."""
        return await self.store.get(ref.partition, ref.run_id)

    async def executions(self, ref: RunRef) -> dict[str, Document]:
        """Its executions by path."""
        query = Query(DocumentType.EXECUTION, ref.partition, (Prefix("id", f"{ref.run_id}:"),), limit=1000)
        return {one["path"]: one for one in (await self.store.query(query)).items}

    async def executions_at(self, ref: RunRef, path: str) -> Document | None:
        """The execution at `path`, None when it is not there."""
        return (await self.executions(ref)).get(path)

    async def events(self, ref: RunRef) -> list[Document]:
        """Its events in order."""
        query = Query(DocumentType.EVENT, ref.partition, (Prefix("id", f"{ref.run_id}:e:"),), limit=1000)
        return (await self.store.query(query)).items

    async def idle(self, ref: RunRef) -> bool:
        """Whether the workflow is idle, without a lock."""
        workflow = await self.store.get(ref.partition, "workflow")
        locks = await self.store.query(Query(DocumentType.LOCK, ref.partition))
        return (
            workflow["runtime"]["status"] == "idle" and workflow["runtime"]["active_run_id"] is None and not locks.items
        )

    async def redefine(self, workflow: Document, *steps_: dict[str, Any]) -> None:
        """Give the workflow other steps."""
        named = [{"name": f"step{i}", **step} for i, step in enumerate(steps_)]
        partition = Partition(workflow["scope"], workflow["workflow_id"])
        await workflows.change(self.services, partition, {"steps": named}, None, merge=True)

    async def begin(self, ref: RunRef) -> dict[str, Any]:
        """Begin the run; answers its plan."""
        return await lifecycle.begin(self.services, ref)

    async def drive(self, ref: RunRef) -> str:
        """Run the whole orchestration here. Answers the status that settling answered."""
        begun = await lifecycle.begin(self.services, ref)
        if begun["status"] != "running":
            return str(begun["status"])
        outcome = await self._pipeline(ref, begun["steps"])
        return str((await lifecycle.end(self.services, ref, outcome))["status"])

    async def _pipeline(self, ref: RunRef, plan: list[dict[str, Any]]) -> dict[str, Any]:
        for step in plan:
            if step["shape"] == "fan_out":
                outcome = await self._fan_out(ref, step["path"])
            elif step["shape"] == "child_run":
                outcome = await self._child_run(ref, step["path"])
            elif step["shape"] == "agent":
                outcome = await self._agent(ref, step["path"])
            else:
                outcome = await until_done(partial(steps.run, self.services, ref, step["path"]))
            if outcome["status"] == "cancelled":
                return outcome
            if outcome["status"] == "failed" and step["on_error"] == "stop":
                return outcome
            if outcome["status"] == "branch_cancelled" and step["on_cancelled"] == "stop":
                return {"status": "failed", "error": STEP_CANCELLED}
        return {"status": "completed"}

    async def _child_run(self, ref: RunRef, path: str) -> dict[str, Any]:
        return await self._follow(ref, path, await until_done(partial(child_runs.start, self.services, ref, path)))

    async def _follow(self, ref: RunRef, path: str, started: dict[str, Any]) -> dict[str, Any]:
        if started["status"] != "running":
            return started
        child = {name: value for name, value in started["child"].items() if name != "instance_id"}
        await self.drive(RunRef(**child))
        return await until_done(partial(children.end_child, self.services, ref, path))

    async def _fan_out(self, ref: RunRef, path: str) -> dict[str, Any]:
        opened = await until_done(partial(items.open_items, self.services, ref, path))
        if opened["status"] != "running":
            return opened

        async def lane(first: int) -> None:
            for index in range(first, opened["items"], opened["lanes"]):
                done = await until_done(partial(items.run_item, self.services, ref, item_path(path, index)))
                if done["status"] in ("cancelled", "skipped"):
                    return

        await asyncio.gather(*(lane(i) for i in range(opened["lanes"])))
        return await until_done(partial(items.close_items, self.services, ref, path))

    async def _agent(self, ref: RunRef, path: str) -> dict[str, Any]:
        turn = 0
        while True:
            turn += 1
            outcome = await until_done(partial(agents.take_turn, self.services, ref, path, turn))
            if outcome["status"] != "turn":
                return outcome
            for ended in await asyncio.gather(*(self._call(ref, call) for call in outcome["calls"])):
                if ended["status"] == "cancelled":
                    return ended

    async def _call(self, ref: RunRef, call: dict[str, Any]) -> dict[str, Any]:
        if call["agent"]:
            return await self._agent(ref, call["path"])
        started = await until_done(partial(agents.call_tool, self.services, ref, call["path"]))
        return await self._follow(ref, call["path"], started)


async def until_done(call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Call until the outcome isn't `retry`."""
    while (outcome := await call())["status"] == "retry":
        await asyncio.sleep(outcome["after_seconds"])
    return outcome


class RecordingStore:
    """A store that notes, in commit order, what each transaction did; and may fail or delay it, as a test asks."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.log: list[tuple[str, list[Op]]] = []
        self.before: Callable[[Sequence[Op]], Awaitable[None]] | None = None

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        if self.before is not None:
            await self.before(ops)
        result: list[Document | None] = await self.inner.transact(partition, ops)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@asynccontextmanager
async def open_world(directory: Path, script: Script = at_once, **settings: str) -> AsyncIterator[World]:
    """A world on `directory`; `settings` are TRUESTOP_ variables without the prefix."""
    environment = {"TRUESTOP_DATA": str(directory), "TRUESTOP_POLL_SECONDS": "0.02", "TRUESTOP_FENCE_SECONDS": "0.4"}
    environment |= {f"TRUESTOP_{name.upper()}": value for name, value in settings.items()}
    model = ScriptedModel(script)
    made = make_services(load(environment))
    await made.model.close()
    services = replace(made, model=model)  # type: ignore[arg-type]
    try:
        yield World(services, model)
    finally:
        await services.close()
