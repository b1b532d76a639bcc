"""Tools that misbehave: none of them does anything in its run's name after a cancel was accepted, or after its own end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shared.cancellation import checkpoint, shield
from shared.errors import NoCurrentRun, RunCancelled, StepFailed
from shared.executions import RunRef
from shared.model_client import ModelRequest
from shared.receipts import cancel_receipt
from shared.supervisor import CLEANUP_SECONDS
from shared.tools import ToolContext, registry
from tests.domain.test_cancel import assert_cancelled_whole
from tests.support.waiting import eventually
from tests.support.world import World, open_world

STEP = {"kind": "tool", "tool": "odd"}


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Registers a function as the tool `odd`, for one test."""
    monkeypatch.setattr(registry, "_tools", dict(registry._tools))

    def register(function: Any) -> None:
        registry.tool(name="odd", side_effects=("letter", "notification", "artifact"))(function)

    return register


async def begun(world: World, at_work: Callable[[], Any]) -> tuple[RunRef, asyncio.Task[str]]:
    """A run of the odd tool, at work."""
    ref = await world.start(await world.workflow(STEP))
    driving = asyncio.create_task(world.drive(ref))
    await eventually(at_work)
    return ref, driving


async def outcomes(world: World, ref: RunRef, acknowledged: bool = True) -> list[str]:
    """How what was in flight ended, says the receipt of a run that is cancelled whole."""
    return [one["outcome"] for one in (await assert_cancelled_whole(world, ref, acknowledged))["in_flight"]]


async def test_a_tool_that_catches_every_exception_is_stopped(world: World, odd: Any) -> None:
    """Guards against the commonest mistake: `except Exception` around everything, for ever."""
    rounds: list[int] = []

    async def stubborn() -> str:
        while True:
            try:
                rounds.append(1)
                await asyncio.sleep(0.002)
                checkpoint()
                raise ValueError
            except Exception:
                continue

    odd(stubborn)
    ref, driving = await begun(world, lambda: len(rounds) > 2)
    await world.cancel(ref)
    assert await driving == "cancelled"
    assert await outcomes(world, ref) == ["stopped"]


