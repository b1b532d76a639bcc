"""A devhost in a process of its own, for tests that start it, kill it and start it again on the same data."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 8.0
_READY = re.compile(r"Truestop is running at (http://127\.0\.0\.1:(\d+)) ")
_WORKER = re.compile(r"devhost\.workers: worker (\d+) is process (\d+)")
_AT_WORK = re.compile(r"worker (\d+) devhost: at work")
_NOT_INHERITED = ("TRUESTOP_", "WEBSITE_", "OPENAI_", "FUNCTIONS_", "AzureWebJobs", "AzureFunctionsJobHost")
"""Settings of the machine that would make its hosts behave unlike others'."""


HURRIED = {"TRUESTOP_STARTS_PER_MINUTE": "1000000", "TRUESTOP_CANCELS_PER_MINUTE": "1000000"}
"""A test asks more often than a person may."""


class HostEnded(AssertionError):
    """It ended while it was being started."""


class Host:
    """A host on `data`, with so many `workers` beside it. Its port is chosen at the first start and kept."""

    def __init__(self, data: Path, environment: Mapping[str, str] | None = None, workers: int = 0) -> None:
        self.data, self.workers = data, workers
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        self._environment = {**inherited, **HURRIED, **(environment or {})}
        self._log = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = self._begin = 0
        self.base_url = ""

    def start(self, *, whole: bool = True) -> Host:
        """Start it, and wait until it serves and, if `whole`, its workers are at work."""
        assert self._process is None, "it runs already"
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        command = [sys.executable, "-m", "devhost", "--port", str(self._port), "--data", str(self.data)]
        command += ["--workers", str(self.workers)]
        with self._log.open("ab") as log:
            # A session of its own: a Ctrl+C in the terminal is for the tests, which then stop their hosts.
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        ready = eventually_sync(lambda: self._ready(whole), START_SECONDS, "the host serves")
        self.base_url, self._port = ready[1], int(ready[2])
        return self

    @property
    def pid(self) -> int:
        """Its process id, without its workers'."""
        assert self._process is not None
        return self._process.pid

    def _ready(self, whole: bool) -> re.Match[str] | None:
        assert self._process is not None
        if self._process.poll() is not None:
            code, self._process = self._process.returncode, None
            raise HostEnded(f"the host ended with {code}:\n{self.log()[-4000:]}")
        said = self._said()
        return _READY.search(said) if not whole or len(_AT_WORK.findall(said)) >= self.workers else None

    def _said(self) -> str:
        """What it has written since its last start."""
        return self._log.read_bytes()[self._begin :].decode("utf-8", "replace")

    def _worker_pids(self) -> list[int]:
        """Its workers; call it while the host stands still, so that their ids are theirs."""
        return [int(pid) for pid in dict(_WORKER.findall(self._said())).values()]

    def _signal_workers(self, number: signal.Signals) -> None:
        for pid in self._worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill9(self, *, alone: bool = False) -> None:
        """End it and its workers as a machine that loses its power does; `alone`: its workers find out by themselves."""
        if self._process is not None:
            if not alone:
                self.suspend()
                self._signal_workers(signal.SIGKILL)
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill_worker(self) -> None:
        """End one of its workers as a crash does; it starts another."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that the worker's id stays the worker's
        os.kill(self._worker_pids()[0], signal.SIGKILL)
        self._process.send_signal(signal.SIGCONT)

    def suspend(self) -> None:
        """Let it and its workers stand still, as a machine that sleeps."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._signal_workers(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        assert self._process is not None
        self._signal_workers(signal.SIGCONT)
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as Ctrl+C does; after a while, by force. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        killer = threading.Timer(STOP_SECONDS, process.kill)
        killer.start()
        process.terminate()
        process.wait()
        killer.cancel()

    def restart(self) -> None:
        """Start it again on the same data and port, after `kill9` or `stop`; its workers join later."""
        self.start(whole=False)

    def log(self) -> str:
        """All that it and its predecessors on this data have written."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""
