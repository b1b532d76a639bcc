"""Queue triggers, on the local queue and on Azurite: each message at least once, tries, poison, leases, and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest

from devhost.bindings import BadBinding, Unserved
from devhost.local_settings import SettingsFileError, host_settings
from devhost.triggers.calls import Caller
from devhost.triggers.consumer import Backoff
from devhost.triggers.queue import Queue
from devhost.triggers.queue_options import QueueOptions, queue_options
from shared.azure_storage import StorageConnection
from shared.queues import POISON, SqliteQueue
from shared.queues_azure import AzureQueue
from shared.sqlite import Database
from tests.devhost_serving import lines, write_app
from tests.durable_host import functions_of
from tests.support.queues import Queues, empty_queues
from tests.support.waiting import eventually, eventually_sync
from tests.test_devhost_host import started

OPTIONS = QueueOptions(max_polling_interval=timedelta(milliseconds=100))
SOURCE = """
@app.queue_trigger(arg_name="m", queue_name="q-1", connection="AzureWebJobsStorage")
async def take(m: func.QueueMessage) -> None:
    await told(m)
"""
WITH_OUTPUT = """
@app.queue_trigger(arg_name="m", queue_name="q-1", connection="AzureWebJobsStorage")
@app.queue_output(arg_name="out", queue_name="q-2", connection="AzureWebJobsStorage")
async def take(m: func.QueueMessage, out: func.Out[str]) -> None: ...
"""


class Opened:
    """What a listener asks of the storage."""

    longest_poll = timedelta(milliseconds=100)

    def __init__(self, reader: Queues) -> None:
        self._reader = reader

    def queues(self) -> Queues:
        return self._reader


class Seen:
    """What the function was told. It fails while `fails`, and waits for `gate`."""

    def __init__(self) -> None:
        self.messages: list[func.QueueMessage] = []
        self.fails, self.at_work, self.most_at_work = False, 0, 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, message: func.QueueMessage) -> None:
        self.messages.append(message)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await self.gate.wait()
        finally:
            self.at_work -= 1
        if self.fails:
            raise ValueError("told to fail")

    def bodies(self) -> list[Any]:
        return sorted(message.get_json()["n"] for message in self.messages)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Queue, Seen]]:
    def make(reader: Queues, options: QueueOptions = OPTIONS, source: str = SOURCE) -> tuple[Queue, Seen]:
        (function,) = functions_of(write_app(tmp_path / "app", source))
        seen = function.function.__globals__["told"] = Seen()
        return Queue(Caller(function, ""), Opened(reader), options), seen  # type: ignore[arg-type]

    return make


@asynccontextmanager
async def listening(queue: Queue) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def empty(queues: Queues) -> bool:
    return await queues.receive("q-1", 1) == []


async def test_each_message_is_given_to_the_function_and_deleted(queues: Queues, made: Any) -> None:
    """Guards the whole path, and each fact that a function can read of a message."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    for n in range(3):
        await queues.send("q-1", {"n": n, "text": "ü"})
    queue, seen = made(queues)
    async with listening(queue):
        await eventually(lambda: len(seen.messages) == 3, what="all were given")
    assert seen.bodies() == [0, 1, 2]
    message = seen.messages[0]
    assert isinstance(message, func.QueueMessage)
    assert message.get_json()["text"] == "ü"
    assert message.dequeue_count == 1
    assert message.id
    assert message.pop_receipt
    assert before < message.insertion_time < message.time_next_visible < message.expiration_time  # type: ignore[operator]
    assert await queues.peek("q-1") == await queues.peek("q-1" + POISON) == []


async def test_a_message_that_fails_five_times_is_poison(queues: Queues, made: Any) -> None:
    """Neither a failure nor poison may stop what comes after it."""
    await queues.send("q-1", {"n": 1})
    queue, seen = made(queues)
    seen.fails = True
    async with listening(queue):
        poison = await eventually(lambda: queues.peek("q-1" + POISON), what="it is poison")
        seen.fails = False
        await queues.send("q-1", {"n": 2})
        await eventually(lambda: len(seen.messages) == 6, what="the next one is given")
    assert [message.dequeue_count for message in seen.messages] == [1, 2, 3, 4, 5, 1]
    assert poison == [{"n": 1}]
    await eventually(lambda: empty(queues), what="nothing is left")


async def test_after_a_failure_it_is_hidden_for_the_visibility_timeout(queues: Queues, made: Any) -> None:
    """A failure that needs time must not use up five tries at once."""
    await queues.send("q-1", {"n": 1})
    queue, seen = made(queues, replace(OPTIONS, visibility_timeout=timedelta(hours=1)))
    seen.fails = True
    async with listening(queue):
        await eventually(lambda: seen.messages and not seen.at_work, what="it failed")
        await queues.send("q-1", {"n": 2})
        await eventually(lambda: len(seen.messages) == 2 and not seen.at_work, what="the other was given")
    assert seen.bodies() == [1, 2]
    assert await queues.receive("q-1", 1) == []


