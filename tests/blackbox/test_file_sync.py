"""File Sync from outside: a file is dropped and a run has it, in a folder of this machine and in a storage account."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
from azure.storage.blob import ContainerClient

from shared.azure_storage import API_VERSION
from shared.names import CONTAINER_FILE_SYNC
from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import DOCUMENTS, Api, Json, Workflow
from tests.support.azurite import azurite
from tests.support.host import Host
from tests.support.waiting import eventually_sync
from truestop import admin

BRING = {"kind": "file_sync", "name": "bring"}
TRIGGER = {"kind": "file_sync", "debounce_seconds": 0}
"""Files that the host sees one after the other may be several bursts; the tests hold in any case."""
Put = Callable[[str, bytes], None]
"""Drops a file, given its name in the container."""


def folder_of(workflow: Workflow) -> str:
    """Where the files of a workflow go, in the container."""
    return f"user/{workflow.api.user}/{workflow.id}"


def runs_of(workflow: Workflow, count: int) -> list[Json]:
    """The workflow's runs, the oldest first, once there are `count` and all have ended."""

    def ended() -> list[Json] | None:
        runs = workflow.api.all(f"{workflow.path}/runs")
        return runs[::-1] if len(runs) == count and all(run["ended_at"] for run in runs) else None

    found: list[Json] = eventually_sync(ended, 40, f"{count} runs have ended")
    return found


def check(api: Api, put: Put) -> None:
    """From the file to the document: a file, a new version of it, and files that nobody can use."""
    workflow = api.workflow(BRING, trigger=TRIGGER)
    folder = folder_of(workflow)
    put(f"{folder}/in/a é.txt", b"one")
    put(f"{folder}/program.exe", b"MZ")
    put(f"user/{api.user}/nobody/a.txt", b"one")
    first = until_seen(workflow, ["in/a é.txt", "document_type_unsupported"])
    assert {(run["trigger"]["kind"], run["requested_by"]["name"]) for run in first} == {("file_sync", "File Sync")}
    assert api.request("GET", f"{DOCUMENTS}/in/a é.txt").content == b"one"
    put(f"{folder}/in/a é.txt", b"two")
    until_seen(workflow, ["in/a é.txt", "document_type_unsupported", "in/a é.txt"])
    assert api.request("GET", f"{DOCUMENTS}/in/a é.txt").content == b"two"


def until_seen(workflow: Workflow, wanted: list[str]) -> list[Json]:
    """The runs, once they have ended and hold just these files and codes of skipped ones, in however many bursts."""

    def runs() -> list[Json] | None:
        found = workflow.api.all(f"{workflow.path}/runs")
        files = [file.get("code") or file["path"] for run in found for part in run["input"].values() for file in part]
        return found if sorted(files) == sorted(wanted) and all(run["ended_at"] for run in found) else None

    found: list[Json] = eventually_sync(runs, 40, f"runs had {wanted}")
    return found


def fire(host: Host, function: str, given: str) -> None:
    """Deliver what `function` is triggered by, as its host would once more."""
    answer = httpx.post(f"{host.base_url}/admin/functions/{function}", json={"input": given}, trust_env=False)
    assert answer.status_code == 202, answer.text


def local_put(data: Path) -> Put:
    """Drops files as a person does."""

    def put(name: str, content: bytes) -> None:
        file = data / "containers" / CONTAINER_FILE_SYNC / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    return put


def test_a_file_in_the_local_folder_starts_a_run(start_host: StartHost) -> None:
    """Guards the whole way on a laptop: folder, blob trigger, burst, queue trigger, run, step, document; each in the process
    that takes it first."""
    host = start_host(workers=2)
    with new_client(host.base_url) as client:
        check(Api(client), local_put(host.data))
    assert "Traceback" not in host.log(), host.log()[-4000:]


def test_the_files_of_a_cancelled_run_start_nothing_again(start_host: StartHost) -> None:
    """Guards "no restart": ten deliveries, and as many after a restart, of a version whose run was cancelled."""
    host = start_host()
    put = local_put(host.data)
    with new_client(host.base_url) as client:
        sleeping = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60}}
        workflow = Api(client).workflow(sleeping, BRING, trigger=TRIGGER)
        blob = f"{folder_of(workflow)}/a.txt"
        put(blob, b"one")
        (run,) = eventually_sync(lambda: workflow.api.all(f"{workflow.path}/runs"), 30, "the file started a run")
        workflow.api.ok("POST", f"{workflow.path}/runs/{run['id']}/cancel", (200, 202), json={"reason": "stop"})
        runs_of(workflow, 1)
        for times in (10, 20):
            for _ in range(10):
                fire(host, "file_sync", f"{CONTAINER_FILE_SYNC}/{blob}")
            eventually_sync(lambda times=times: host.log().count(": known") >= times, 30, "it was delivered ten times")
            for function in ("sweep_file_sync", "reconcile"):
                fire(host, function, "")
            assert [one["status"] for one in runs_of(workflow, 1)] == ["cancelled"]
            host.kill9()
            host.restart()
        put(blob, b"newer")
        eventually_sync(lambda: len(workflow.api.all(f"{workflow.path}/runs")) == 2, 30, "the newer version started")
        workflow.api.ok("POST", f"{workflow.path}/cancel", (200, 202), json={})
        runs_of(workflow, 2)


def test_a_blob_in_a_storage_account_starts_a_run(start_host: StartHost) -> None:
    """Guards the same way on Azure's protocols: names, etags and delayed messages are the service's own."""
    with azurite() as account:
        assert account.connection_string is not None
        settings = {
            "TRUESTOP_STORAGE": "azure",
            "TRUESTOP_BLOB_CONTAINER": f"c{uuid.uuid4().hex}",
            "AzureWebJobsStorage": account.connection_string,
        }
        assert admin.main(["init"], settings) == 0
        host = start_host(**settings)
        container = ContainerClient.from_connection_string(
            account.connection_string, CONTAINER_FILE_SYNC, api_version=API_VERSION
        )
        try:
            with container, new_client(host.base_url) as client:
                check(Api(client), lambda name, data: container.upload_blob(name, data, overwrite=True))
        finally:
            host.stop()
        assert "Traceback" not in host.log(), host.log()[-4000:]