async def test_a_tool_in_a_thread_that_catches_every_exception_is_stopped(world: World, odd: Any) -> None:
    """Guards the same where only a checkpoint can stop it."""
    rounds: list[int] = []

    def stubborn() -> str:
        while True:
            try:
                rounds.append(1)
                time.sleep(0.002)
                checkpoint()
                raise ValueError
            except Exception:
                continue

    odd(stubborn)
    ref, driving = await begun(world, lambda: len(rounds) > 2)
    await world.cancel(ref)
    assert await driving == "cancelled"
    assert await outcomes(world, ref) == ["stopped"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_tool_that_swallows_every_cancel_is_abandoned_and_can_do_no_more(
    in_thread: bool, world: World, odd: Any
) -> None:
    """Guards the worst: it goes on after the grace and finds every door closed: effects, documents, model, its result."""
    release, tried = threading.Event(), []
    loop = asyncio.get_running_loop()

    async def attempt(what: str, doing: Awaitable[Any]) -> None:
        try:
            await doing
            tried.append(f"{what} was done")
        except RunCancelled:
            tried.append(what)

    async def everything(context: ToolContext) -> None:
        async def letter() -> None:
            async with context.side_effect("letter", "late"):
                pass

        await attempt("letter", letter())
        await attempt("notification", context.notify("late", "late"))
        await attempt("artifact", context.write_artifact("late.md", "late"))
        await attempt("document", context.documents.put("late.txt", b"late", "text/plain"))
        await attempt("model", world.services.model.complete(ModelRequest([]), lambda _: None))

    async def in_loop(context: ToolContext) -> str:
        tried.append("began")
        while not release.is_set():
            try:
                await asyncio.sleep(0.002)
            except BaseException:
                pass
        await everything(context)
        return "late"

    def threaded(context: ToolContext) -> str:
        tried.append("began")
        release.wait(10)
        asyncio.run_coroutine_threadsafe(everything(context), loop).result(10)
        return "late"

    odd(threaded if in_thread else in_loop)
    ref, driving = await begun(world, lambda: tried)
    await world.cancel(ref, grace_seconds=0.05)
    assert await driving == "cancelled"
    assert await outcomes(world, ref, acknowledged=False) == ["abandoned"]
    before = (await world.executions(ref), await world.events(ref))
    release.set()
    await eventually(lambda: len(tried) == 6)
    assert tried == ["began", "letter", "notification", "artifact", "document", "model"]
    assert (await world.executions(ref), await world.events(ref)) == before
    assert (await cancel_receipt(world.services, await world.run(ref)))["side_effects"] == []


async def test_a_task_that_a_tool_leaves_behind_can_do_no_more_once_the_tool_has_ended(world: World, odd: Any) -> None:
    """Guards spawned tasks: no cancel would reach them, so the end of their operation closes what they carry."""
    go_on, tried = asyncio.Event(), []

    async def left_behind(context: ToolContext) -> None:
        await go_on.wait()
        for doing in (
            context.documents.put("late.txt", b"late", "text/plain"),
            world.services.model.complete(ModelRequest([]), lambda _: None),
            context.notify("late", "late"),
        ):
            try:
                await doing
                tried.append("done")
            except (RunCancelled, StepFailed) as error:
                tried.append(type(error).__name__)

    tasks: list[asyncio.Task[None]] = []

    async def spawning(context: ToolContext) -> str:
        tasks.append(asyncio.create_task(left_behind(context)))
        return "done"

    odd(spawning)
    ref = await world.start(await world.workflow(STEP))
    assert await world.drive(ref) == "completed"
    go_on.set()
    await asyncio.gather(*tasks)
    assert tried == ["RunCancelled"] * 3
    assert world.model.began == []


async def test_a_thread_that_a_tool_leaves_behind_can_do_no_more_either(world: World, odd: Any) -> None:
    """Guards threads, which have no current run of their own: the documents that a tool was given know its operation."""
    go_on, tried, loop = threading.Event(), [], asyncio.get_running_loop()

    def left_behind(context: ToolContext) -> None:
        go_on.wait(10)
        for doing in (
            context.documents.put("late.txt", b"late", "text/plain"),
            context.documents.read_text("early.txt"),
            context.notify("late", "late"),
        ):
            try:
                asyncio.run_coroutine_threadsafe(doing, loop).result(10)
                tried.append("done")
            except (RunCancelled, NoCurrentRun) as error:
                tried.append(type(error).__name__)

    threads: list[threading.Thread] = []

    def spawning(context: ToolContext) -> str:
        threads.append(threading.Thread(target=left_behind, args=(context,), daemon=True))
        threads[0].start()
        return "done"

    odd(spawning)
    ref = await world.start(await world.workflow(STEP))
    assert await world.drive(ref) == "completed"
    go_on.set()
    await eventually(lambda: not threads[0].is_alive())
    assert tried == ["RunCancelled", "RunCancelled", "NoCurrentRun"]


async def test_a_tool_that_blocks_the_loop_can_not_begin_anything_after_the_accept(world: World, odd: Any) -> None:
    """Guards against an async tool that never yields: what it does next is refused by the store, whoever has seen what."""
    told: list[str] = []

    async def blocking(context: ToolContext) -> str:
        # The accept lands as another process's would: nobody here has heard of it yet.
        await world.store.transact(ref.partition, accept)
        time.sleep(0.05)
        try:
            async with context.side_effect("letter", "late"):
                told.append("written")
        finally:
            told.append("refused")
        return "done"

    from shared.store.port import Patch  # the accept, reduced to what guards look at

    odd(blocking)
    ref = await world.start(await world.workflow(STEP))
    cancel = {"grace_seconds": 5, "requested_at": "", "requested_by": {}, "source": "api", "reason": None}
    cancel |= {"observed_at": None, "stopped_at": None, "acknowledged": None, "forced": False}
    accept = [Patch(ref.run_id, set={"status": "cancelling", "cancel": cancel})]
    assert await world.drive(ref) == "cancelled"
    assert told == ["refused"]
    assert (await world.executions(ref))["s01.c0"]["side_effects"] == []


async def test_cleanup_that_knows_nothing_of_cancels_runs_whole(world: World, odd: Any) -> None:
    """Guards plain `finally` and `async with`, as everyone writes them: what a cancel began, it doesn't interrupt."""
    steps: list[str] = []

    class Resource:
        async def __aenter__(self) -> None:
            steps.append("open")

        async def __aexit__(self, *_: object) -> None:
            for _ in range(3):
                await asyncio.sleep(0.05)
            steps.append("closed")

    async def plain() -> str:
        try:
            async with Resource():
                await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.15)
            steps.append("tidy")
        return "never"

    odd(plain)
    ref, driving = await begun(world, lambda: steps)
    await world.cancel(ref)
    assert await driving == "cancelled"
    assert steps == ["open", "closed", "tidy"]
    assert await outcomes(world, ref) == ["stopped"]


