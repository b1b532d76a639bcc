"""Schedules over HTTP, on a host of their own: slots run by the real timer, and a cancelled one is never started again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, Run, Workflow
from tests.support.host import Host
from tests.support.promise import assert_workflow_free
from tests.support.waiting import eventually_sync

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
SLEEP = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 600}}
ONE_SECOND = {"kind": "schedule", "every": {"value": 1, "unit": "seconds"}}


@pytest.fixture(scope="module")
def host(start_host: StartHost) -> Host:
    """A host that takes schedules as quick as these."""
    return start_host(TRUESTOP_SCHEDULE_MIN_SECONDS="1")


@pytest.fixture
def client(host: Host) -> Iterator[httpx.Client]:
    """A client of it."""
    with new_client(host.base_url) as one:
        yield one


@pytest.fixture
def api(client: httpx.Client) -> Api:
    """A user that nobody else is."""
    return Api(client)


def look(client: httpx.Client) -> None:
    """Have the timer's function run now."""
    assert client.post("/admin/functions/schedule", json={}).status_code == 202


def runs(workflow: Workflow) -> list[dict[str, Any]]:
    """Its runs."""
    return workflow.api.all(f"{workflow.path}/runs")


def with_status(workflow: Workflow, *statuses: str) -> list[dict[str, Any]]:
    """Its runs, once some have one of these statuses. The timer looks by itself; being asked, it looks at once."""

    def probe() -> list[dict[str, Any]]:
        look(workflow.api.client)
        return [run for run in runs(workflow) if run["status"] in statuses]

    found: list[dict[str, Any]] = eventually_sync(probe, 30, f"{workflow.path} has runs that are {statuses}")
    return found


def test_slots_run_and_say_what_started_them(api: Api) -> None:
    """Guards the whole way of a slot, from the timer, which nobody asks to look, to the end of its run."""
    workflow = api.workflow(ECHO, trigger=ONE_SECOND)
    assert workflow.get()["runtime"]["next_run_at"] is not None
    done = eventually_sync(
        lambda: [run for run in runs(workflow) if run["status"] == "completed"],
        30,
        f"a slot of {workflow.path} has run",
    )
    run = done[0]
    assert run["trigger"]["kind"] == "schedule"
    assert run["requested_by"] == {"id": "schedule", "name": "Schedule"}
    api.ok("PATCH", workflow.path, json={"enabled": False})
    assert workflow.get()["runtime"]["next_run_at"] is None


def test_a_busy_slot_is_skipped_and_says_why(api: Api) -> None:
    """Guards the record of what didn't run."""
    workflow = api.workflow(SLEEP, trigger=ONE_SECOND)
    active = with_status(workflow, "running")[0]
    reasons = [run["error"]["message"] for run in with_status(workflow, "skipped")]
    assert any(active["id"] in reason or "missed" in reason for reason in reasons)
    api.ok("PATCH", workflow.path, json={"enabled": False})
    assert Run(workflow, active["id"]).cancel(force=True).status_code == 200


def test_a_cancelled_slot_starts_nothing_after_a_crash_of_the_host(start_host: StartHost) -> None:
    """Guards `disable`, and point 4 over HTTP: ten looks and a kill -9 later there is still the one cancelled run."""
    host = start_host(TRUESTOP_SCHEDULE_MIN_SECONDS="1")
    with new_client(host.base_url) as client:
        workflow = Api(client).workflow(SLEEP, trigger=ONE_SECOND, after_cancel="disable")
        run = Run(workflow, with_status(workflow, "running")[0]["id"])
        assert run.cancel(reason="enough").status_code in (200, 202)
        assert run.wait()["status"] == "cancelled"
        assert run.types()[-2:] == ["workflow.disabled", "run.cancelled"]
        host.kill9()
        host.restart()
        for _ in range(10):
            look(client)
        with_status(Api(client).workflow(ECHO, trigger=ONE_SECOND), "completed")  # so a look has come to its end
        after = workflow.get()
        assert (after["enabled"], after["runtime"]["next_run_at"]) == (False, None)
        assert [one["id"] for one in runs(workflow) if one["status"] != "skipped"] == [run.id]
        assert_workflow_free(run)  # by hand it can be started
