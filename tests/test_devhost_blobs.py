"""Blob triggers, in a local folder and on Azurite: each version once, tries, poison, restarts, and by hand."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest
import pytest_asyncio

from devhost.bindings import BadBinding, Unserved
from devhost.local_settings import HostSettings, host_settings
from devhost.triggers.blob import QUEUE, SCHEMA, Blob, BlobMessages
from devhost.triggers.blob_paths import parse_blob_path
from devhost.triggers.calls import Caller
from devhost.triggers.containers import Opened
from devhost.triggers.leader import Leadership
from devhost.triggers.queue_options import QueueOptions, blob_options
from devhost.triggers.service import Triggers
from devhost.triggers.storage import Storage
from shared.azure_storage import StorageConnection
from shared.blobs import LocalBlobs
from shared.errors import Unavailable
from shared.folder_blobs import FolderBlobs
from shared.queues import POISON
from shared.sqlite import Database
from tests.devhost_serving import leading, lines, write_app
from tests.durable_host import functions_of
from tests.support.waiting import eventually, eventually_sync
from tests.test_devhost_host import started

SOURCE = """
@app.blob_trigger(arg_name="blob", path="CONTAINER/in/{name}.{extension}", connection="AzureWebJobsStorage")
async def take(blob: func.InputStream) -> None:
    await told(blob)
"""


class Bench:
    """A container, and blob triggers on it."""

    def __init__(self, path: Path, hub: tuple[Database, Leadership], environment: dict[str, str]) -> None:
        self.path, self.environment = path, environment
        self.database, self.leadership = hub
        self.container = f"box-{uuid.uuid4().hex}"
        self.storage = Storage(QueueOptions(), environment)
        self.seen: list[func.InputStream] = []
        self.fails: Callable[[func.InputStream], bool] = lambda blob: False
        self.put: Callable[[str, bytes], Awaitable[None]]
        self.remove: Callable[[str], Awaitable[None]]

    async def told(self, blob: func.InputStream) -> None:
        self.seen.append(blob)
        if self.fails(blob):
            raise ValueError("told to fail")

    def blob(self, source: str = SOURCE) -> Blob:
        source = source.replace("CONTAINER", self.container)
        (function,) = functions_of(write_app(self.path / "app", source))
        function.function.__globals__["told"] = self.told
        return Blob(Caller(function, ""), self.storage, self.database, self.leadership)

    @asynccontextmanager
    async def listening(self, *blobs: Blob) -> AsyncIterator[None]:
        messages = BlobMessages(blobs, self.storage, QueueOptions())
        tasks = [asyncio.create_task(one.run()) for one in (*blobs, messages)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended

    def names(self) -> list[str]:
        return [str(blob.name).removeprefix(f"{self.container}/") for blob in self.seen]


@pytest_asyncio.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[Database, Leadership]]:
    async with leading(tmp_path, SCHEMA) as both:
        yield both


@pytest_asyncio.fixture(params=["folder", "azurite"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, hub: tuple[Database, Leadership], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setattr("devhost.triggers.storage.LOCAL_SCAN_SECONDS", 0.02)
    monkeypatch.setattr("devhost.triggers.storage.ACCOUNT_SCAN_SECONDS", 0.02)
    async with AsyncExitStack() as stack:
        if request.param == "folder":
            yield await _folder_bench(tmp_path, hub, stack)
        else:
            yield await _azurite_bench(request.getfixturevalue("storage_account"), tmp_path, hub, stack)


async def _folder_bench(path: Path, hub: tuple[Database, Leadership], stack: AsyncExitStack) -> Bench:
    bench = Bench(path, hub, {"TRUESTOP_DATA": str(path / "data")})
    stack.push_async_callback(bench.storage.close)
    folder = path / "data" / "containers" / bench.container

    async def put(name: str, data: bytes) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    async def remove(name: str) -> None:
        (folder / name).unlink()

    bench.put, bench.remove = put, remove
    return bench


async def _azurite_bench(
    account: StorageConnection, path: Path, hub: tuple[Database, Leadership], stack: AsyncExitStack
) -> Bench:
    environment = {"TRUESTOP_STORAGE": "azure", "AzureWebJobsStorage": str(account.connection_string)}
    bench = Bench(path, hub, environment)
    stack.push_async_callback(bench.storage.close)
    for queue in (QUEUE, QUEUE + POISON):
        await bench.storage.make_queue(queue)
        await account.queues(stack).get_queue_client(queue).clear_messages()
    client = account.blobs(stack).get_container_client(bench.container)
    await client.create_container()

    async def put(name: str, data: bytes) -> None:
        await client.upload_blob(name, data, overwrite=True, metadata={"by": "me"})

    async def remove(name: str) -> None:
        await client.delete_blob(name)

    bench.put, bench.remove = put, remove
    return bench


async def test_each_version_of_a_blob_that_fits_is_given_once(bench: Bench) -> None:
    """Guards what exists at first start, what comes, what is written over, what doesn't fit, and a restart."""
    await bench.put("in/a b.txt", b"one")
    await bench.put("in/deep/er.tar.gz", b"two")
    await bench.put("out/c.txt", b"no")
    await bench.put("in/none", b"no")
    async with bench.listening(bench.blob()):
        await eventually(lambda: len(bench.seen) == 2, what="what was there is given")
        await bench.put("in/new.txt", b"three")
        await eventually(lambda: len(bench.seen) == 3, what="what comes is given")
        await bench.put("in/new.txt", b"four!")
        await eventually(lambda: len(bench.seen) == 4, what="a new version is given")
    assert sorted(bench.names()) == ["in/a b.txt", "in/deep/er.tar.gz", "in/new.txt", "in/new.txt"]
    assert [blob.read() for blob in bench.seen[2:]] == [b"three", b"four!"]
    assert bench.seen[3].length == 5
    await bench.put("in/later.txt", b"")
    async with bench.listening(bench.blob()):
        await eventually(lambda: len(bench.seen) == 5, what="only what is new is given after a restart")
    assert bench.names()[-1] == "in/later.txt"


