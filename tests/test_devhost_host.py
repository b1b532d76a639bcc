"""The host as people run it: `python -m devhost`, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from devhost.local_settings import (
    HostSettings,
    SettingsFileError,
    host_settings,
    local_values,
    prepare_environment,
)
from tests.devhost_serving import write_app
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parent.parent
APP = """
import asyncio, json, os, time

@app.route(route="environment")
def environment(req: func.HttpRequest) -> func.HttpResponse:
    names = [name for name in os.environ if name.startswith(("TRUESTOP_", "WEBSITE_", "AZURE_FUNCTIONS_", "OWN_"))]
    return func.HttpResponse(json.dumps({name: os.environ[name] for name in names}))

@app.route(route="start", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    await client.start_new("sleepy", "one", req.params["file"])
    return func.HttpResponse(status_code=202)

@app.orchestration_trigger(context_name="context")
def sleepy(context: df.DurableOrchestrationContext):
    return (yield context.call_activity("wait_for", context.get_input()))

@app.activity_trigger(input_name="file")
async def wait_for(file: str) -> str:
    with open(file + ".tries", "a") as tries:
        tries.write("x")
    while not os.path.exists(file):
        await asyncio.sleep(0.01)
    return "done"

@app.route(route="forever")
async def forever(req: func.HttpRequest) -> func.HttpResponse:
    print("in forever", flush=True)
    await asyncio.sleep(3600)

@app.route(route="wedged")
def wedged(req: func.HttpRequest) -> func.HttpResponse:
    print("in wedged", flush=True)
    time.sleep(3600)
"""


class Running:
    """A host process; `output` grows as it prints."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.base = ""

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> str:
        """The output's line that holds `text`."""

        def line() -> str | None:
            assert self.process.poll() is None or text in self.output, self.output
            return next((line for line in self.output.splitlines() if text in line), None)

        found: str = eventually_sync(line, what=f"the host prints {text!r}")
        return found

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; answers the exit code and the seconds that the process took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(10), time.monotonic() - began


@contextmanager
def started(app: Path, data: Path, *more: str, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """`python -m devhost` on a free port."""
    log = data.parent / f"{data.name}.log"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TRUESTOP_", "WEBSITE_"))}
    command = [sys.executable, "-m", "devhost", "--port", "0", "--app", str(app), "--data", str(data), *more]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env={**own, **(environment or {})})
    running = Running(process, log)
    try:
        running.base = running.wait_for("running at").split("running at ")[1].split()[0]
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def get(base: str, path: str, **more: Any) -> httpx.Response:
    return httpx.get(base + path, trust_env=False, **more)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_app(tmp_path_factory.mktemp("host") / "app", APP)
    values = {"OWN_SETTING": "from the file", "TRUESTOP_MODEL": "from the file", "OWN_OTHER": "from the file"}
    (directory / "local.settings.json").write_text(json.dumps({"IsEncrypted": False, "Values": values}))
    return directory


def test_the_app_finds_its_settings_and_the_host_its_address(app: Path, tmp_path: Path) -> None:
    """One command must be enough; and what somebody did set must win over what devhost offers."""
    with started(app, tmp_path / "data", environment={"OWN_OTHER": "from the environment"}) as host:
        found = get(host.base, "/environment").json()
        assert found["TRUESTOP_STORE"] == "sqlite"
        assert found["TRUESTOP_DATA"] == str(tmp_path / "data")
        assert found["TRUESTOP_MODEL_ENDPOINT"] == f"{host.base}/dev/model/v1"
        assert found["TRUESTOP_MODEL_API_KEY"] == "dev"
        assert found["TRUESTOP_MODEL"] == "from the file"
        assert found["OWN_SETTING"] == "from the file"
        assert found["OWN_OTHER"] == "from the environment"
        assert found["AZURE_FUNCTIONS_ENVIRONMENT"] == "Development"
        assert found["WEBSITE_AUTH_ENABLED"] == "true"
        assert (tmp_path / "data" / "truestop.db").exists()
        assert get(host.base, "/dev/model/v1/models").json()["data"][0]["id"] == "scripted"
        assert get(host.base, "/dev/model/log").json() == []
        assert get(host.base, "/.auth/me").json() == []
        assert get(host.base, "/runtime/webhooks/durabletask/instances/none").status_code == 404
        assert host.stop(signal.SIGINT)[0] == 0
        assert "Traceback" not in host.output


def test_work_resumes_in_the_next_host_after_a_stop_and_after_a_kill(app: Path, tmp_path: Path) -> None:
    """A restart must lose no run, whichever way the process ended."""
    file = tmp_path / "file"

    def tries() -> int:
        path = Path(f"{file}.tries")
        return len(path.read_text()) if path.exists() else 0

    with started(app, tmp_path / "data") as host:
        assert httpx.post(f"{host.base}/start", params={"file": str(file)}, trust_env=False).status_code == 202
        eventually_sync(lambda: tries() == 1, what="the activity runs")
        code, seconds = host.stop()
        assert (code, seconds < 5) == (0, True)
    with started(app, tmp_path / "data") as host:
        eventually_sync(lambda: tries() == 2, what="the activity was taken up")
        host.stop(signal.SIGKILL)
    with started(app, tmp_path / "data") as host:
        eventually_sync(lambda: tries() == 3, what="the activity was taken up again")
        file.touch()

        def completed() -> bool:
            status = get(host.base, "/runtime/webhooks/durabletask/instances/one")
            return bool(status.json()["runtimeStatus"] == "Completed")

        eventually_sync(completed, what="the instance completed")


async def test_a_host_stops_soon_although_requests_never_end(app: Path, tmp_path: Path) -> None:
    """Ctrl+C must work while a live view is open, a model hangs, or a tool blocks a thread."""
    with started(app, tmp_path / "data") as host:

        async def ask(client: httpx.AsyncClient, path: str) -> None:
            with pytest.raises(httpx.HTTPError):
                (await client.get(path, timeout=20)).raise_for_status()

        async def hang(client: httpx.AsyncClient) -> None:
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "[[hang_after=1]]"}]}
            with pytest.raises(httpx.HTTPError):
                await client.post("/dev/model/v1/chat/completions", json=body, timeout=20)

        async with httpx.AsyncClient(base_url=host.base, trust_env=False) as client:
            asked = [asyncio.create_task(ask(client, path)) for path in ("/forever", "/wedged")]
            asked.append(asyncio.create_task(hang(client)))
            await asyncio.to_thread(host.wait_for, "in forever")
            await asyncio.to_thread(host.wait_for, "in wedged")
            code, seconds = await asyncio.to_thread(host.stop)
            await asyncio.gather(*asked)
        assert (code, seconds < 5) == (0, True)
        assert "Traceback" not in host.output