async def test_a_batch_and_the_threshold_bound_what_is_at_work(queues: Queues, made: Any) -> None:
    """host.json is how an app protects what its functions call."""
    for n in range(12):
        await queues.send("q-1", {"n": n})
    queue, seen = made(queues, replace(OPTIONS, batch_size=4, new_batch_threshold=2))
    seen.gate.clear()
    async with listening(queue):
        await eventually(lambda: seen.at_work == 4, what="a batch is at work")
        seen.gate.set()
        await eventually(lambda: len(seen.messages) == 12 and not seen.at_work, what="all are done")
    assert seen.bodies() == list(range(12))
    assert seen.most_at_work <= 6


async def test_a_lease_is_renewed_while_the_function_runs(tmp_path: Path, made: Any, monkeypatch: Any) -> None:
    """A function that takes longer than the lease must not get its message a second time."""
    monkeypatch.setattr("devhost.triggers.consumer.RENEW_SECONDS", 0.02)
    database = Database.open(tmp_path / "q.db")
    local = SqliteQueue(database)
    await local.send("q-1", {"n": 1})
    queue, seen = made(local)
    seen.gate.clear()
    leases = set()

    def renewed() -> bool:
        leases.update(row[0] for row in database.fetch("SELECT visible_at FROM queue_messages", ()))
        return len(leases) > 4

    async with listening(queue):
        await eventually(lambda: seen.at_work, what="it is at work")
        await eventually(renewed, what="the lease moves on")
        seen.gate.set()
        await eventually(lambda: not database.fetch("SELECT 1 FROM queue_messages", ()), what="it is deleted")
    assert len(seen.messages) == 1
    await database.close()


async def test_what_a_stopping_listener_has_in_hand_is_given_back(queues: Queues, made: Any) -> None:
    """After a restart nobody should wait for a lease of a host that is gone."""
    await queues.send("q-1", {"n": 1})
    queue, seen = made(queues)
    seen.gate.clear()
    async with listening(queue):
        await eventually(lambda: seen.at_work, what="it is at work")
    (message,) = await queues.receive("q-1", 60)
    assert (message.dequeue_count, seen.at_work) == (2, 0)


async def test_keys_of_a_json_body_hide_what_the_message_says_of_itself(queues: Queues, made: Any) -> None:
    """A trap of the real host: an app that sends `id` must meet it here."""
    await queues.send("q-1", {"id": "mine", "PopReceipt": 5, "InsertionTime": None, "n": 1})
    await queues.send("q-1", {"dequeuecount": "many", "n": 2})
    queue, seen = made(queues)
    async with listening(queue):
        assert await eventually(lambda: queues.peek("q-1" + POISON), what="senseless metadata is a failure")
    assert seen.bodies() == [1]
    assert (seen.messages[0].id, seen.messages[0].pop_receipt) == ("mine", "5")
    assert seen.messages[0].insertion_time is not None


async def test_what_is_not_json_is_given_as_it_is(tmp_path: Path, made: Any) -> None:
    """Others put messages there too; the function is who judges."""
    database = Database.open(tmp_path / "q.db")
    local = SqliteQueue(database)
    await local.send("q-1", {"n": 1})
    texts = ["[1]", "null", "{", "", "[" * 100_000]
    for text in texts:
        row = (text,)
        await database.write(
            lambda connection, row=row: connection.execute(
                "INSERT INTO queue_messages (message_id, queue, body, inserted_at, visible_at) "
                "SELECT hex(randomblob(8)), queue, ?, inserted_at, visible_at FROM queue_messages LIMIT 1",
                row,
            )
        )
    queue, seen = made(local)
    async with listening(queue):
        await eventually(lambda: len(seen.messages) == 6, what="all were given")
    assert {message.get_body().decode() for message in seen.messages} == {'{"n":1}', *texts}
    await database.close()


async def test_encodings_are_those_of_host_json(storage_account: StorageConnection, made: Any) -> None:
    """With base64 what isn't base64 goes to the poison queue as it is, unseen by the function; with none it is a text."""
    base64, plain = AzureQueue(storage_account), AzureQueue(storage_account, encoded=False)
    await base64.initialise(["q-1", "q-1" + POISON])
    service = plain._client("q-1")
    await service.clear_messages()
    await plain._client("q-1" + POISON).clear_messages()
    await service.send_message("plain {text}")
    await base64.send("q-1", {"n": 1})
    queue, seen = made(base64)
    async with listening(queue):
        poison = await eventually(lambda: plain.receive("q-1" + POISON, 60), what="it is poison")
        await eventually(lambda: len(seen.messages) == 1, what="the other one is given")
    assert ([message.text for message in poison], seen.bodies()) == (["plain {text}"], [1])
    await service.send_message("plain {text}")
    queue, seen = made(plain)
    async with listening(queue):
        await eventually(lambda: len(seen.messages) == 1, what="it is given")
    assert seen.messages[0].get_body() == b"plain {text}"
    await base64.close()
    await plain.close()


