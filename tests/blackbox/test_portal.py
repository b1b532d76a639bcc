"""What an operator does in the Azure portal, through the management API that it calls; `docs/portal.md` is the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.starting import Start, start_run
from shared.store.port import Partition
from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, ModelLog, Run, Workflow
from tests.support.host import Host
from tests.support.promise import assert_cancelled_whole, assert_ended_whole, assert_nothing_after, assert_workflow_free
from tests.support.waiting import eventually_sync
from tests.support.world import open_world

DURABLE = "/runtime/webhooks/durabletask"
ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
SETTINGS = {"TRUESTOP_FENCE_SECONDS": "1", "TRUESTOP_START_AFTER_SECONDS": "0.001"}


def stream(key: str, tokens: int = 5000) -> dict[str, Any]:
    """A model step that answers for as long as a test needs."""
    return {"kind": "model", "prompt": f"[[tokens={tokens} delay=5ms key={key}]]Go"}


def retrying(key: str) -> dict[str, Any]:
    """A model step that fails and waits long for its next try."""
    failing = {"prompt": f"[[status=503 times=9 key={key}]]Go", "retries": {"max": 2, "backoff_seconds": 600}}
    return {"kind": "model", **failing}


def sleeping(seconds: float, blocking: bool = False) -> dict[str, Any]:
    """A tool step that takes `seconds`."""
    return {"kind": "tool", "tool": "sleep", "arguments": {"seconds": seconds, "blocking": blocking}}


@dataclass
class Portal:
    """A host, and the buttons of the portal."""

    host: Host
    client: httpx.Client
    runs: dict[str, Run] = field(default_factory=dict)
    models: dict[str, ModelLog] = field(default_factory=dict)

    def press(self, instance: str, button: str, status: int = 202, **more: Any) -> None:
        """Ask for something of an instance."""
        answer = self.client.post(f"{DURABLE}/instances/{instance}/{button}", **more)
        assert answer.status_code == status, answer.text

    def terminate(self, instance: str) -> None:
        """Terminate it, and wait until that is done: it is asynchronous."""
        self.press(instance, "terminate?reason=not%20wanted")
        eventually_sync(lambda: self.state(instance) == "Terminated", 10, f"{instance} is terminated")

    def state(self, instance: str) -> str | None:
        """Its runtime status."""
        answer = self.client.get(f"{DURABLE}/instances/{instance}")
        return None if answer.status_code == 404 else str(answer.json()["runtimeStatus"])

    def purge(self, instance: str) -> None:
        """Forget it."""
        assert self.client.delete(f"{DURABLE}/instances/{instance}").status_code == 200

    def reconcile(self) -> None:
        """Make one pass, and wait for it."""
        before = self.host.log().count("event_triggers.reconcile: ")
        assert self.client.post("/admin/functions/reconcile", json={}).status_code == 202
        eventually_sync(lambda: self.host.log().count("event_triggers.reconcile: ") > before, 20, "a pass has ended")

    def begin(self, phase: str, *steps: dict[str, Any], **settings: Any) -> Run:
        """A run of a user of its own."""
        api = Api(self.client)
        self.models[phase] = ModelLog(self.client, api.user)
        for number in range(6):
            api.upload(f"{number}.txt", b"A few words.")
        keyed = [{**one, "prompt": one["prompt"].replace("KEY", api.user)} if "prompt" in one else one for one in steps]
        self.runs[phase] = api.workflow(*keyed, **settings).start()
        return self.runs[phase]


@pytest.fixture(scope="module")
def portal(start_host: StartHost) -> Iterator[Portal]:
    """A host whose reconcile doesn't wait long."""
    host = start_host(**SETTINGS)
    with new_client(host.base_url) as client:
        yield Portal(host, client)


def accepted(workflow: Workflow, run_id: str, data: Path) -> Run:
    """A run that was accepted by a process that died before it could start the orchestration."""

    async def accept() -> None:
        async with open_world(data) as world:
            partition = Partition(f"user:{workflow.api.user}", workflow.id)
            document = await world.store.get(partition, "workflow")
            start = Start(run_id, run_id, None, {"id": workflow.api.user, "name": "x"})
            await start_run(world.services, partition, document, start)

    asyncio.run(accept())
    return Run(workflow, run_id)


