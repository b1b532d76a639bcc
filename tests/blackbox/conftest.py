"""One host for most tests, each as a user of its own; and hosts that a test may kill.

`TRUESTOP_TEST_BASE_URL` runs the suite against a host that is already there, on this machine. Tests that must kill their
host or choose its settings are then left out, and say so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.api import Api, ModelLog
from tests.support.host import Host

GIVEN_URL = os.environ.get("TRUESTOP_TEST_BASE_URL")
StartHost = Callable[..., Host]
PROCESSES = {"one-process": 1, "three-processes": 3}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `several_processes` run twice: on a host alone, and on one with two workers."""
    if "processes" in metafunc.fixturenames:
        several = metafunc.definition.get_closest_marker("several_processes") is not None and not GIVEN_URL
        names = list(PROCESSES) if several else ["one-process"]
        metafunc.parametrize(
            "processes", [PROCESSES[name] for name in names], indirect=True, ids=names, scope="session"
        )


@pytest.fixture(scope="session")
def processes(request: pytest.FixtureRequest) -> int:
    """How many processes share the work of the hosts that this test uses."""
    return int(request.param)


def new_client(base_url: str) -> httpx.Client:
    """A client of a host on this machine."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=50)
    return httpx.Client(base_url=base_url, timeout=30, trust_env=False, limits=limits)


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, processes: int) -> Iterator[str]:
    """The host that most tests share. Whatever they did, it must have logged no unexpected exception."""
    if GIVEN_URL:
        yield GIVEN_URL
        return
    host = Host(tmp_path_factory.mktemp("shared") / "data", workers=processes - 1).start()
    try:
        yield host.base_url
    finally:
        host.stop()
        if request.session.testsfailed:
            print(host.log()[-8000:])
    assert "Traceback" not in host.log(), host.log()[-8000:]


@pytest.fixture(scope="session")
def client(base_url: str) -> Iterator[httpx.Client]:
    """A client of the shared host."""
    with new_client(base_url) as one:
        yield one


@pytest.fixture
def api(client: httpx.Client) -> Api:
    """A user that nobody else is."""
    return Api(client)


@pytest.fixture
def model(client: httpx.Client, api: Api, processes: int) -> ModelLog:
    """What the scripted model was asked with the key that is this user's name."""
    return ModelLog(client, api.user, processes)


@pytest.fixture(scope="module")
def start_host(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, processes: int
) -> Iterator[StartHost]:
    """Starts hosts for one module, with settings of its choice."""
    if GIVEN_URL:
        pytest.skip("needs hosts of its own, and TRUESTOP_TEST_BASE_URL names one")
    started: list[Host] = []

    def start(data: Path | None = None, workers: int = processes - 1, **environment: str) -> Host:
        host = Host(data or tmp_path_factory.mktemp("own") / "data", environment, workers=workers)
        started.append(host)
        return host.start()

    try:
        yield start
    finally:
        for host in started:
            host.stop()
            if request.session.testsfailed:
                print(host.log()[-8000:])
