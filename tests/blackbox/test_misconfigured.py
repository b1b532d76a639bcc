"""Wrong settings, missing containers, missing permissions, a clock that is off: said by name, in health and in every answer.

The document store is the Cosmos DB double, storage is Azurite; the host reaches both with the official SDKs.
"""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.blackbox.test_store_down import health, refusal
from tests.cosmos_double import faults
from tests.cosmos_double.fixtures import cosmos_server, double  # noqa: F401
from tests.cosmos_double.server import Double
from tests.support import azurite
from tests.support.api import DOCUMENTS, WORKFLOWS, Api, Run
from tests.support.gate import Gate
from tests.support.host import ROOT, HostEnded
from tests.support.promise import assert_cancelled_whole, assert_ended_whole, assert_workflow_free
from tests.support.waiting import eventually_sync

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
ONCE = {"retries": {"max": 0}}
SAVE = {"kind": "write_artifact", "path": "a.md", "content": "x", **ONCE}
NOT_THE_KEY = base64.b64encode(b"a key that is not the account's").decode()


def cosmos_settings(double: Double, **changes: str) -> dict[str, str]:
    """The settings of a host on the double."""
    settings = {"STORE": "cosmos", "COSMOS_ENDPOINT": double.endpoint, "COSMOS_KEY": double.key, **changes}
    return {f"TRUESTOP_{name}": value for name, value in settings.items()}


def assert_refused(client: httpx.Client, part: str, *settings: str) -> str:
    """Health names the part and the settings; a request is told so too, with the stable code. Answers all that was said."""
    status, body = health(client)
    assert (status, body["status"], body[part], body["look_at"][part]) == (503, "down", "down", list(settings))
    path = WORKFLOWS if part == "store" else DOCUMENTS
    answer = Api(client).request("GET", path)
    assert refusal(answer) == (503, "store_misconfigured")
    assert all(name in answer.json()["detail"] for name in settings)
    return f"{body} {answer.text}"


def assert_works(client: httpx.Client) -> None:
    """Everything is up, without a restart."""
    assert eventually_sync(lambda: health(client)[0] == 200, 20)
    assert Api(client).workflow(ECHO, SAVE).run().get()["status"] == "completed"