async def test_the_function_gets_what_it_gets_in_azure(bench: Bench) -> None:
    """Guards each fact that a function can read of a blob."""
    await bench.put("in/é ü.txt", b"hello")
    async with bench.listening(bench.blob()):
        await eventually(lambda: bench.seen, what="it is given")
    (blob,) = bench.seen
    assert isinstance(blob, func.InputStream)
    assert (blob.name, blob.length) == (f"{bench.container}/in/é ü.txt", 5)
    assert str(blob.uri).endswith(f"/{bench.container}/in/%C3%A9%20%C3%BC.txt")
    assert blob.blob_properties["ContentLength"] == 5
    assert blob.blob_properties["ETag"].startswith('"')
    assert blob.metadata == ({} if bench.storage.is_local else {"by": "me"})
    assert (blob.read(2), blob.read()) == (b"he", b"llo")


async def test_a_blob_that_fails_five_times_is_named_in_the_poison_queue(bench: Bench) -> None:
    """Neither a failure nor poison may stop what comes after it."""
    bench.fails = lambda blob: "bad" in str(blob.name)
    await bench.put("in/bad.txt", b"x")
    async with bench.listening(bench.blob()):
        poison = await eventually(lambda: bench.storage.queues().peek(QUEUE + POISON), what="it is poison")
        await bench.put("in/good.txt", b"x")
        await eventually(lambda: "in/good.txt" in bench.names(), what="the next one is given")
    assert bench.names() == ["in/bad.txt"] * 5 + ["in/good.txt"]
    (message,) = poison
    assert message.pop("ETag")
    assert message == {
        "Type": "BlobTrigger",
        "FunctionId": "Host.Functions.take",
        "BlobType": "BlockBlob",
        "ContainerName": bench.container,
        "BlobName": "in/bad.txt",
    }