@pytest.fixture(scope="module")
def terminated(portal: Portal) -> dict[str, float]:
    """Runs in every phase, terminated; then one pass. Answers when each was terminated."""
    fan_out = {**stream("KEY"), "kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 3}
    portal.begin("streaming", stream("KEY"), ECHO)
    portal.begin("fan-out", fan_out, ECHO)
    retry = portal.begin("retry timer", retrying("KEY"), ECHO)
    blocking = portal.begin("tool", sleeping(3, blocking=True), ECHO)
    cancelling = portal.begin("cancelling", sleeping(3, blocking=True), ECHO)
    queued = Api(portal.client).workflow(ECHO)
    portal.client.post(f"{DURABLE}/orchestrators/run/portal-queued", json={}).raise_for_status()
    portal.terminate("portal-queued")
    portal.runs["queued"] = accepted(queued, "portal-queued", portal.host.data)
    for phase, count in (("streaming", 1), ("fan-out", 3)):
        portal.models[phase].streaming(count, tokens=5)
    eventually_sync(lambda: retry.executions().get("s01.m", {}).get("error"), what="the model's call failed")
    for run in (blocking, cancelling):
        eventually_sync(lambda run=run: run.executions().get("s01.c0", {}).get("status") == "running")  # type: ignore[misc]
    assert cancelling.cancel(reason="mine").status_code == 202
    for phase, run in portal.runs.items():
        if phase != "queued":
            portal.terminate(run.id)
    portal.reconcile()
    now = time.monotonic()
    return dict.fromkeys(portal.runs, now)


@pytest.mark.parametrize("phase", ["queued", "streaming", "fan-out", "retry timer", "tool"])
def test_terminate_cancels_the_run_in_every_phase(portal: Portal, terminated: dict[str, float], phase: str) -> None:
    """Guards the portal's Terminate: it is a cancel, by the portal, with all that a cancel promises."""
    run = portal.runs[phase]
    run.wait("cancelled")
    receipt = assert_cancelled_whole(run)
    assert (receipt["source"], receipt["reason"]) == ("portal", "not wanted")
    assert run.types().count("repair.cancelled") == 1
    if phase in portal.models:
        assert_nothing_after(run, portal.models[phase], terminated[phase])
    assert_workflow_free(run)


def test_terminate_of_a_cancelling_run_changes_nothing_of_its_cancel(
    portal: Portal, terminated: dict[str, float]
) -> None:
    """Guards the first cancel: its facts and its grace stay."""
    run = portal.runs["cancelling"]
    run.wait("cancelled")
    receipt = assert_cancelled_whole(run)
    assert (receipt["source"], receipt["reason"]) == ("api", "mine")
    assert [one["outcome"] for one in receipt["in_flight"]] == ["finished"]
    assert_workflow_free(run)


def test_terminate_of_the_pipeline_fails_the_run(portal: Portal) -> None:
    """Guards the inner instances that the portal shows as well: the run doesn't wait for one that is gone."""
    run = portal.begin("pipeline", retrying("KEY"))
    eventually_sync(lambda: run.executions().get("s01.m", {}).get("error"))
    portal.terminate(f"{run.id}:pipeline")
    assert run.wait()["error"]["code"] == "pipeline_failed"
    assert_ended_whole(run)
    assert_workflow_free(run)


@pytest.mark.parametrize("at_work", [False, True])
def test_a_purged_instance_ends_its_run(portal: Portal, at_work: bool) -> None:
    """Guards instances that are no longer there: work is stopped and waited for, and the run ends and says why."""
    run = portal.begin(f"purged {at_work}", stream("KEY") if at_work else retrying("KEY"), ECHO)
    if at_work:
        portal.models[f"purged {at_work}"].streaming(tokens=5)
    else:
        eventually_sync(lambda: run.executions().get("s01.m", {}).get("error"))
    portal.terminate(run.id)
    portal.purge(run.id)
    portal.reconcile()
    ended = run.wait()
    assert_ended_whole(run)
    if at_work:
        assert (ended["status"], ended["cancel"]["source"]) == ("cancelled", "reconcile")
        assert "removed" in ended["cancel"]["reason"]
    else:
        assert (ended["status"], ended["error"]["code"]) == ("failed", "orchestration_lost")
    assert_workflow_free(run)


def test_a_suspended_run_is_left_alone_and_goes_on_when_it_is_resumed(portal: Portal) -> None:
    """Guards Suspend: neither dead nor cancelled."""
    run = portal.begin("suspended", sleeping(1), ECHO)
    portal.press(run.id, "suspend?reason=wait")
    eventually_sync(lambda: portal.state(run.id) == "Suspended")
    portal.reconcile()
    assert run.get()["status"] == "running"
    portal.press(run.id, "resume?reason=go")
    assert run.wait()["status"] == "completed"
    assert not [one for one in run.types() if one.startswith("repair.")]
    assert_ended_whole(run)


def test_a_suspended_run_can_be_cancelled(portal: Portal) -> None:
    """Guards our own Cancel while the orchestration hears nothing."""
    run = portal.begin("suspended and cancelled", stream("KEY"), ECHO)
    model = portal.models["suspended and cancelled"]
    model.streaming(tokens=5)
    portal.press(run.id, "suspend?reason=wait")
    eventually_sync(lambda: portal.state(run.id) == "Suspended")
    assert run.cancel().status_code in (200, 202)
    answered = time.monotonic()
    run.wait("cancelled")
    assert_cancelled_whole(run)
    assert_nothing_after(run, model, answered)
    assert_workflow_free(run)


def test_a_cancel_event_raised_by_hand_cancels_nothing(portal: Portal) -> None:
    """Guards the record: an event without an accept ends nothing, though its grace is over before the steps are."""
    run = portal.begin("event", stream("KEY", 600), ECHO)
    portal.models["event"].streaming()
    portal.press(run.id, "raiseEvent/cancel", json={"grace_seconds": 0})
    whole = run.wait("completed")
    assert whole["cancel"] is None
    assert_ended_whole(run)
    eventually_sync(lambda: portal.state(run.id) == "Completed", 10, "its instance ends with it")


def test_restart_of_an_ended_run_does_nothing_and_of_a_running_one_doubles_nothing(portal: Portal) -> None:
    """Guards Restart, with a new id and with the same: an instance finds its run's record, and begins nothing twice."""
    run = portal.begin("restart", stream("KEY", tokens=100), ECHO)
    model = portal.models["restart"]
    model.streaming(tokens=5)
    reference = {"scope": f"user:{run.api.user}", "workflow_id": run.workflow.id, "run_id": run.id, "epoch": 1}
    start = f"{DURABLE}/orchestrators/run"
    assert portal.client.post(f"{start}/{run.id}", json=reference).status_code == 409
    assert portal.client.post(f"{start}/{run.id}-again", json=reference).status_code == 202
    assert run.wait()["status"] == "completed"
    eventually_sync(lambda: portal.state(f"{run.id}-again") == "Completed", 30)
    eventually_sync(lambda: portal.state(run.id) == "Completed", 30)
    assert len(model.idle()) == 1
    before = run.get(), run.executions(), run.events()
    portal.press(run.id, "terminate?reason=late", 410)
    for instance in (run.id, f"{run.id}-later"):
        assert portal.client.post(f"{start}/{instance}", json=reference).status_code == 202
        eventually_sync(lambda instance=instance: portal.state(instance) == "Completed")  # type: ignore[misc]
    assert (run.get(), run.executions(), run.events()) == before
    assert_ended_whole(run)


def test_an_accepted_run_whose_process_died_is_started(portal: Portal) -> None:
    """Guards the moment between the accept and the start of the orchestration."""
    run = accepted(Api(portal.client).workflow(ECHO), "never-started", portal.host.data)
    portal.reconcile()
    assert run.wait()["status"] == "completed"
    assert run.types().count("repair.started") == 1
    assert_ended_whole(run)
    assert_workflow_free(run)
