"""A host with workers, as people run it: `python -m devhost --workers 2`; whichever process dies, the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from devhost.workers import Workers
from tests.devhost_serving import write_app
from tests.durable_host import GOLDEN
from tests.support.waiting import eventually, eventually_sync
from tests.test_devhost_host import get, started
from tests.test_durable_http import HOOKS, assert_conforms

APP = """
import asyncio, os

@app.orchestration_trigger(context_name="context")
def sleepy(context: df.DurableOrchestrationContext):
    names = [str(n) for n in range(6)]
    return (yield context.task_all([context.call_activity("wait_for", [context.get_input()["folder"], n]) for n in names]))

@app.activity_trigger(input_name="given")
async def wait_for(given: list) -> list:
    folder, name = given
    with open(f"{folder}/{name}.tries", "a") as tries:
        tries.write(f"{os.getpid()} ")
    while not os.path.exists(f"{folder}/go"):
        await asyncio.sleep(0.01)
    return [os.getpid(), os.environ["TRUESTOP_MODEL_ENDPOINT"], os.environ["TRUESTOP_DATA"]]
"""
BOTH = ("--workers", "2")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("workers") / "app", APP)


def processes(data: Path) -> set[int]:
    """The process ids in the hub."""
    with contextlib.closing(sqlite3.connect(data / "truestop.db")) as connection:
        return {row[0] for row in connection.execute("SELECT pid FROM durable_processes")}


def all_three(data: Path) -> set[int]:
    """The process ids, once the host and both workers are there."""
    eventually_sync(lambda: len(processes(data)) == 3, 20, "host and workers have joined")
    return processes(data)


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() != "" and not state.startswith("Z")


def tries(folder: Path) -> list[str]:
    """Who ran the six activities, in no order."""
    return " ".join(path.read_text() for path in folder.glob("*.tries")).split()


def start_sleepy(base: str, folder: Path) -> None:
    folder.mkdir()
    answer = httpx.post(f"{base}{HOOKS}/orchestrators/sleepy/one", json={"folder": str(folder)}, trust_env=False)
    assert answer.status_code == 202


def completed(base: str) -> list[list[str]]:
    """What the six activities of a `sleepy` that is now let go answered."""

    def output() -> list[list[str]] | None:
        status = get(base, f"{HOOKS}/instances/one").json()
        assert status["runtimeStatus"] in ("Pending", "Running", "Completed"), status
        return list(status["output"]) if status["runtimeStatus"] == "Completed" else None

    return list(eventually_sync(output, 15, "it completes"))


async def test_every_recorded_scenario_gets_the_recorded_answers_in_three_processes(tmp_path: Path) -> None:
    """Guards conformance where instances, activities and timers are spread, and HTTP is elsewhere."""
    app, data = tmp_path / "app", tmp_path / "data"
    shutil.copytree(GOLDEN / "app", app, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "host.json").write_text('{"extensions": {"durableTask": {"hubName": "probehub"}}}')
    with started(app, data, *BOTH) as host:
        await asyncio.to_thread(all_three, data)
        await assert_conforms(host.base)
        with contextlib.closing(sqlite3.connect(data / "truestop.db")) as connection:
            assert connection.execute("SELECT count(DISTINCT owner) FROM durable_instances").fetchone() == (3,)


def test_workers_share_the_work_are_replaced_and_end_with_their_host(app: Path, tmp_path: Path) -> None:
    """Guards the life of a worker: settings, a share, a death, a successor, the end on Ctrl+C or SIGTERM."""
    data, folder = tmp_path / "data", tmp_path / "files"
    with started(app, data, *BOTH) as host:
        first = all_three(data)
        start_sleepy(host.base, folder)
        eventually_sync(lambda: len(tries(folder)) == 6, what="all six run")
        assert {int(pid) for pid in tries(folder)} == first
        victim = next(pid for pid in first if pid != host.process.pid)
        os.kill(victim, signal.SIGKILL)
        eventually_sync(lambda: len(tries(folder)) == 8, what="the dead one's two run again")
        eventually_sync(lambda: victim not in processes(data), what="its row is gone")
        second = all_three(data)
        (folder / "go").touch()
        answers = completed(host.base)
        assert {pid for pid, _, _ in answers} <= second | first - {victim}
        assert {endpoint for _, endpoint, _ in answers} == {f"{host.base}/dev/model/v1"}
        assert {where for _, _, where in answers} == {str(data)}
        code, seconds = host.stop()
        assert (code, seconds < 5) == (0, True)
        assert [pid for pid in first | second if is_alive(pid)] == []
        assert "Traceback" not in host.output
    assert list((data / "processes").iterdir()) == []


def test_a_host_that_stops_does_not_wait_for_a_worker_that_stands_still(app: Path, tmp_path: Path) -> None:
    """Guards Ctrl+C: five seconds, whatever the workers do."""
    data = tmp_path / "data"
    with started(app, data, *BOTH) as host:
        pids = all_three(data)
        os.kill(next(pid for pid in pids if pid != host.process.pid), signal.SIGSTOP)
        code, seconds = host.stop(signal.SIGINT)
        assert (code, seconds < 5) == (0, True)
        assert [pid for pid in pids if is_alive(pid)] == []


def test_when_the_host_is_killed_its_workers_end_and_its_successor_goes_on(app: Path, tmp_path: Path) -> None:
    """Guards against orphans that work on for a host that is gone, and against lost work."""
    data, folder = tmp_path / "data", tmp_path / "files"
    with started(app, data, *BOTH) as host:
        pids, port = all_three(data), urlsplit(host.base).port
        start_sleepy(host.base, folder)
        eventually_sync(lambda: len(tries(folder)) == 6, what="all six run")
        host.process.kill()
        host.process.wait(10)
    with started(app, data, *BOTH, "--port", str(port)) as host:
        eventually_sync(lambda: len(tries(folder)) >= 12, 20, what="all six run again")
        eventually_sync(lambda: not [pid for pid in pids if is_alive(pid)], what="the old workers have ended")
        (folder / "go").touch()
        assert len(completed(host.base)) == 6


def test_pages_of_other_origins_may_not_manage_instances(app: Path, tmp_path: Path) -> None:
    """Guards against a web page that starts or ends orchestrations on the machine of whoever looks at it."""
    with started(app, tmp_path / "data") as host:
        port = urlsplit(host.base).port
        for prefix in (HOOKS, "/durabletask"):
            path = f"{prefix}/instances/none"
            for origin in (
                "http://evil.test",
                "null",
                f"http://127.0.0.1:{(port or 0) - 1}",
                f"http://evil.test:{port}",
            ):
                assert (
                    get(host.base, path, headers={"Origin": origin, "Host": urlsplit(origin).netloc}).status_code == 403
                )
                assert httpx.post(f"{host.base}{path}/terminate", headers={"Origin": origin}).status_code == 403
            for origin in (host.base, f"http://localhost:{port}"):
                assert get(host.base, path, headers={"Origin": origin}).status_code == 404
            assert get(host.base, path).status_code == 404


async def test_a_worker_that_can_not_start_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against a machine kept busy by starting what fails at once."""
    monkeypatch.setattr("devhost.workers.FIRST_PAUSE_SECONDS", 0.0)
    caplog.set_level(logging.ERROR)
    stopping = asyncio.Event()
    running = asyncio.create_task(Workers(1, [sys.executable, "-S", "-c", "raise SystemExit(3)"]).run(stopping))
    await eventually(lambda: "going on without it" in caplog.text, what="it is given up")
    stopping.set()
    began = time.monotonic()
    await running
    assert time.monotonic() - began < 1
