"""One host of three processes and one browser for all; each test is a user of its own, in a fresh context.

A page that logs an error (a refused policy, an exception, a missing file) fails its test, unless the test expects it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.api import Api
from tests.support.browser import launched, signed_in
from tests.support.host import Host
from tests.support.node import or_skipped

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Not for the session: while Playwright is open its event loop runs, and no other test could run one."""
    with or_skipped("Chromium"), launched() as one:
        yield one


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Host]:
    """The host."""
    one = Host(tmp_path_factory.mktemp("browser") / "data", workers=2).start()
    try:
        yield one
    finally:
        one.stop()
        if request.session.testsfailed:
            print(one.log()[-4000:])


@pytest.fixture
def api(host: Host) -> Iterator[Api]:
    """The API as the test's user."""
    with httpx.Client(base_url=host.base_url, timeout=30, trust_env=False) as client:
        yield Api(client, f"ana-{uuid4().hex[:8]}")


@pytest.fixture
def expected_errors() -> list[str]:
    """Add parts of what the browser may log as an error in this test."""
    return []


@pytest.fixture
def open_page(browser: Any, host: Host, api: Api, expected_errors: list[str]) -> Iterator[Open]:
    """Opens a page as the test's user (or as `user`) at a path."""
    contexts: list[Any] = []
    errors: list[str] = []

    def open_(path: str = "/", user: str | None = None, **options: Any) -> Any:
        context = signed_in(browser, host.base_url, api.user if user is None else user, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(host.base_url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [one for one in errors if not any(part in one for part in expected_errors)] == []
