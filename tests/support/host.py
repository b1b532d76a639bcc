"""A devhost in a process of its own, for tests that start it, kill it and start it again on the same data."""

from __future__ import annotations

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
_NOT_INHERITED = ("TRUESTOP_", "WEBSITE_", "OPENAI_", "FUNCTIONS_", "AzureWebJobs")
"""Settings of the machine that would make its hosts behave unlike others'."""


class Host:
    """A host on `data`. Its port is chosen at the first start and kept."""

    def __init__(self, data: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        self._environment = {**inherited, **(environment or {})}
        self._log = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.base_url = ""

    def start(self) -> Host:
        """Start it, and wait until it serves."""
        assert self._process is None, "it runs already"
        begin = self._log.stat().st_size if self._log.exists() else 0
        command = [sys.executable, "-m", "devhost", "--port", str(self._port), "--data", str(self.data)]
        with self._log.open("ab") as log:
            # A session of its own: a Ctrl+C in the terminal is for the tests, which then stop their hosts.
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        ready = eventually_sync(lambda: self._ready(begin), START_SECONDS, "the host serves")
        self.base_url, self._port = ready[1], int(ready[2])
        return self

    def _ready(self, begin: int) -> re.Match[str] | None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the host ended with {self._process.returncode}:\n{self.log()[-4000:]}")
        return _READY.search(self._log.read_bytes()[begin:].decode("utf-8", "replace"))

    def kill9(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Let it stand still, as a machine that sleeps."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        assert self._process is not None
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
        """Start it again on the same data and port, after `kill9` or `stop`."""
        self.start()

    def log(self) -> str:
        """All that it and its predecessors on this data have written."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""
