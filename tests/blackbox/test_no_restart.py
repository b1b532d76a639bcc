"""A cancelled run is never started again: each trigger ten times, the host again, ten times more, the repairs: nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from shared.ids import to_text
from shared.names import QUEUE_RUN_REQUESTS, WORKFLOW_ID
from shared.store.port import Partition, Patch
from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, ModelLog, Run, Workflow
from tests.support.promise import assert_cancelled_whole, assert_workflow_free
from tests.support.waiting import eventually_sync
from tests.support.world import World, open_world

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
TOKEN = "t" * 40
SLOT = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
Deliver = Callable[[int], None]
"""Delivers a trigger so many times."""


def in_store(data: Path, change: Callable[[World], Awaitable[Any]]) -> None:
    """Do something with the store and the queue of a host, as another process of it would."""

    async def do() -> None:
        async with open_world(data) as world:
            await change(world)

    asyncio.run(do())


def call(client: httpx.Client, function: str) -> None:
    """Call a timer's function by hand."""
    assert client.post(f"/admin/functions/{function}", json={}).status_code == 202


def press(workflow: Workflow, times: int) -> None:
    """A client starts the run by its key (again)."""
    for _ in range(times):
        workflow.api.request("POST", f"{workflow.path}/run", json={"run_id": "key-1"}).raise_for_status()


def slot_due(workflow: Workflow, data: Path, times: int) -> None:
    """The scheduler finds the slot due (again), as one does that died before it could write down that it served it."""
    for _ in range(times):
        _slot_due(workflow, data)


def _slot_due(workflow: Workflow, data: Path) -> None:
    partition = Partition(f"user:{workflow.api.user}", workflow.id)
    plan = {"trigger_set_at": to_text(SLOT - timedelta(days=1)), "runtime.next_run_at": to_text(SLOT)}
    in_store(data, lambda world: world.store.transact(partition, [Patch(WORKFLOW_ID, set=plan)]))
    call(workflow.api.client, "schedule")
    eventually_sync(lambda: workflow.get()["runtime"]["next_run_at"] != to_text(SLOT), 20, "the slot is served")


def ask(workflow: Workflow, data: Path, times: int) -> None:
    """The message of another system (again). It is read when the queue is empty."""
    request = {"scope": f"user:{workflow.api.user}", "workflow_id": workflow.id, "sender": "billing", "token": TOKEN}

    async def send(world: World) -> None:
        for _ in range(times):
            await world.services.queue.send(QUEUE_RUN_REQUESTS, {**request, "key": "order-1"})

    in_store(data, send)
    eventually_sync(lambda: not _waiting(data), 20, "the message is read")


def _waiting(data: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    async def look(world: World) -> None:
        found.extend(await world.services.queue.peek(QUEUE_RUN_REQUESTS))

    in_store(data, look)
    return found


def only_run(workflow: Workflow) -> Run:
    """The workflow's one run, once it is there."""
    path = f"{workflow.path}/runs"
    eventually_sync(lambda: workflow.api.all(path), 20, "a run was started")
    (found,) = workflow.api.all(path)
    return Run(workflow, found["id"])


def test_no_trigger_starts_a_cancelled_run_again(start_host: StartHost) -> None:
    """Guards the promise over restarts: by a key over HTTP, a message of another system, and a schedule's slot."""
    host = start_host(TRUESTOP_FENCE_SECONDS="1", TRUESTOP_START_AFTER_SECONDS="0.001")
    with new_client(host.base_url) as client:
        api, models = Api(client), []
        daily = {"trigger": {"kind": "schedule", "every": {"value": 1, "unit": "days"}}}
        senders = {"run_requests": [{"sender": "billing", "token": TOKEN}]}
        workflows = []
        for name, settings in (("key", {}), ("message", senders), ("slot", daily)):
            say = {"kind": "model", "prompt": f"[[tokens=5000 delay=5ms key={api.user}-{name}]]Go"}
            models.append(ModelLog(client, f"{api.user}-{name}"))
            workflows.append(api.workflow(say, ECHO, **settings))
        keyed, asked, planned = workflows
        deliveries: list[Deliver] = [
            lambda times: press(keyed, times),
            lambda times: ask(asked, host.data, times),
            lambda times: slot_due(planned, host.data, times),
        ]
        for deliver in deliveries:
            deliver(1)
        runs = [only_run(workflow) for workflow in workflows]
        for run, model in zip(runs, models, strict=True):
            model.streaming(tokens=5)
            assert run.cancel().status_code in (200, 202)
        answered = time.monotonic()
        for run in runs:
            run.wait("cancelled")
            assert_cancelled_whole(run)
        before = [(run.get(), run.executions(), run.events()) for run in runs]
        for again in range(2):
            for deliver in deliveries:
                deliver(10)
            if not again:
                host.kill9()
                host.restart()
        for _ in range(2):
            passes = host.log().count("event_triggers.reconcile: ")
            call(client, "reconcile")
            eventually_sync(lambda passes=passes: host.log().count("event_triggers.reconcile: ") > passes, 20)  # type: ignore[misc]
        assert [(run.get(), run.executions(), run.events()) for run in runs] == before
        for run, model in zip(runs, models, strict=True):
            assert [one["id"] for one in api.all(f"{run.workflow.path}/runs")] == [run.id]
            assert run.workflow.get()["runtime"]["run_count"] == 1
            assert [one for one in model.idle() if one["t"] > answered] == []
            assert_workflow_free(run)
