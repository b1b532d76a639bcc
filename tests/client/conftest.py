"""One host for all tests of the client and the command line, each as a user of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

import truestop
from tests.support.host import Host

Steps = Callable[..., truestop.Workflow]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """The host. Whatever the tests did, it must have logged no unexpected exception."""
    host = Host(tmp_path_factory.mktemp("client") / "data").start()
    try:
        yield host.base_url
    finally:
        host.stop()
        if request.session.testsfailed:
            print(host.log()[-8000:])
    assert "Traceback" not in host.log(), host.log()[-8000:]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER", "TOKEN", "USER", "GROUP"):
        monkeypatch.delenv(f"TRUESTOP_{name}", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def user() -> str:
    """Somebody that nobody else is."""
    return f"u-{uuid4().hex[:12]}"


@pytest.fixture
def client(server: str, user: str) -> Iterator[truestop.Client]:
    """A client of that user."""
    with truestop.Client(server, user=user) as one:
        yield one


@pytest.fixture
def workflow(client: truestop.Client) -> Steps:
    """Makes workflows; steps without a name are called `s1`, `s2` and so on."""

    def make(*steps: dict[str, object], name: str = "Test") -> truestop.Workflow:
        named = [{"name": f"s{number}", **step} for number, step in enumerate(steps, start=1)]
        return client.workflows.create({"name": name, "steps": named})

    return make


def model(prompt: str) -> dict[str, object]:
    """A step that asks the model."""
    return {"kind": "model", "prompt": prompt}
