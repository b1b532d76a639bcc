"""The queues from outside: a message starts a run, and a run's end reaches a receiver, on local queues and on Azurite's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from azure.storage.queue import QueueClient, TextBase64EncodePolicy

from shared.azure_storage import API_VERSION, StorageConnection
from shared.blobs_azure import AzureBlobs
from shared.names import QUEUE_RUN_REQUESTS, QUEUES
from shared.queues import POISON, SqliteQueue
from shared.queues_azure import AzureQueue
from shared.sqlite import Database
from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, Json, Workflow
from tests.support.azurite import azurite
from tests.support.host import ROOT
from tests.support.receiver import receiving
from tests.support.waiting import eventually, eventually_sync

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.word}}"}}
NOTIFY = {"kind": "notify", "subject": "Hello", "message": "{{input.word}}"}
TOKEN = "t" * 40
SENDERS = [{"sender": "billing", "token": TOKEN}]
WEBHOOKS = {"TRUESTOP_WEBHOOK_ALLOW_PRIVATE": "true", "TRUESTOP_WEBHOOK_BACKOFF_SECONDS": "0.1"}
ALL = ("run.completed", "run.failed", "run.cancelled", "notify")
Ask = Callable[[Workflow, str, Any], Awaitable[None]]


async def in_thread(call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """A blocking call of the API, while the receiver of the same test goes on answering."""
    return await asyncio.to_thread(call, *arguments, **more)


async def runs_of(workflow: Workflow, count: int) -> list[Json]:
    """The workflow's runs, once there are `count` and all have ended."""

    async def ended() -> list[Json] | None:
        runs = await in_thread(workflow.api.all, f"{workflow.path}/runs")
        return runs if len(runs) == count and all(run["ended_at"] for run in runs) else None

    found: list[Json] = await eventually(ended, 30, f"{count} runs have ended")
    return found


async def check(client: httpx.Client, ask: Ask) -> None:
    """The way in and the way out."""
    api = Api(client)
    async with receiving() as receiver:
        receiver.statuses = ["503 Busy"]
        hooks = [receiver.settings(*ALL)]
        workflow = await in_thread(api.workflow, ECHO, NOTIFY, notifications=hooks, run_requests=SENDERS)
        for _ in range(2):
            await ask(workflow, "order-1", {"word": "hi"})
        (run,) = await runs_of(workflow, 1)
        assert (run["status"], run["trigger"]["key"], run["requested_by"]["id"]) == (
            "completed",
            "billing:order-1",
            "sender:billing",
        )
        await eventually(lambda: len(receiver.requests) == 3, 30, "both messages came, one of them twice")
        assert {message["type"] for message in receiver.messages()} == {"notify", "run.completed"}
        assert len(set(receiver.ids())) == 2
        assert {message["data"]["run_id"] for message in receiver.messages()} == {run["id"]}

        async def all_delivered() -> list[Json] | None:
            shown = await in_thread(api.all, f"{workflow.path}/deliveries")
            return shown if all(one["status"] == "delivered" for one in shown) else None

        shown = await eventually(all_delivered, 10, "the receiver's answers are on record")
        assert sorted(one["event"] for one in shown) == ["notify", "run.completed"]
        assert sorted(one["attempts"] for one in shown) == [1, 2]
        definition = await in_thread(workflow.get)
        assert "secret" not in json.dumps([definition, shown, run])
        assert TOKEN not in json.dumps([definition, shown, run])


async def test_local_queues(start_host: StartHost) -> None:
    """Guards the functions' bindings: the host calls them for real messages, and poison is where people look."""
    host = await in_thread(start_host, **WEBHOOKS)
    database = Database.open(host.data / "truestop.db")
    queue = SqliteQueue(database)

    async def ask(workflow: Workflow, key: str, value: Any) -> None:
        scope = (await in_thread(workflow.get))["scope"]
        request = {"scope": scope, "workflow_id": workflow.id, "sender": "billing", "token": TOKEN}
        await queue.send(QUEUE_RUN_REQUESTS, {**request, "key": key, "input": value})

    try:
        with new_client(host.base_url) as client:
            await check(client, ask)
        await queue.send(QUEUE_RUN_REQUESTS, {"please": "run"})
        (kept,) = await eventually(lambda: queue.peek(QUEUE_RUN_REQUESTS + POISON))
        assert json.loads(kept["message"]) == {"please": "run"}
    finally:
        await database.close()
    assert "Traceback" not in host.log()


async def test_queues_of_azure_by_the_guides_own_words(start_host: StartHost) -> None:
    """Guards Azure's encoding and limits, and the guide's snippet for senders."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/run-requests.md").read_text(), re.M | re.S)
    guide: dict[str, Any] = {}
    exec(compile(code, "run-requests.md", "exec"), guide)
    with azurite() as account:
        connection = account.connection_string
        assert connection is not None
        await set_up(account)

        async def ask(workflow: Workflow, key: str, value: Any) -> None:
            scope = (await in_thread(workflow.get))["scope"]
            with QueueClient.from_connection_string(
                connection,
                QUEUE_RUN_REQUESTS,
                message_encode_policy=TextBase64EncodePolicy(),
                api_version=API_VERSION,
            ) as queue:
                await in_thread(guide["ask"], queue, scope, workflow.id, TOKEN, key, value)

        host = await in_thread(start_host, TRUESTOP_STORAGE="azure", AzureWebJobsStorage=connection, **WEBHOOKS)
        try:
            with new_client(host.base_url) as client:
                await check(client, ask)
        finally:
            host.stop()
    assert "Traceback" not in host.log()


async def set_up(account: StorageConnection) -> None:
    """What `python -m truestop.admin init` makes."""
    blobs, queue = AzureBlobs(account, "truestop"), AzureQueue(account)
    try:
        await blobs.initialise()
        await queue.initialise([*QUEUES, *(name + POISON for name in QUEUES)])
    finally:
        await blobs.close()
        await queue.close()


def test_a_cancelled_runs_end_is_told_and_bad_webhooks_are_refused(api: Api) -> None:
    """Guards the definition's fields and the list over HTTP, on the shared host, which calls no private addresses."""
    hook = {"name": "ops", "url": "https://127.0.0.1:9/", "events": ["run.cancelled"], "secret": "whsec_" + "A" * 40}
    refused = api.request(
        "POST", "/api/user/workflows", json={"name": "W", "steps": [], "notifications": [{**hook, "secret": "x"}]}
    )
    assert refused.status_code == 422
    assert "notifications.0.secret" in {error["field"] for error in refused.json()["errors"]}
    workflow = api.workflow({"kind": "tool", "tool": "sleep", "arguments": {"seconds": 30}}, notifications=[hook])
    run = workflow.start()
    assert run.cancel(reason="enough").status_code in (200, 202)
    run.wait("cancelled")

    def given_up() -> Json:
        return api.all(f"{workflow.path}/deliveries", status="failed")

    (told,) = eventually_sync(given_up, 20, "the delivery is a dead letter")
    assert (told["event"], told["error"]["code"]) == ("run.cancelled", "webhook_forbidden_address")
    assert told["payload"]["data"]["cancel"]["reason"] == "enough"
    assert api.request("GET", f"{workflow.path}/deliveries?status=lost").status_code == 422