async def test_a_version_that_is_gone_or_old_by_then_is_passed_over(bench: Bench) -> None:
    """A message may wait for long; the function must get the version that it is told of, or nothing."""
    await bench.put("in/a.txt", b"one")
    blob = bench.blob()
    assert await blob.work({"BlobName": "in/a.txt", "ETag": "another"})
    assert await blob.work({"BlobName": "in/b.txt", "ETag": "another"})
    assert bench.seen == []


async def test_a_blob_too_large_to_hold_is_not_given(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host holds a blob in memory: a huge one must cost its own trigger only."""
    monkeypatch.setattr("devhost.triggers.containers_azure.MAX_BLOB", 3)
    monkeypatch.setattr("devhost.triggers.storage.FolderBlobs", lambda folder: FolderBlobs(folder, max_bytes=3))
    await bench.put("in/large.txt", b"four")
    await bench.put("in/small.txt", b"two")
    async with bench.listening(bench.blob()):
        poison = await eventually(lambda: bench.storage.queues().peek(QUEUE + POISON), what="it is poison")
        await eventually(lambda: bench.seen, what="the other is given")
    assert [message["BlobName"] for message in poison] == ["in/large.txt"]
    assert bench.names() == ["in/small.txt"]


async def test_a_blob_that_goes_and_comes_back_is_new(bench: Bench) -> None:
    """And receipts don't pile up for ever."""
    await bench.put("in/a.txt", b"one")

    def receipts() -> list[Any]:
        return bench.database.fetch("SELECT name FROM trigger_blobs", ())

    async with bench.listening(bench.blob()):
        await eventually(lambda: len(bench.seen) == 1, what="it is given")
        await bench.remove("in/a.txt")
        await eventually(lambda: not receipts(), what="its receipt is gone")
        await bench.put("in/a.txt", b"two")
        await eventually(lambda: len(bench.seen) == 2, what="it is given again")


class Scripted:
    """A container whose scans answer these, the last one for ever."""

    settles = True

    def __init__(self, *scans: dict[str, str] | Exception) -> None:
        self.name, self._scans = "box", list(scans)

    async def versions(self, prefix: str) -> dict[str, str]:
        found = self._scans.pop(0) if len(self._scans) > 1 else self._scans[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def open(self, name: str) -> Opened:
        now = self._scans[0]
        assert isinstance(now, dict)
        return Opened(now[name].encode(), now[name], "", {}, {})


@pytest.mark.parametrize("bench", ["folder"], indirect=True)
async def test_a_file_that_is_still_being_written_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file must not start a run; nor may an error in between count as a change."""
    queues, announced = bench.storage.queues(), []
    send = queues.send

    async def sent(queue: str, body: Any) -> None:
        announced.append(body["ETag"])
        await send(queue, body)

    monkeypatch.setattr(queues, "send", sent)
    blob = bench.blob()
    key = "in/a.txt"
    blob._container = Scripted({key: "1"}, {key: "2"}, {key: "3"}, Unavailable("away"), {key: "3"})
    async with bench.listening(blob):
        await eventually(lambda: bench.seen, what="it is given")
    assert announced == ["3"]
    assert [one.read() for one in bench.seen] == [b"3"]


@pytest.mark.parametrize("bench", ["azurite"], indirect=True)
async def test_a_container_that_is_not_there_yet_is_waited_for(
    bench: Bench, storage_account: StorageConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """The trigger makes no container; and it says once what is missing."""
    caplog.set_level("INFO", "devhost.triggers")
    bench.container = name = f"late-{uuid.uuid4().hex}"
    said = [f"container {name} can't be read", f"container {name} can be read again"]

    def heard() -> list[str]:
        return [record.getMessage() for record in caplog.records if name in record.getMessage()]

    async with AsyncExitStack() as stack, bench.listening(bench.blob()):
        await eventually(heard, what="it says what is missing")
        client = storage_account.blobs(stack).get_container_client(name)
        await client.create_container()
        await client.upload_blob("in/a.txt", b"x")
        await eventually(lambda: bench.seen, what="it is given")
    assert [one[: len(words)] for one, words in zip(heard(), said, strict=True)] == said


@pytest.mark.parametrize("bench", ["folder"], indirect=True)
async def test_the_apps_own_container_is_the_one_that_it_writes(bench: Bench) -> None:
    """Local blobs are no plain files: read as such they would have a line of JSON too much."""
    bench.container = "truestop"
    await LocalBlobs(bench.path / "data" / "blobs").put("in/a.txt", b"hello", "text/plain")
    async with bench.listening(bench.blob()):
        await eventually(lambda: bench.seen, what="it is given")
    assert bench.seen[0].read() == b"hello"
    assert bench.seen[0].blob_properties["ContentType"] == "text/plain"


@pytest.mark.parametrize("bench", ["folder"], indirect=True)
async def test_a_message_that_is_no_blob_trigger_message_does_not_stop_the_others(bench: Bench) -> None:
    """One of a function that is no longer there is dropped, as in the host; nonsense is poison."""
    queues = bench.storage.queues()
    await queues.send(QUEUE, {"FunctionId": "Host.Functions.gone", "BlobName": "in/a.txt"})
    await queues.send(QUEUE, {"FunctionId": "Host.Functions.take", "BlobName": 5})
    await bench.put("in/a.txt", b"x")
    async with bench.listening(bench.blob()):
        poison = await eventually(lambda: queues.peek(QUEUE + POISON), what="nonsense is poison")
        await eventually(lambda: bench.seen, what="the good one is given")
    assert poison == [{"FunctionId": "Host.Functions.take", "BlobName": 5}]


FITS = [
    ("box/{name}.csv", "a.b.csv", True),
    ("box/{name}.{extension}", "foo.txt", True),
    ("box/{name}/foo/{skip}.{extension}", "name/foo/skip/bar.txt", True),
    ("box/foo/{name}.{extension}", "foo/skip/bar.txt", True),
    ("box/foo/{name}.{extension}", "Foo/bar.txt", False),
    ("box/{name}.-/", "foo.bar.-/txt", False),
    ("box/a.c", "abc", False),
    ("box/a.c", "a.c", True),
    ("box/{{2014}}/{x}", "{2014}/y", True),
    ("box/{x}", "", True),
    ("box", "any/thing", True),
    ("box/in/{name}", "out/in/a", False),
]


@pytest.mark.parametrize(("path", "name", "fits"), FITS)
def test_a_path_means_the_blobs_that_it_means_in_azure(path: str, name: str, fits: bool) -> None:
    """From the host's own suite: a parameter takes slashes, too."""
    parsed = parse_blob_path(path)
    assert parsed.fits(name) == fits
    assert not fits or name.startswith(parsed.prefix)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "box/", "Box/a", "b/a", "a--b/c", "{box}/a", "box/{", "box/}", "box/{a", "box/a}b", "box/{}"),
        *("box/{a.b}", "box/{*rest}", "box/{1}", "box/{a}/{A}", "box/{Uri}", "box/a//b", "../{a}"),
    ],
)
def test_a_path_that_the_host_would_refuse_is_refused(path: str) -> None:
    """A trigger that never fires must not start quietly."""
    with pytest.raises(ValueError, match=r"."):
        parse_blob_path(path)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("{name}.{extension}", "{*rest}"), BadBinding, "{*rest} is not a name"),
        (('"AzureWebJobsStorage"', '"Other"'), Unserved, "the connection 'Other'"),
        (("func.InputStream", "func.QueueMessage"), BadBinding, "parameter 'blob' can't be a QueueMessage"),
        (('Storage")', 'Storage", source="Other")'), Unserved, "source 'Other'"),
    ],
)
@pytest.mark.parametrize("bench", ["folder"], indirect=True)
def test_a_blob_trigger_that_can_not_work_is_named_at_start(bench: Bench, change: Any, error: Any, said: str) -> None:
    """Guards against a host that starts, and a function that never runs."""
    with pytest.raises(error, match="'take'") as refusal:
        bench.blob(SOURCE.replace(*change))
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("at_once", "batch", "threshold"),
    [(100, 32, 68), (64, 32, 32), (63, 32, 31), (62, 32, 30), (16, 9, 7), (3, 2, 1), (2, 2, 0), (1, 1, 0)],
)
def test_parallelism_is_shared_out_as_in_the_host(at_once: int, batch: int, threshold: int) -> None:
    """The cases of the host's own test."""
    options = blob_options({"maxDegreeOfParallelism": at_once, "poisonBlobThreshold": 3})
    assert (options.batch_size, options.threshold, options.max_dequeue_count) == (batch, threshold, 3)


