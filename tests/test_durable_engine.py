"""The engine's own promises: nothing is lost or doubled in it, and nothing that an app does takes it down."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from devhost.durable import DurableEngine, hub
from devhost.durable.events import EventType, event_raised, task_completed
from devhost.functions import HostedFunction, IndexingError, load_app
from shared.errors import Unavailable
from shared.sqlite import Database
from tests.durable_host import IGNORED_WARNINGS, functions_of, running_engine
from tests.support.waiting import eventually

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]

APP = """
import asyncio, contextvars, threading
import azure.durable_functions as df
app = df.DFApp()
gate = asyncio.Event()
running = 0
most = 0
calls = []
ambient = contextvars.ContextVar("ambient", default="nothing")

@app.activity_trigger(input_name="value")
async def echo(value: object) -> object:
    calls.append(value)
    return value

@app.activity_trigger(input_name="value")
async def gated(value: object) -> object:
    global running, most
    calls.append(value)
    running += 1
    most = max(most, running)
    try:
        await gate.wait()
    finally:
        running -= 1
    return value

@app.activity_trigger(input_name="value")
async def swallows(value: object) -> object:
    calls.append(value)
    try:
        await gate.wait()
    except asyncio.CancelledError:
        return "cancelled"
    return value

@app.activity_trigger(input_name="value")
def blocking(value: object) -> object:
    return [ambient.get(), threading.current_thread() is threading.main_thread()]

@app.activity_trigger(input_name="value")
async def exits(value: object) -> object:
    raise {"exit": SystemExit, "cancel": asyncio.CancelledError, "odd": type("Odd", (BaseException,), {})}[value](3)

@app.activity_trigger(input_name="value")
async def not_json(value: object) -> object:
    return object()

def orchestrator(body):
    app.orchestration_trigger(context_name="context")(body)

@orchestrator
def calls_one(context):
    name, value = context.get_input()
    return (yield context.call_activity(name, value))

@orchestrator
def calls_many(context):
    name, count = context.get_input()
    return (yield context.task_all([context.call_activity(name, n) for n in range(count)]))

@orchestrator
def waits(context):
    return (yield context.wait_for_external_event("go"))

@orchestrator
def uses_unsupported(context):
    which = context.get_input()
    if which == "http":
        yield context.call_http("GET", "http://127.0.0.1:1")
    elif which == "entity":
        yield context.call_entity(df.EntityId("e", "k"), "op")
    context.continue_as_new(None)

@orchestrator
def raises_base(context):
    yield context.call_activity("echo", 1)
    raise SystemExit(4)

@orchestrator
def answers_rubbish(context):
    return object()
    yield

@orchestrator
def same_child_twice(context):
    calls = [context.call_sub_orchestrator("waits", None, "the-child") for _ in range(2)]
    try:
        yield context.task_all(calls)
    except Exception as error:
        return str(error)

@orchestrator
def retries_child(context):
    options = df.RetryOptions(first_retry_interval_in_milliseconds=1, max_number_of_attempts=3)
    try:
        yield context.call_sub_orchestrator_with_retry("raises_base", options, None, "again")
    except Exception as error:
        return "gave up"

@orchestrator
def cancels_timer(context):
    import datetime
    timer = context.create_timer(context.current_utc_datetime + datetime.timedelta(hours=1))
    work = context.call_activity("echo", 1)
    yield context.task_any([timer, work])
    timer.cancel()
    yield context.wait_for_external_event("go")
    return "over"
"""


class Loaded:
    """The test's app: its functions, and the module's variables through one of them."""

    def __init__(self, directory: Path, source: str = APP) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "function_app.py").write_text(source)
        self.functions: list[HostedFunction] = functions_of(directory)

    def __getattr__(self, name: str) -> Any:
        echo = next(function for function in self.functions if function.name == "echo")
        return echo.function.__globals__[name]


@pytest.fixture
def app(tmp_path: Path) -> Loaded:
    return Loaded(tmp_path / "app")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


async def outcome(engine: DurableEngine, instance_id: str) -> tuple[str, Any]:
    await eventually(lambda: engine.instance(instance_id).ended, what=f"{instance_id} has ended")
    instance = engine.instance(instance_id)
    return instance.status, json.loads(instance.output_json or "null")


async def start(engine: DurableEngine, name: str, given: Any = None, instance_id: str | None = None) -> str:
    """Start as the SDK's client does: the input is encoded twice."""
    return await engine.start_instance(name, instance_id, json.dumps(json.dumps(given)))


async def run(engine: DurableEngine, name: str, given: Any = None, instance_id: str | None = None) -> tuple[str, Any]:
    return await outcome(engine, await start(engine, name, given, instance_id))


async def counted(engine: DurableEngine, instance_id: str) -> Counter[int]:
    return Counter(event["EventType"] for event in await engine.history(instance_id))


