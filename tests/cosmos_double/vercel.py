"""`@vercel/cosmosdb-server`, an independent server of the protocol: installed once into a git-ignored folder.

It has no patch in a batch, no atomicity, no hierarchical keys and no change feed, so it can't stand in for Cosmos DB. But
its query language is somebody else's, and so a check of ours. Where it can't be had, the tests that want it are skipped with
the reason; in CI (`CI=true`) they fail.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.filelock import FileLock

ROOT = Path(__file__).parent.parent.parent
MANIFEST = Path(__file__).parent / "vercel"
INSTALL_SECONDS = 300.0
START_SECONDS = 20.0
STOP_SECONDS = 5.0
KEY = base64.b64encode(b"a key that opens nothing but this").decode()
# Its standard input ends when the tests do, even when they were killed. The timer bounds a start that hangs.
_SERVE = """
process.stdin.resume().on('end', () => process.exit());
const server = require(process.argv[1]).createHttpServer().listen(0, '127.0.0.1', () => console.log(server.address().port));
"""


class CanNotRunError(Exception):
    """The server can't be had here; says why."""


@contextlib.contextmanager
def vercel_server() -> Iterator[str]:
    """The endpoint of a running server. Skips the test where there can't be one, or fails it in CI."""
    try:
        with _process(_installed()) as endpoint:
            yield endpoint
    except CanNotRunError as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI must run the queries against another server: {error}", pytrace=False)
        pytest.skip(f"no @vercel/cosmosdb-server: {error}")


def _installed() -> Path:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise CanNotRunError("Node.js with npm is not installed")
    lock = (MANIFEST / "package-lock.json").read_bytes()
    target = ROOT / ".node" / f"cosmos-{hashlib.sha256(lock).hexdigest()[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    done = target / "installed"
    guard = FileLock(target / "install")  # several test runs may be the first
    guard.acquire()
    try:
        if not done.exists():
            _install(npm, target)
            done.touch()
    finally:
        guard.close()
    return target / "node_modules" / "@vercel" / "cosmosdb-server"


def _install(npm: str, target: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(MANIFEST / name, target / name)
    command = [npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        ended = subprocess.run(
            command, cwd=target, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CanNotRunError(f"`npm ci` did not end within {INSTALL_SECONDS:g} s") from None
    if ended.returncode:
        raise CanNotRunError(f"`npm ci` failed: {ended.stderr.strip()[-500:]}")


@contextlib.contextmanager
def _process(package: Path) -> Iterator[str]:
    process = subprocess.Popen(
        ["node", "--eval", _SERVE, "--", str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        said = process.stdout.readline()  # its port, or the end of a process that failed
        if re.fullmatch(r"\d+\n", said) is None:
            raise CanNotRunError(f"it did not start: {said!r}")
        yield f"http://127.0.0.1:{said.strip()}/"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()
