"""One host for all tests of the client and the command line, each as a user of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

import truestop
from tests.client.terminal import Terminal, terminal
from tests.support.host import Host
from tests.support.waiting import eventually_sync
from truestop.cli.app import app

OpenTerminal = Callable[..., AbstractContextManager[Terminal]]
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


QUICK = model("[[say=forty two]]")
LONG = model("[[tokens=2000 delay=10ms]] Tell me a long story")


def wait_for_text(run: truestop.Run) -> None:
    """Wait until a model call of the run has text."""
    eventually_sync(lambda: [one for one in run.executions() if one.output_preview], what="text arrives")


def wait_for_step(run: truestop.Run, path: str) -> None:
    """Wait until an execution has begun."""
    eventually_sync(lambda: any(one.path == path for one in run.executions()), what=f"{path} has begun")


@dataclass
class Shell:
    """Calls commands without a terminal, as one user."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, code: int = 0, **more: Any) -> Result:
        """Call one in this process; it must end with `code`."""
        done = CliRunner().invoke(app, [*arguments], env=self.environment, **more)
        assert done.exit_code == code, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done

    def json(self, *arguments: str, code: int = 0, **more: Any) -> Any:
        """What one prints with `--json`."""
        return json.loads(self(*arguments, "--json", code=code, **more).stdout)


@pytest.fixture
def shell(server: str, user: str, tmp_path: Path) -> Shell:
    """A shell of that user, with no config file."""
    config = str(tmp_path / "config.toml")
    return Shell({"TRUESTOP_SERVER": server, "TRUESTOP_USER": user, "TRUESTOP_CONFIG": config, "NO_COLOR": ""})


@pytest.fixture
def person(shell: Shell) -> OpenTerminal:
    """Opens a terminal of the same user."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRUESTOP_")}
    inherited.pop("NO_COLOR", None)
    settings = {name: value for name, value in shell.environment.items() if name != "NO_COLOR"}

    def open_terminal(*arguments: str, **more: str) -> AbstractContextManager[Terminal]:
        return terminal([*arguments], {**inherited, **settings, **more})

    return open_terminal