async def test_wake_ups_in_excess_change_nothing(app: Loaded, file: Path) -> None:
    """Guards against two workers on one instance, and episodes without news."""
    async with running_engine(file, app.functions) as engine:
        await start(engine, "calls_many", ["echo", 20], "i")
        while not engine.instance("i").ended:
            engine._wake(["i", "i", "no such instance"])
            await asyncio.sleep(0)
        assert (await outcome(engine, "i"))[1] == list(range(20))
        seen = await counted(engine, "i")
        assert seen[EventType.TASK_SCHEDULED] == seen[EventType.TASK_COMPLETED] == 20
        assert sorted(app.calls) == list(range(20))


async def test_a_message_that_comes_while_its_instance_is_busy_is_not_overlooked(
    app: Loaded, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the moment between an episode's reading of the inbox and its end."""
    async with running_engine(file, app.functions) as engine:
        write, came = Database.write, False

        async def interrupted(self: Database, fn: Any) -> Any:
            nonlocal came
            answer = await write(self, fn)
            if getattr(fn, "func", None) is hub.commit_episode and not came:
                came = True
                await engine.send("i", lambda at: event_raised(at, "go", "1"))
            return answer

        monkeypatch.setattr(Database, "write", interrupted)
        await start(engine, "waits", None, "i")
        assert await outcome(engine, "i") == ("Completed", 1)
        assert came


async def test_a_message_whose_wake_up_was_lost_is_found_at_the_next_start(app: Loaded, file: Path) -> None:
    """Guards the rule that memory only makes things faster: the inbox alone is enough."""
    async with running_engine(file, app.functions) as engine:
        await engine.start_instance("waits", "i", None)
        await eventually(lambda: engine.instance("i").status == "Running", what="it waits")
        database = Database.open(file)
        await database.write(lambda connection: hub.post(connection, "i", event_raised(0.0, "go", "1")))
        await database.close()
    async with running_engine(file, app.functions) as engine:
        assert await outcome(engine, "i") == ("Completed", 1)


async def test_a_write_whose_fate_is_unknown_is_looked_up(
    app: Loaded, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against activities that nobody runs because the commit landed but its answer was lost."""
    async with running_engine(file, app.functions) as engine:
        monkeypatch.setattr("devhost.durable.engine.TICK_SECONDS", 0.01)
        monkeypatch.setattr("devhost.durable.activities.RECORD_AGAIN_SECONDS", 0.01)
        write, lost = Database.write, 0

        async def lossy(self: Database, fn: Any) -> Any:
            nonlocal lost
            answer = await write(self, fn)
            if lost < 12:
                lost += 1
                raise Unavailable("the answer was lost")
            return answer

        monkeypatch.setattr(Database, "write", lossy)
        with pytest.raises(Unavailable):
            await start(engine, "calls_many", ["echo", 3], "i")
        assert await outcome(engine, "i") == ("Completed", [0, 1, 2])
        assert lost > 3
        seen = await counted(engine, "i")
        assert seen[EventType.TASK_SCHEDULED] == seen[EventType.TASK_COMPLETED] == 3


async def test_what_an_activity_answers_to_a_stopping_host_is_not_its_outcome(app: Loaded, file: Path) -> None:
    """Guards against a host's stop that ends up as a result in a workflow: the activity runs again instead."""
    async with running_engine(file, app.functions) as engine:
        await start(engine, "calls_one", ["swallows", 1], "i")
        await eventually(lambda: app.calls == [1], what="the activity runs")
    app.gate.set()
    async with running_engine(file, app.functions) as engine:
        assert await outcome(engine, "i") == ("Completed", 1)
    assert app.calls == [1, 1]


async def test_at_most_so_many_activities_run_at_once(app: Loaded, file: Path) -> None:
    """Guards the bound, and that those above it get their turn."""
    async with running_engine(file, app.functions, max_activities=3) as engine:
        await start(engine, "calls_many", ["gated", 10], "i")
        await eventually(lambda: app.running == 3, what="three run")
        app.gate.set()
        assert (await outcome(engine, "i"))[1] == list(range(10))
        assert app.most == 3


async def test_activities_fail_alone(app: Loaded, file: Path) -> None:
    """Guards against an activity whose exception (of any kind) or result ends more than itself."""
    async with running_engine(file, app.functions) as engine:
        for value, name in [("exit", "SystemExit"), ("cancel", "CancelledError"), ("odd", "Odd")]:
            status, output = await run(engine, "calls_one", ["exits", value])
            assert status == "Failed"
            assert f"Activity function 'exits' failed:  {name}: 3" in output
        status, output = await run(engine, "calls_one", ["not_json", 1])
        assert "must be json serializable" in output
        assert await run(engine, "calls_one", ["echo", "still here"]) == ("Completed", "still here")


async def test_sync_functions_run_in_threads_without_the_callers_context(app: Loaded, file: Path) -> None:
    """Guards a fact of the Functions worker that the app must cope with: contextvars are not copied."""
    context = contextvars.copy_context()
    context.run(app.ambient.set, "something")
    blocking = next(function for function in app.functions if function.name == "blocking")
    task = asyncio.get_running_loop().create_task(blocking.call(value=1), context=context)
    assert await task == ["nothing", False]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("uses_unsupported", "http", "call_http is not supported by devhost"),
        ("uses_unsupported", "entity", "call_entity is not supported by devhost"),
        ("uses_unsupported", "new", "continue_as_new is not supported by devhost"),
        ("raises_base", None, "4"),
        ("answers_rubbish", None, "not JSON serializable"),
        ("no_such", None, "The function 'no_such' doesn't exist"),
    ],
)
async def test_orchestrators_fail_alone(app: Loaded, file: Path, name: str, given: Any, says: str) -> None:
    """Guards against an orchestrator that takes the engine, or its own instance's status, with it."""
    async with running_engine(file, app.functions) as engine:
        status, output = await run(engine, name, given)
        assert status == "Failed"
        assert output.startswith(f"Orchestrator function '{name}' failed: ")
        assert says in output
        assert await run(engine, "calls_one", ["echo", 1]) == ("Completed", 1)


