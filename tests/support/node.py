"""Servers for the tests that come as npm packages: installed once into a git-ignored folder, then processes of ours.

Where one can't be had, the tests that want it are skipped with the reason; in CI (`CI=true`) they fail.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.filelock import FileLock

ROOT = Path(__file__).parent.parent.parent
OLDEST_NODE = 20
INSTALL_SECONDS = 300.0
START_SECONDS = 30.0
# The server's standard input ends when the tests do, even when they were killed.
UNTIL_WE_END = "process.stdin.resume().on('end', () => process.exit());"


class CanNotRunError(Exception):
    """The server can't be had here; says why."""


@contextmanager
def or_skipped(name: str) -> Iterator[None]:
    """Skip the test where the server within can't be had, or fail it in CI."""
    try:
        yield
    except CanNotRunError as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI must have {name}: {error}", pytrace=False)
        pytest.skip(f"no {name}: {error}")


def installed(manifest: Path, name: str, omit: str) -> Path:
    """`node_modules` with what the lock file in `manifest` says, installed (as `name`) if that has not been done."""
    npm = _npm()
    lock = (manifest / "package-lock.json").read_bytes()
    target = ROOT / ".node" / f"{name}-{hashlib.sha256(lock).hexdigest()[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    done = target / "installed"
    if not done.exists():
        guard = FileLock(target / "install")  # several test runs may be the first
        guard.acquire()
        try:
            if not done.exists():
                _install(npm, manifest, target, omit)
                done.touch()
        finally:
            guard.close()
    return target / "node_modules"


def _npm() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise CanNotRunError("Node.js with npm is not installed")
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=False)
    version = re.match(r"v(\d+)\.", asked.stdout)
    if version is None or int(version[1]) < OLDEST_NODE:
        raise CanNotRunError(f"Node.js is {asked.stdout.strip() or 'silent'}; it must be {OLDEST_NODE} or newer")
    return npm


def _install(npm: str, manifest: Path, target: Path, omit: str) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(manifest / name, target / name)
    command = [npm, "ci", "--ignore-scripts", f"--omit={omit}", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        ended = subprocess.run(
            command, cwd=target, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CanNotRunError(f"`npm ci` did not end within {INSTALL_SECONDS:g} s") from None
    if ended.returncode:
        raise CanNotRunError(f"`npm ci` failed: {ended.stderr.strip()[-500:]}")


@contextmanager
def serving(
    script: str, arguments: Sequence[str], says: str, times: int = 1, environment: Mapping[str, str] | None = None
) -> Iterator[list[re.Match[str]]]:
    """Run `script` until the end. Answers the first `times` matches of `says` in what it wrote."""
    process = subprocess.Popen(
        ["node", "--eval", UNTIL_WE_END + script, "--", *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        yield _matches(process, lines, re.compile(says), times)
    finally:
        process.kill()  # it keeps nothing, so there is nothing that it should put in order first
        process.wait()
        reader.join()
        process.stdin.close()
        process.stdout.close()


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)


def _matches(
    process: subprocess.Popen[str], lines: queue.SimpleQueue[str], says: re.Pattern[str], times: int
) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    said: list[str] = []
    until = time.monotonic() + START_SECONDS
    while len(found) < times:
        try:
            said.append(lines.get(timeout=0.2))
        except queue.Empty:
            if process.poll() is not None or time.monotonic() > until:
                raise CanNotRunError(f"it did not start: {''.join(said)[-500:]}") from None
            continue
        if match := says.search(said[-1]):
            found.append(match)
    return found
