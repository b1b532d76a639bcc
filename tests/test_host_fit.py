"""What the app tells the Functions host: only names that the host knows, values that fit each other, all of it explained.

The names are those of Microsoft's reference pages for host.json (host v4, Durable extension 3) and for bindings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from devhost.functions import HostedFunction, load_app
from devhost.local_settings import host_settings
from devhost.triggers.timespan import parse_timespan
from orchestrators.run import MAX_GRACE_SECONDS
from shared.settings import TABLE, load
from shared.steps import MAX_STEP_SECONDS

ROOT = Path(__file__).parents[1]
KNOWN = {
    "version": (),
    "functionTimeout": (),
    "logging": ("logLevel", "applicationInsights"),
    "logging.applicationInsights": ("samplingSettings",),
    "logging.applicationInsights.samplingSettings": ("isEnabled", "excludedTypes", "maxTelemetryItemsPerSecond"),
    "extensionBundle": ("id", "version"),
    "extensions": ("http", "durableTask", "queues", "blobs"),
    "extensions.http": ("routePrefix", "maxConcurrentRequests", "maxOutstandingRequests", "dynamicThrottlesEnabled"),
    "extensions.durableTask": (
        "hubName",
        "extendedSessionsEnabled",
        "maxConcurrentActivityFunctions",
        "maxConcurrentOrchestratorFunctions",
        "storageProvider",
        "tracing",
    ),
    "extensions.durableTask.storageProvider": (
        "type",
        "connectionName",
        "partitionCount",
        "maxQueuePollingInterval",
        "controlQueueVisibilityTimeout",
        "workItemQueueVisibilityTimeout",
    ),
    "extensions.durableTask.tracing": ("traceInputsAndOutputs", "traceReplayEvents"),
    "extensions.queues": (
        "messageEncoding",
        "batchSize",
        "newBatchThreshold",
        "maxDequeueCount",
        "visibilityTimeout",
        "maxPollingInterval",
    ),
    "extensions.blobs": ("maxDegreeOfParallelism", "poisonBlobThreshold"),
}
BINDINGS = {
    "httpTrigger": {"route", "methods", "authLevel"},
    "http": set(),
    "orchestrationTrigger": {"orchestration"},
    "activityTrigger": {"activity"},
    "durableClient": {"taskHub", "connectionName"},
    "timerTrigger": {"schedule", "runOnStartup", "useMonitor"},
    "queueTrigger": {"queueName", "connection"},
    "blobTrigger": {"path", "connection", "source"},
}
EVERY_BINDING = {"name", "type", "direction", "dataType"}
FUNCTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,126}")
RESERVED = ("WEBSITE_", "FUNCTIONS_", "AzureWebJobs", "AzureFunctionsJobHost", "APPINSIGHTS_", "SCM_", "PYTHON_")


@pytest.fixture(scope="module")
def host() -> dict[str, Any]:
    """host.json."""
    found: dict[str, Any] = json.loads((ROOT / "host.json").read_text())
    return found


@pytest.fixture(scope="module")
def functions() -> list[HostedFunction]:
    """The app's functions, as a worker finds them."""
    return load_app(ROOT)


def leaves(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def span(host: dict[str, Any], path: str) -> timedelta:
    """The value at `path`, as .NET reads it."""
    return parse_timespan(dict(leaves(host))[path])


def test_the_host_knows_every_name_in_host_json(host: dict[str, Any]) -> None:
    """Guards against a setting that is misspelt, which the host ignores without a word."""

    def check(section: dict[str, Any], path: str) -> None:
        for name, value in section.items():
            here = f"{path}.{name}" if path else name
            assert here in KNOWN if not path else name in KNOWN[path], here
            if isinstance(value, dict) and here != "logging.logLevel":  # whose names are loggers'
                check(value, here)

    check(host, "")
    assert host_settings(ROOT).queues.max_dequeue_count == 5


def test_the_reference_page_explains_every_value(host: dict[str, Any]) -> None:
    """Guards `docs/reference/host.md`."""
    page = (ROOT / "docs/reference/host.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| .+ \|$", page, re.M)
    shown = [(path, value if isinstance(value, str) else json.dumps(value)) for path, value in leaves(host)]
    assert rows == [(path, f"`{value}`" if value else "") for path, value in shown]


def test_the_host_s_times_fit_ours(host: dict[str, Any]) -> None:
    """Guards what depends on each other: no function is killed by the host, and nothing is redelivered to the living."""
    settings = load({})
    longest = timedelta(seconds=max(MAX_STEP_SECONDS, settings.step_timeout_seconds) + MAX_GRACE_SECONDS)
    assert span(host, "functionTimeout") > longest
    for queue in ("controlQueue", "workItemQueue"):
        redelivered = span(host, f"extensions.durableTask.storageProvider.{queue}VisibilityTimeout")
        assert redelivered > timedelta(seconds=settings.fence_seconds)
    assert host["extensions"]["durableTask"]["maxConcurrentActivityFunctions"] >= 2 * settings.parallel_max


def test_every_binding_is_one_of_azure_functions(functions: list[HostedFunction]) -> None:
    """Guards against what only a stand-in would serve: an unknown type, property or direction fails at indexing in Azure."""
    assert len(functions) > 20
    for function in functions:
        for binding in (function.trigger, *function.bindings):
            given = binding.get_dict_repr()
            assert given["type"] in BINDINGS, (function.name, given)
            unknown = {name for name, value in given.items() if value is not None} - EVERY_BINDING
            assert unknown <= BINDINGS[given["type"]], (function.name, given)
            assert str(getattr(given["direction"], "name", given["direction"])).lower() in ("in", "out")
            assert given["name"] == "$return" or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", given["name"])


def test_function_names_are_such_as_the_host_takes_and_differ_whatever_the_case(
    functions: list[HostedFunction],
) -> None:
    """Guards indexing: one bad or doubled name leaves the host without any function."""
    assert all(FUNCTION_NAME.fullmatch(one.name) for one in functions)
    assert len({one.name.lower() for one in functions}) == len(functions)


def test_settings_are_named_as_application_settings_may_be() -> None:
    """Guards Linux plans, whose settings are environment variables, and the names that the platform keeps to itself."""
    for setting in TABLE:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", setting.name)
        assert not setting.name.startswith(RESERVED)


def test_the_package_has_what_the_app_imports_and_leaves_out_what_it_does_not() -> None:
    """Guards a deployment: the worker installs requirements.txt only, and ours must not bring what the platform has."""
    names = re.findall(r"^([A-Za-z0-9_.-]+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert {"azure-functions", "azure-functions-durable"} <= set(names)
    assert not {one for one in names if one.startswith(("azure-functions-worker", "grpcio"))}
    ignored = (ROOT / ".funcignore").read_text().split()
    assert {"devhost", "tests", "bench", "local.settings.json"} <= set(ignored)