def test_options_of_blobs_are_checked(tmp_path: Path) -> None:
    """A host that ignores a wrong setting works differently from the one in Azure."""
    (tmp_path / "host.json").write_text(json.dumps({"extensions": {"blobs": {"poisonBlobThreshold": 1}}}))
    assert host_settings(tmp_path).blobs.max_dequeue_count == 1
    with pytest.raises(ValueError, match="maxDegreeOfParallelism"):
        blob_options({"maxDegreeOfParallelism": 0})


APP = """
from pathlib import Path

FOLDER = Path(__file__).parent

@app.blob_trigger(arg_name="blob", path="filesync/{name}", connection="AzureWebJobsStorage", source="EventGrid")
@app.durable_client_input(client_name="client")
async def take(blob: func.InputStream, client: df.DurableOrchestrationClient) -> None:
    with (FOLDER / "taken").open("a") as file:
        print(blob.name, blob.read().decode(), file=file)
    await client.start_new("answer", None, blob.name)

@app.orchestration_trigger(context_name="context")
def answer(context: df.DurableOrchestrationContext):
    return context.get_input()
    yield
"""


def test_a_file_that_is_dropped_starts_a_run(tmp_path: Path) -> None:
    """Guards the whole as people meet it: a file copied into a folder, a host that restarts, and a call by hand."""
    app, data = write_app(tmp_path / "app", APP), tmp_path / "data"
    folder = data / "containers" / "filesync"
    folder.mkdir(parents=True)
    (folder / "there.txt").write_text("one")
    with started(app, data) as host:
        eventually_sync(lambda: lines(app, "taken") == ["filesync/there.txt one"], what="what was there is taken")
        url = f"{host.base}/runtime/webhooks/durabletask/instances"
        eventually_sync(
            lambda: [one["output"] for one in httpx.get(url, trust_env=False).json()] == ["filesync/there.txt"],
            what="the run has ended",
        )
        for given in ("filesync/there.txt", "filesync/none", "../../secret", "filesync/../../x", ""):
            sent = httpx.post(f"{host.base}/admin/functions/take", json={"input": given}, trust_env=False)
            assert sent.status_code == 202
        eventually_sync(lambda: len(lines(app, "taken")) == 2, what="it ran by hand")
        eventually_sync(lambda: host.output.count("could not be called by hand") == 4, what="the others are said")
        host.stop()
    (folder / "new.txt").write_text("two")
    with started(app, data):
        eventually_sync(lambda: len(lines(app, "taken")) == 3, what="what is new is taken")
    assert lines(app, "taken") == ["filesync/there.txt one"] * 2 + ["filesync/new.txt two"]


@pytest.mark.parametrize("bench", ["azurite"], indirect=True)
async def test_a_disabled_function_does_not_listen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the way from an app to its listeners, on an account."""
    caplog.set_level("INFO", "devhost.triggers")
    functions = functions_of(write_app(bench.path / "app", APP))
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    for disabled, listening in (
        ("TRUE", set()),
        ("false", {"the trigger of function take", "the queue of blob triggers"}),
    ):
        monkeypatch.setenv("AzureWebJobs.take.Disabled", disabled)
        triggers = Triggers(functions, bench.database, lambda: "one", "", HostSettings("", "hub"))
        await triggers.start()
        await eventually(lambda: "function take is disabled" in caplog.messages, what="it leads")
        await eventually(lambda: {task.get_name() for task in triggers._listening} == listening, what="it listens")  # noqa: B023
        await triggers.stop()