async def test_a_child_whose_id_is_taken_fails_its_caller(app: Loaded, file: Path) -> None:
    """Guards against two executions of one id, and against a parent that waits for the wrong one."""
    async with running_engine(file, app.functions) as engine:
        await engine.start_instance("same_child_twice", "i", None)

        async def child_runs() -> bool:
            return ("the-child", "Running") in [(row.id, row.status) for row in await engine.instances()]

        await eventually(child_runs, what="the first child runs")
        await engine.send("the-child", lambda at: event_raised(at, "go", "1"))
        status, output = await outcome(engine, "i")
        assert status == "Completed"
        assert "An orchestration with id 'the-child' already exists" in output


async def test_a_child_is_retried_under_its_id(app: Loaded, file: Path) -> None:
    """Guards call_sub_orchestrator_with_retry: each attempt is a new execution; the last failure is the caller's."""
    async with running_engine(file, app.functions) as engine:
        assert await run(engine, "retries_child", None, "i") == ("Completed", "gave up")
        seen = await counted(engine, "i")
        assert seen[EventType.CHILD_CREATED] == seen[EventType.CHILD_FAILED] == 3


async def test_a_cancelled_timer_is_forgotten(app: Loaded, file: Path) -> None:
    """Guards against timers of hours that stay behind and wake instances for nothing."""
    async with running_engine(file, app.functions) as engine:
        await engine.start_instance("cancels_timer", "i", None)

        def timers(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM durable_timers").fetchone()[0])

        database = Database.open(file)
        await eventually(lambda: app.calls == [1] and database.read_now(timers) == 0, what="the timer is gone")
        await database.close()
        await engine.send("i", lambda at: event_raised(at, "go", "1"))
        assert await outcome(engine, "i") == ("Completed", "over")


async def test_results_of_an_execution_that_was_replaced_are_dropped(app: Loaded, file: Path) -> None:
    """Guards the execution id: a terminated instance's activity must not answer for the next one of the same id."""
    async with running_engine(file, app.functions) as engine:
        await start(engine, "calls_one", ["gated", "old"], "i")
        await eventually(lambda: app.running == 1, what="the old one's activity runs")
        first = engine.instance("i").execution_id
        await engine.send("i", lambda at: {"EventType": 3, "Input": "why", "EventId": -1, "Timestamp": "x"})
        assert await outcome(engine, "i") == ("Terminated", "why")
        await start(engine, "calls_one", ["gated", "new"], "i")
        await eventually(lambda: app.running == 2, what="the new one's activity runs")
        app.gate.set()
        assert await outcome(engine, "i") == ("Completed", "new")
        database = Database.open(file)
        with pytest.raises(hub.InstanceEnded):
            await database.write(lambda connection: hub.post(connection, "i", task_completed(0.0, 0, "1"), first))
        await database.close()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "0 were found"),
        ("import azure.functions as f; a = f.FunctionApp(); b = f.FunctionApp()", "2 were found"),
        (APP + "\n@app.activity_trigger(input_name='value')\ndef echo(value): ...\n", "does not have a unique"),
        (APP + "\n@app.entity_trigger(context_name='context')\ndef counter(context): ...\n", "is a durable entity"),
        (APP + "\n@app.activity_trigger(input_name='value')\ndef other(input): ...\n", "binds 'value' but has no"),
        (
            APP + "\n@app.activity_trigger(input_name='value')\ndef other(value, more): ...\n",
            "'more' of function 'other'",
        ),
    ],
)
def test_an_app_that_cannot_be_indexed_says_why(tmp_path: Path, source: str, says: str) -> None:
    """Guards against an app that starts with fewer functions than it has."""
    with pytest.raises(IndexingError, match="Worker failed to index functions") as error:
        Loaded(tmp_path / "app", source)
    assert says in str(error.value)


def test_a_directory_without_an_app_says_so(tmp_path: Path) -> None:
    """Guards against a stack trace for a mistyped path."""
    with pytest.raises(IndexingError, match="there is no such file"):
        load_app(tmp_path)
