"""Chromium for the tests: Debian's, installed if it can be. The driver is Playwright's, which brings none of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shared.filelock import FileLock
from tests.support.node import CanNotRunError

INSTALL_SECONDS = 400.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
STEP_MS = 15_000
"""How long a click or a look waits for what it is about."""


def chromium() -> str:
    """The browser's path. Raises `CanNotRunError` that says why there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        _install()
        found = shutil.which(NAMES[0])
    if found is None:
        raise CanNotRunError("Debian's package chromium has no program of that name")
    return found


def _install() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise CanNotRunError("Chromium is not installed, and only root on Debian or Ubuntu can install it here")
    guard = FileLock(Path(tempfile.gettempdir()) / "truestop-chromium.lock")
    guard.acquire()
    try:
        if shutil.which(NAMES[0]) is None:
            for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
                _apt(command)
    finally:
        guard.close()


def _apt(arguments: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ended = subprocess.run(
            ["apt-get", "-q", *arguments],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise CanNotRunError(f"apt-get {arguments[0]} did not end within {INSTALL_SECONDS:g} s") from None
    if ended.returncode:
        raise CanNotRunError(f"apt-get {arguments[0]} failed: {ended.stderr.strip()[-500:]}")


@contextmanager
def launched() -> Iterator[Any]:
    """A browser without a window. Raises `CanNotRunError`."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # the sandbox refuses to run as root
        browser = playwright.chromium.launch(executable_path=path, args=[*sandbox, "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


def signed_in(browser: Any, base_url: str, user: str, **options: Any) -> Any:
    """A fresh browser context in which `user` (as `devhost.auth` reads one; "" for nobody) has signed in."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
    context.set_default_timeout(STEP_MS)
    if user:
        context.add_cookies([{"name": "truestop_dev_user", "value": quote(user, safe=""), "url": base_url}])
    return context