def refused(*arguments: str) -> str:
    """What a host that can't start says."""
    command = [sys.executable, "-m", "devhost", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    return ended.stderr


def test_a_port_in_use_is_one_clear_line(app: Path, tmp_path: Path) -> None:
    """The commonest mistake there is; a traceback would hide what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused("--port", str(port), "--app", str(app), "--data", str(tmp_path / "data"))
    assert said.splitlines() == [f"devhost: port {port} is in use; stop what uses it or choose another with --port"]


def test_an_app_that_can_not_be_served_is_named(tmp_path: Path) -> None:
    """The host must not start without a function and say nothing."""
    grid = write_app(
        tmp_path / "grid",
        '@app.event_grid_trigger(arg_name="t")\ndef tick(t: func.EventGridEvent) -> None: ...',
    )
    retrying = write_app(
        tmp_path / "retrying",
        '@app.timer_trigger(arg_name="t", schedule="0 * * * * *")\n'
        '@app.retry(strategy="fixed_delay", max_retry_count="3", delay_interval="00:00:01")\n'
        "def tick(t: func.TimerRequest) -> None: ...",
    )
    broken = write_app(tmp_path / "broken", "import no_such_module")
    common = ("--port", "0", "--data", str(tmp_path / "data"), "--app")
    assert "function 'tick' needs a trigger of type 'eventGridTrigger'" in refused(*common, str(grid)).splitlines()[-1]
    assert "function 'tick' has a retry policy" in refused(*common, str(retrying)).splitlines()[-1]
    said = refused(*common, str(broken))
    assert "no_such_module" in said.splitlines()[-1]
    assert 'function_app.py", line 4' in said  # where it happened, for whoever wrote it
    assert "there is no such file" in refused(*common, str(tmp_path)).splitlines()[-1]


def test_local_settings_are_plain_texts_or_refused(tmp_path: Path) -> None:
    """Core Tools take a file without `IsEncrypted` for an encrypted one; reading on would give the app garbage."""
    file = tmp_path / "local.settings.json"
    assert local_values(tmp_path) == {}
    file.write_text('\ufeff{"IsEncrypted": false, "Values": {"A": "1"}}')
    assert local_values(tmp_path) == {"A": "1"}
    for content, said in [
        ('{"Values": {}}', "IsEncrypted"),
        ('{"IsEncrypted": true, "Values": {}}', "IsEncrypted"),
        ('{"IsEncrypted": false, "Values": {"A": 1}}', "value of A must be a text"),
        ('{"IsEncrypted": false, "Values": []', "can't be read"),
        ('{"IsEncrypted": false, "Values": [1]}', "Values must be"),
        ("[]", "JSON object"),
    ]:
        file.write_text(content)
        with pytest.raises(SettingsFileError, match=said):
            local_values(tmp_path)


def test_host_json_gives_prefix_and_hub(tmp_path: Path) -> None:
    """Without the file, the host's own defaults hold."""
    assert host_settings(tmp_path) == HostSettings("api", "TestHubName")
    (tmp_path / "host.json").write_text(
        '{"extensions": {"http": {"routePrefix": "/v1/"}, "durableTask": {"hubName": "h"}}}'
    )
    assert host_settings(tmp_path) == HostSettings("v1", "h")
    (tmp_path / "host.json").write_text('{"extensions": {"http": {"routePrefix": 1}}}')
    with pytest.raises(SettingsFileError, match="routePrefix"):
        host_settings(tmp_path)


def test_a_model_of_ones_own_gets_no_made_up_key(tmp_path: Path) -> None:
    """A key named "dev" sent to a real endpoint would turn "no key is set" into "the key is wrong"."""
    environment = {"TRUESTOP_MODEL_ENDPOINT": "https://model.example/v1", "TRUESTOP_DATA": ""}
    prepare_environment(environment, {"TRUESTOP_MODEL": "mine"}, data=tmp_path, base_url="http://h")
    assert environment["TRUESTOP_MODEL_ENDPOINT"] == "https://model.example/v1"
    assert environment["TRUESTOP_MODEL"] == "mine"
    assert environment["TRUESTOP_DATA"] == str(tmp_path)
    assert "TRUESTOP_MODEL_API_KEY" not in environment
