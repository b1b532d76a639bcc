"""Azurite, Microsoft's storage emulator, for the tests: installed once into a git-ignored folder, then a process of ours.

Where it can't be had, the tests that want it are skipped with the reason; in CI (`CI=true`) they fail.
"""

from __future__ import annotations

import base64
import hashlib
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.azure_storage import StorageConnection
from shared.filelock import FileLock

ROOT = Path(__file__).parent.parent.parent
MANIFEST = ROOT / "tests" / "azurite"
OLDEST_NODE = 20
INSTALL_SECONDS = 300.0
START_SECONDS = 30.0
STOP_SECONDS = 5.0
_LISTENS = re.compile(r"Azurite (Blob|Queue) service is successfully listening at http://127\.0\.0\.1:(\d+)")
# Its standard input ends when the tests do, even when they were killed.
_UNTIL_WE_END = "process.stdin.resume().on('end', () => process.exit()); require(process.argv[1])"
ACCOUNT = "truestop"
KEY = base64.b64encode(b"a key that opens nothing but this").decode()


class CanNotRunError(Exception):
    """Azurite can't be had here; says why."""


class Ports(NamedTuple):
    """Where the emulator's services are."""

    blob: int
    queue: int


def ports_of(account: StorageConnection) -> Ports:
    """The ports of a connection that `connection` made."""
    blob, queue_ = re.findall(r"127\.0\.0\.1:(\d+)", account.connection_string or "")
    return Ports(int(blob), int(queue_))


def connection(blob_port: int, queue_port: int, key: str = KEY) -> StorageConnection:
    """The emulator's account at these ports of this machine."""
    at = {"BlobEndpoint": blob_port, "QueueEndpoint": queue_port}
    endpoints = ";".join(f"{name}=http://127.0.0.1:{port}/{ACCOUNT}" for name, port in at.items())
    return StorageConnection("AzureWebJobsStorage", f"AccountName={ACCOUNT};AccountKey={key};{endpoints}")


@contextmanager
def azurite() -> Iterator[StorageConnection]:
    """A running Azurite. Skips the test where there can't be one, or fails it in CI."""
    try:
        with _process(_installed()) as running:
            yield running
    except CanNotRunError as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI must run the Azure storage contract: {error}", pytrace=False)
        pytest.skip(f"no Azurite: {error}")


def _installed() -> Path:
    """Azurite's script, installed as the lock file says if that has not been done."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise CanNotRunError("Node.js with npm is not installed")
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=False)
    version = re.match(r"v(\d+)\.", asked.stdout)
    if version is None or int(version[1]) < OLDEST_NODE:
        raise CanNotRunError(f"Node.js is {asked.stdout.strip() or 'silent'}; it must be {OLDEST_NODE} or newer")
    lock = (MANIFEST / "package-lock.json").read_bytes()
    target = ROOT / ".node" / f"azurite-{hashlib.sha256(lock).hexdigest()[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    script = target / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
    done = target / "installed"
    if not done.exists():
        guard = FileLock(target / "install")  # several test runs may be the first
        guard.acquire()
        try:
            if not done.exists():
                _install(npm, target)
                done.touch()
        finally:
            guard.close()
    return script


def _install(npm: str, target: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(MANIFEST / name, target / name)
    command = [npm, "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        ended = subprocess.run(
            command, cwd=target, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CanNotRunError(f"`npm ci` did not end within {INSTALL_SECONDS:g} s") from None
    if ended.returncode:
        raise CanNotRunError(f"`npm ci` failed: {ended.stderr.strip()[-500:]}")


@contextmanager
def _process(script: Path) -> Iterator[StorageConnection]:
    """Azurite on ports that the system picks, keeping everything in memory."""
    any_port = ["--blobPort", "0", "--queuePort", "0", "--tablePort", "0"]
    command = ["node", "--eval", _UNTIL_WE_END, "--", str(script), *any_port]
    process = subprocess.Popen(
        [*command, "--inMemoryPersistence", "--silent", "--disableTelemetry"],
        cwd=script.parent,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
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
        ports = _ports(process, lines)
        yield connection(ports["Blob"], ports["Queue"])
    finally:
        process.stdin.close()  # told to terminate, it would wait for clients to hang up
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)


def _ports(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    said: list[str] = []
    until = time.monotonic() + START_SECONDS
    while len(found) < 2:
        try:
            said.append(lines.get(timeout=0.2))
        except queue.Empty:
            if process.poll() is not None or time.monotonic() > until:
                raise CanNotRunError(f"it did not start: {''.join(said)[-500:]}") from None
            continue
        if match := _LISTENS.search(said[-1]):
            found[match[1]] = int(match[2])
    return found