def admin_init(environment: dict[str, str]) -> None:
    """Run the command that the messages advise."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRUESTOP_", "AzureWebJobs"))
    }
    command = [sys.executable, "-m", "truestop.admin", "init"]
    subprocess.run(command, cwd=ROOT, env={**inherited, **environment}, check=True, timeout=60, capture_output=True)


def test_settings_that_cannot_be_right_keep_the_host_from_starting_and_are_all_named(start_host: StartHost) -> None:
    """Guards the first start: everything that needs no network to be seen is said at once, and no secret with it."""
    secret = "not-base64!"
    with pytest.raises(HostEnded) as caught:
        start_host(
            TRUESTOP_STORE="cosmos",
            TRUESTOP_COSMOS_ENDPOINT="my-account",
            TRUESTOP_COSMOS_KEY=secret,
            TRUESTOP_POLL_SECONDS="soon",
            TRUESTOP_STORAGE="azure",
            AzureWebJobsStorage=f"AccountName=x;AccountKey={secret}",
        )
    said = str(caught.value)
    for name in ("TRUESTOP_COSMOS_ENDPOINT", "TRUESTOP_COSMOS_KEY", "TRUESTOP_POLL_SECONDS", "AzureWebJobsStorage"):
        assert f"{name} " in said
    assert secret not in said


def test_a_wrong_key_is_named_and_shown_nowhere(start_host: StartHost, double: Double) -> None:
    """Guards the commonest mistake; and the key, which neither an answer nor the log may carry."""
    host = start_host(**cosmos_settings(double, COSMOS_KEY=NOT_THE_KEY))
    with new_client(host.base_url) as client:
        said = assert_refused(client, "store", "TRUESTOP_COSMOS_KEY", "TRUESTOP_COSMOS_ENDPOINT")
    assert NOT_THE_KEY not in said + host.log()
    assert double.endpoint not in said
    assert "status 401 (look at TRUESTOP_COSMOS_KEY, and at this machine's clock)" in host.log()


def test_a_container_that_is_missing_then_a_clock_that_is_off_then_a_permission(
    start_host: StartHost, double: Double
) -> None:
    """Guards what passes: each is named while it lasts, and the host needs no restart when it is mended."""
    settings = cosmos_settings(double, COSMOS_DATABASE=f"db-{uuid4().hex}")
    host = start_host(**settings)
    with new_client(host.base_url) as client:
        assert_refused(client, "store", "TRUESTOP_COSMOS_CONTAINER", "TRUESTOP_COSMOS_DATABASE")
        assert "python -m truestop.admin init" in host.log()
        admin_init(settings)
        assert_works(client)
        going = Api(client).workflow({"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60}}).start()
        eventually_sync(lambda: going.executions().get("s01.c0", {}).get("status") == "running")
        for trouble in ("clock", "permission"):
            if trouble == "clock":
                double.trouble.clock_offset = 3600
            else:
                double.trouble.every = faults.status(403)
            assert_refused(client, "store", "TRUESTOP_COSMOS_KEY", "TRUESTOP_COSMOS_ENDPOINT")
            assert refusal(going.cancel()) == (503, "store_misconfigured")
            double.trouble.clear()
            assert eventually_sync(lambda: health(client)[0] == 200)
        assert "clock" in host.log()
        assert going.cancel().status_code in (200, 202)
        going.wait("cancelled")
        assert_workflow_free(going)
        assert_works(client)


@pytest.fixture(scope="module")
def storage() -> Iterator[azurite.Ports]:
    """Azurite, without a container or a queue of ours."""
    with azurite.azurite() as connection:
        yield azurite.ports_of(connection)


def storage_settings(ports: azurite.Ports, key: str = azurite.KEY, **more: str) -> dict[str, str]:
    """The settings of a host whose blobs and queues are at these ports."""
    text = azurite.connection(ports.blob, ports.queue, key).connection_string
    assert text is not None
    return {"TRUESTOP_STORAGE": "azure", "AzureWebJobsStorage": text, **more}


def test_a_wrong_storage_key_is_named_and_shown_nowhere(start_host: StartHost, storage: azurite.Ports) -> None:
    """Guards blobs and queues as the test above guards documents."""
    host = start_host(**storage_settings(storage, NOT_THE_KEY))
    with new_client(host.base_url) as client:
        said = " ".join(assert_refused(client, part, "AzureWebJobsStorage") for part in ("blobs", "queue"))
        assert health(client)[1]["store"] == "up"
    assert NOT_THE_KEY not in said + host.log()
    assert "AzureWebJobsStorage: the account refused us (403" in host.log()


def test_storage_that_lacks_its_container_fails_a_run_cleanly_until_init_makes_it(
    start_host: StartHost, storage: azurite.Ports
) -> None:
    """Guards a run against storage: it fails with the setting's name, leaves no lock, and its workflow works later."""
    settings = storage_settings(storage, TRUESTOP_BLOB_CONTAINER=f"c-{uuid4().hex}")
    host = start_host(**settings)
    with new_client(host.base_url) as client:
        assert_refused(client, "blobs", "AzureWebJobsStorage")
        run = Api(client).workflow(ECHO, SAVE).run()
        whole = assert_ended_whole(run)
        assert (whole["status"], whole["error"]["code"]) == ("failed", "store_unavailable")
        assert "AzureWebJobsStorage: ContainerNotFound" in whole["error"]["message"]
        admin_init(settings)
        assert_works(client)
        assert_workflow_free(run)


def failed_once(run: Run) -> bool:
    """Whether an operation of the run has failed for want of storage."""
    return any((one["error"] or {}).get("code") == "store_unavailable" for one in run.executions().values())


def test_storage_that_goes_away_and_comes_back_costs_a_run_time_and_no_more(
    start_host: StartHost, storage: azurite.Ports
) -> None:
    """Guards a run in flight: its reading and its artifact wait for storage; a cancel meanwhile is a whole one."""
    with Gate(storage.blob).running() as gate:
        settings = storage_settings(azurite.Ports(gate.port, storage.queue), TRUESTOP_BLOB_CONTAINER=f"c-{uuid4().hex}")
        admin_init(settings)
        host = start_host(**settings)
        with new_client(host.base_url) as client:
            api, retries = Api(client), {"retries": {"max": 10, "backoff_seconds": 0.2}}
            api.upload("a.txt", b"A few words.")
            nap = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 0.3}}
            read = {"kind": "tool", "tool": "read_document", "arguments": {"name": "a.txt"}, **retries}
            run = api.workflow(nap, read, {**SAVE, **retries}).start()
            cancelled = api.workflow(nap, {**SAVE, **retries}).start()
            gate.shut()
            assert refusal(api.request("GET", f"{DOCUMENTS}/a.txt")) == (503, "store_unavailable")
            assert health(client)[1]["look_at"] == {"blobs": ["AzureWebJobsStorage"]}
            for one in (run, cancelled):
                eventually_sync(lambda one=one: failed_once(one), 20)
            assert cancelled.cancel().status_code in (200, 202)
            cancelled.wait("cancelled")
            gate.open()
            assert run.wait(seconds=40)["status"] == "completed", run.get()["error"]
            assert run.executions()["s02"]["output_preview"] == "A few words."
            assert [one["path"] for one in api.ok("GET", f"{run.path}/artifacts")["items"]] == ["a.md"]
            assert_cancelled_whole(cancelled)
            assert_ended_whole(run)
            for one in (run, cancelled):
                assert_workflow_free(one)
        assert "Traceback" not in host.log(), host.log()[-6000:]