async def test_a_queue_that_is_not_there_yet_is_waited_for(
    storage_account: StorageConnection,
    made: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trigger makes no queue; and it says once what is missing, not ten times a second."""
    azure, looks = AzureQueue(storage_account), []

    async def receive(queue: str, seconds: int, limit: int) -> Any:
        looks.append(queue)
        return await AzureQueue.receive(azure, queue, seconds, limit)

    monkeypatch.setattr(azure, "receive", receive)
    queue, seen = made(azure, source=SOURCE.replace("q-1", "late-queue"))
    caplog.set_level("INFO", "devhost.triggers")
    async with listening(queue):
        await eventually(lambda: looks.count("late-queue") > 3, what="it looked several times")
        await azure.initialise(["late-queue"])
        await azure.send("late-queue", {"n": 1})
        await eventually(lambda: seen.messages, what="it is given")
    said = [record.getMessage() for record in caplog.records if "late-queue" in record.getMessage()]
    assert len(said) == 2
    assert "QueueNotFound" in said[0]
    assert said[1] == "queue late-queue can be read again"
    await azure.close()


def test_polling_backs_off_and_begins_anew() -> None:
    """An idle queue must not cost a request ten times a second for ever."""
    backoff = Backoff(timedelta(seconds=2))
    pauses = [backoff.next() for _ in range(12)]
    assert pauses[0] == 0.1
    assert all(0 < before <= after for before, after in pairwise(pauses))
    assert pauses[-1] == 2.0
    backoff.reset()
    assert backoff.next() == 0.1
    assert Backoff(timedelta(milliseconds=100)).next() == 0.1


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (SOURCE.replace("q-1", "Q_1"), BadBinding, "'q_1' is not a queue name"),
        (SOURCE.replace("AzureWebJobsStorage", "Other"), Unserved, "the connection 'Other'"),
        (SOURCE.replace("func.QueueMessage", "str"), BadBinding, "parameter 'm' can't be a str"),
        (
            SOURCE.replace(
                "async def take(m: func.QueueMessage)", "async def take(m: func.QueueMessage, out: func.Out[str])"
            )
            .strip()
            .replace("async", '@app.queue_output(arg_name="out", queue_name="q-2", connection="c")\nasync', 1),
            Unserved,
            "a binding of type 'queue'",
        ),
    ],
)
def test_a_queue_trigger_that_can_not_work_is_named_at_start(made: Any, source: str, error: Any, said: str) -> None:
    """Guards against a host that starts, and a function that never runs."""
    with pytest.raises(error, match="'take'") as refusal:
        made(None, source=source)
    assert said in str(refusal.value)


def test_host_json_is_read_as_the_host_reads_it(tmp_path: Path) -> None:
    """Names in any case, and defaults."""
    given = {"batchSize": 8, "newbatchthreshold": 3, "maxDequeueCount": 2, "visibilityTimeout": "00:00:30"}
    given |= {"maxPollingInterval": "00:00:01", "messageEncoding": "NONE", "unknown": []}
    (tmp_path / "host.json").write_text(json.dumps({"extensions": {"queues": given}}))
    spans = (timedelta(seconds=30), timedelta(seconds=1))
    assert host_settings(tmp_path).queues == QueueOptions(8, 3, 2, *spans, encoded=False)
    assert QueueOptions(batch_size=16, new_batch_threshold=0).threshold == 0
    assert QueueOptions(batch_size=1).threshold == 0
    (tmp_path / "host.json").write_text('{"extensions": {"queues": {"batchSize": 33}}}')
    with pytest.raises(SettingsFileError, match=r"extensions: batchSize must be a number from 1 to 32, not 33"):
        host_settings(tmp_path)


def test_a_setting_takes_the_place_of_what_host_json_says(tmp_path: Path) -> None:
    """How a deployed app is tuned without a new build, and a test made quick."""
    (tmp_path / "host.json").write_text('{"extensions": {"Queues": {"batchSize": 8, "maxDequeueCount": 2}}}')
    given = {
        "AzureFunctionsJobHost__Extensions__queues__BATCHSIZE": "4",
        "AzureFunctionsJobHost__extensions__http": "x",
    }
    given |= {"AzureFunctionsJobHost__extensions__http__routePrefix": "v2", "azurefunctionsjobhost__": "nothing"}
    found = host_settings(tmp_path, given)
    assert (found.queues.batch_size, found.queues.max_dequeue_count, found.route_prefix) == (4, 2, "v2")
    with pytest.raises(SettingsFileError, match="batchSize must be a number"):
        host_settings(tmp_path, {"AzureFunctionsJobHost__extensions__queues__batchSize": "many"})


@pytest.mark.parametrize(
    "section",
    [
        *({"batchSize": value} for value in (0, 33, "-8", "9" * 5000, 1.5, True, None)),
        *({"newBatchThreshold": -1}, {"maxDequeueCount": 0}, {"messageEncoding": "utf8"}, {"messageEncoding": None}),
        *({"visibilityTimeout": value} for value in ("soon", -1, "8.00:00:00", {})),
        *({"maxPollingInterval": value} for value in ("00:00:00.05", "", 5000)),
    ],
)
def test_an_option_that_the_host_would_refuse_is_refused(section: dict[str, Any]) -> None:
    """A host that ignores a wrong setting works differently from the one in Azure."""
    with pytest.raises(ValueError, match=next(iter(section))):
        queue_options(section)


APP = """
import json, os, time
from pathlib import Path

FOLDER = Path(__file__).parent

def note(name, *words):
    with (FOLDER / name).open("a") as file:
        print(*words, file=file)

@app.queue_trigger(arg_name="message", queue_name="run-requests", connection="AzureWebJobsStorage")
@app.durable_client_input(client_name="client")
async def take(message: func.QueueMessage, client: df.DurableOrchestrationClient) -> None:
    note("taken", message.get_body().decode(), message.dequeue_count, message.id)
    if b"wait" in message.get_body() and message.dequeue_count == 1:
        time.sleep(60)
    await client.start_new("answer", f"run-{message.get_json()['n']}", message.get_json())

@app.queue_trigger(arg_name="message", queue_name="run-requests", connection="AzureWebJobsStorage")
def disabled(message: func.QueueMessage) -> None:
    note("disabled", message.get_body().decode())

@app.orchestration_trigger(context_name="context")
def answer(context: df.DurableOrchestrationContext):
    return context.get_input()
    yield
"""
OFF = {"AzureWebJobs.disabled.Disabled": "1"}


def completed(base: str, instance: str) -> Any:
    url = f"{base}/runtime/webhooks/durabletask/instances/{instance}"
    return eventually_sync(
        lambda: (found := httpx.get(url, trust_env=False)).status_code == 200 and found.json(), 15, "the run ended"
    )


async def local_send(data: Path, body: dict[str, Any]) -> None:
    database = Database.open(data / "truestop.db")
    await SqliteQueue(database).send("run-requests", body)
    await database.close()


def test_a_message_starts_a_run_and_outlives_a_killed_host(tmp_path: Path) -> None:
    """Guards the whole on the local queue: from another process, to a Durable client, through a `kill -9`, by hand."""
    app, data = write_app(tmp_path / "app", APP), tmp_path / "data"
    with started(app, data, environment=OFF) as host:
        asyncio.run(local_send(data, {"n": 1}))
        assert completed(host.base, "run-1")["output"] == {"n": 1}
        sent = httpx.post(f"{host.base}/admin/functions/take", json={"input": '{"n": 2}'}, trust_env=False)
        assert sent.status_code == 202
        assert completed(host.base, "run-2")["output"] == {"n": 2}
        asyncio.run(local_send(data, {"n": 3, "wait": True}))
        eventually_sync(lambda: len(lines(app, "taken")) == 3, what="it is at work")
        host.stop(signal.SIGKILL)
    with contextlib.closing(sqlite3.connect(data / "truestop.db")) as connection, connection:
        hidden = connection.execute("SELECT visible_at FROM queue_messages").fetchall()
        assert len(hidden) == 1
        connection.execute("UPDATE queue_messages SET visible_at = 0")  # as if the dead host's lease had run out
    with started(app, data, environment=OFF) as host:
        assert completed(host.base, "run-3")["output"] == {"n": 3, "wait": True}
    assert lines(app, "taken")[1] == '{"n": 2} 0 None'
    assert [line.split()[-2] for line in lines(app, "taken")] == ["1", "0", "1", "2"]
    assert lines(app, "disabled") == []


async def test_a_host_listens_to_the_storage_account_that_the_app_uses(
    storage_account: StorageConnection, tmp_path: Path
) -> None:
    """TRUESTOP_STORAGE decides, for the app and for its triggers alike."""
    app, data = write_app(tmp_path / "app", APP), tmp_path / "data"
    azure = await empty_queues(storage_account)
    await azure.send("run-requests", {"n": 1})
    account = {"TRUESTOP_STORAGE": "azure", "AzureWebJobsStorage": str(storage_account.connection_string)}

    def serve() -> Any:
        with started(app, data, environment={**OFF, **account}) as host:
            return completed(host.base, "run-1")

    assert (await asyncio.to_thread(serve))["output"] == {"n": 1}
    await azure.close()