async def test_cleanup_runs_on_a_cancel_shielded_and_bounded(world: World, odd: Any) -> None:
    """Guards `finally` and `async with`: knocks don't interrupt shielded cleanup; what takes too long is cut off."""
    steps: list[str] = []

    class Resource:
        async def __aenter__(self) -> None:
            steps.append("open")

        async def __aexit__(self, *_: object) -> None:
            async with shield(5):
                checkpoint()  # which would raise outside
                await asyncio.sleep(CLEANUP_SECONDS + 0.1)  # a knock comes in between
            steps.append("closed")

    async def careful() -> str:
        try:
            async with Resource():
                await asyncio.sleep(60)
        finally:
            try:
                async with shield(0.1):
                    await asyncio.sleep(60)
            except TimeoutError:
                steps.append("cut off")
        return "never"

    odd(careful)
    ref, driving = await begun(world, lambda: steps)
    await world.cancel(ref)
    assert await driving == "cancelled"
    assert steps == ["open", "closed", "cut off"]
    assert await outcomes(world, ref) == ["stopped"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_side_effect_is_on_record_before_it_is_done(in_thread: bool, world: World, odd: Any) -> None:
    """Guards the receipt: it lists what was done, and what may have been done, by a tool that never came to its end."""
    at_work = threading.Event()

    async def in_loop(context: ToolContext) -> str:
        async with context.side_effect("letter", "to Ann"):
            pass
        async with context.side_effect("letter", "to Ben"):
            at_work.set()
            await asyncio.sleep(60)
        return "never"

    def threaded(context: ToolContext) -> str:
        with context.side_effect("letter", "to Ann"):
            pass
        with context.side_effect("letter", "to Ben"):
            at_work.set()
            while True:
                checkpoint()
                time.sleep(0.002)

    odd(threaded if in_thread else in_loop)
    ref, driving = await begun(world, at_work.is_set)
    noted = (await world.executions(ref))["s01.c0"]["side_effects"]
    assert [(one["what"], one["done"]) for one in noted] == [("to Ann", True), ("to Ben", False)]
    await world.cancel(ref)
    assert await driving == "cancelled"
    receipt = await assert_cancelled_whole(world, ref)
    assert [(one["kind"], one["what"], one["done"]) for one in receipt["side_effects"]] == [
        ("letter", "to Ann", True), ("letter", "to Ben", False),
    ]  # fmt: skip


async def test_side_effects_of_an_earlier_attempt_stay_on_record(tmp_path: Path, odd: Any) -> None:
    """Guards what a retry would hide; an artifact counts only from the attempt that completed."""
    attempts: list[str] = []

    async def flaky(context: ToolContext) -> str:
        attempts.append(context.key)
        async with context.side_effect("letter", f"number {len(attempts)}"):
            await context.write_artifact("a.md", f"attempt {len(attempts)}")
        if len(attempts) == 1:
            raise StepFailed("model_unavailable", "down", retryable=True)
        return "done"

    odd(flaky)
    from shared.views import side_effects

    async with open_world(tmp_path) as world:
        step = {**STEP, "retries": {"max": 1, "backoff_seconds": 0.01}}
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "completed"
        call = (await world.executions(ref))["s01.c0"]
    assert [one["what"] for one in side_effects(call)] == ["number 1", "number 2", "a.md"]
    assert len(set(attempts)) == 1


async def test_an_undeclared_side_effect_is_refused(world: World, odd: Any) -> None:
    """Guards the declaration: what a tool says it may do is all that it can show."""

    async def sly(context: ToolContext) -> None:
        async with context.side_effect("parcel", "to Ann"):
            pass

    odd(sly)
    ref = await world.start(await world.workflow(STEP))
    assert await world.drive(ref) == "failed"
    call = (await world.executions(ref))["s01.c0"]
    assert (call["error"]["code"], call["side_effects"]) == ("tool_failed", [])
    assert "parcel" in call["error"]["message"]


async def test_artifacts_and_notifications_of_tools_are_the_runs(world: World) -> None:
    """Guards the built-in tools that publish, and what they refuse."""

    def tool(name: str, **arguments: Any) -> dict[str, Any]:
        return {"kind": "tool", "tool": name, "arguments": arguments, "on_error": "continue"}

    steps = [
        tool("write_artifact", path="out/a.md", content="Hello"),
        tool("notify", subject="Done", message="See a.md"),
        tool("write_artifact", path="../up.md", content="Hello"),
    ]
    ref = await world.start(await world.workflow(*steps))
    await world.drive(ref)
    tree = await world.executions(ref)
    noted = {path: [(one["kind"], one["what"]) for one in node["side_effects"]] for path, node in tree.items()}
    assert noted["s01.c0"] == [("artifact", "out/a.md")]
    assert (await world.services.blobs.get(tree["s01.c0"]["side_effects"][0]["ref"])).data == b"Hello"
    assert noted["s02.c0"] == [("notification", "Done")]
    assert tree["s03.c0"]["error"]["code"] == "artifact_path_invalid"
