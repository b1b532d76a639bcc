"""A terminal with a command in it: what it shows, and the keys that somebody presses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.host import ROOT

SECONDS = 20.0
ROWS, COLUMNS = 40, 80
CONTROL_C = "\x03"
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


class Terminal:
    """One command in a terminal of its own."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "truestop", *arguments],
            cwd=ROOT,
            env={**environment, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # Its controlling terminal, so that Ctrl-C reaches it as a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no lock is held there
        )
        os.close(theirs)
        self.raw = ""
        self._seen = 0

    @property
    def text(self) -> str:
        """All that it has shown, without colours and movements."""
        return _SEQUENCE.sub("", self.raw).replace("\r", "")

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def expect(self, words: str) -> None:
        """Wait until it shows words that it had not shown at the last `expect`."""
        until = time.monotonic() + SECONDS
        while words not in self.text[self._seen :]:
            assert self._read(until), f"it never showed {words!r}:\n{self.text}"
        self._seen = len(self.text)

    def ends(self) -> int:
        """Its exit code, once it has ended."""
        until = time.monotonic() + SECONDS
        while self._read(until):
            pass
        return self._process.wait(SECONDS)

    def _read(self, until: float) -> bool:
        """Read what comes next. False at its end; fails when nothing comes in time."""
        ready, _, _ = select.select([self._ours], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"it stands still:\n{self.text}"
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # how a terminal says that its last process is gone
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def close(self) -> None:
        """End it, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        os.close(self._ours)


@contextmanager
def terminal(arguments: list[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """A command in a terminal."""
    one = Terminal(arguments, environment)
    try:
        yield one
    finally:
        one.close()
