"""Groups: who is in charge of them, what becomes of them, and what triggers may do in them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import groups, workflows
from shared.documents import Documents
from shared.errors import NotFound, Problem
from shared.executions import run_ref
from shared.identity import Caller
from shared.ids import from_text
from shared.names import DocumentType
from shared.permissions import Role
from shared.run_requests import handle
from shared.scheduler import run_due
from shared.store.port import Document, Partition, Query
from tests.domain.test_run_requests import SENDERS, Asked
from tests.support.inbox import Inbox
from tests.support.orchestrations import FakeOrchestrations
from tests.support.schedules import runs_of, workflow_of
from tests.support.world import RecordingStore, World

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
OLGA, ADAM, ULLI = (Caller(name, name.title()) for name in ("olga", "adam", "ulli"))


async def group_of(world: World, **members: Role) -> str:
    """A group of Olga's, with these members too."""
    group_id = str((await groups.create(world.services, OLGA, "A group"))["group_id"])
    for name, role in members.items():
        await groups.set_member(world.services, OLGA, group_id, name, role, None)
    return group_id


async def members(world: World, group_id: str) -> dict[str, str]:
    """The role of each member."""
    return {one["id"]: one["role"] for one in (await groups.read(world.services, group_id))["members"]}


async def refusal(change: Awaitable[Any]) -> str:
    """The code that a change is refused with."""
    with pytest.raises(Problem) as caught:
        await change
    return caught.value.code


class TestMembers:
    async def test_who_makes_a_group_owns_it_and_it_is_found_by_its_members(self, world: World) -> None:
        """Guards the beginning of a group, and the list of one's own."""
        group_id = await group_of(world, adam=Role.ADMIN)
        assert await members(world, group_id) == {"olga": "Owner", "adam": "Admin"}
        other = await group_of(world)
        found = {name: await groups.of_member(world.services, name) for name in ("olga", "adam", "ulli", "ola", "")}
        listed = {name: {one["group_id"] for one in page.items} for name, page in found.items()}
        assert listed == {"olga": {group_id, other}, "adam": {group_id}, "ulli": set(), "ola": set(), "": set()}

    async def test_the_last_owner_stays(self, world: World) -> None:
        """Guards against a group that nobody can manage: its last Owner neither leaves nor steps down."""
        group_id = await group_of(world, adam=Role.ADMIN)
        assert await refusal(groups.remove_member(world.services, OLGA, group_id, "olga")) == "last_owner"
        demotion = groups.set_member(world.services, OLGA, group_id, "olga", Role.ADMIN, None)
        assert await refusal(demotion) == "last_owner"
        await groups.set_member(world.services, OLGA, group_id, "adam", Role.OWNER, None)
        await groups.remove_member(world.services, OLGA, group_id, "olga")
        assert await members(world, group_id) == {"adam": "Owner"}

    async def test_an_admin_neither_makes_nor_unmakes_an_owner(self, world: World) -> None:
        """Guards against an Admin who takes the group over."""
        group_id = await group_of(world, adam=Role.ADMIN, ulli=Role.USER)
        services = world.services
        for member, role in (("adam", Role.OWNER), ("ulli", Role.OWNER), ("nils", Role.OWNER), ("olga", Role.USER)):
            assert await refusal(groups.set_member(services, ADAM, group_id, member, role, None)) == "role_required"
        assert await refusal(groups.remove_member(services, ADAM, group_id, "olga")) == "role_required"
        await groups.set_member(services, ADAM, group_id, "ulli", Role.ADMIN, "Ulrike")
        await groups.remove_member(services, ADAM, group_id, "ulli")
        await groups.remove_member(services, ADAM, group_id, "adam")
        assert await members(world, group_id) == {"olga": "Owner"}

    async def test_who_may_not_manage_may_still_leave(self, world: World) -> None:
        """Guards the way out."""
        group_id = await group_of(world, ulli=Role.USER, nils=Role.USER)
        assert await refusal(groups.remove_member(world.services, ULLI, group_id, "nils")) == "role_required"
        await groups.remove_member(world.services, ULLI, group_id, "ulli")
        assert await refusal(groups.remove_member(world.services, ULLI, group_id, "ulli")) == "group_not_found"
        assert await refusal(groups.remove_member(world.services, OLGA, group_id, "ulli")) == "member_not_found"

    async def test_groups_and_memberships_are_bounded(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Guards against a document without end, and against a person whose every request looks through thousands."""
        monkeypatch.setattr(groups, "MAX_MEMBERS", 2)
        monkeypatch.setattr(groups, "MAX_GROUPS", 2)
        first, second = await group_of(world, adam=Role.USER), await group_of(world, adam=Role.USER)
        more = groups.set_member(world.services, OLGA, first, "ulli", Role.USER, None)
        assert await refusal(more) == "too_many_members"
        await groups.set_member(world.services, OLGA, first, "adam", Role.ADMIN, None)  # no further member
        assert await refusal(groups.create(world.services, OLGA, "A third")) == "too_many_groups"
        third = str((await groups.create(world.services, ULLI, "Another"))["group_id"])
        assert (
            await refusal(groups.set_member(world.services, ULLI, third, "adam", Role.USER, None)) == "too_many_groups"
        )
        assert second

    @pytest.mark.parametrize("seed", range(12))
    async def test_of_two_owners_who_remove_each_other_one_stays(self, world: World, seed: int) -> None:
        """Guards the conditional write: both decide on the same state, and only one of them can be right."""
        group_id = await group_of(world, adam=Role.OWNER)
        recording = RecordingStore(world.store)
        both, waiting = asyncio.Event(), 0

        async def together(ops: Any) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 2:
                both.set()
            await both.wait()
            for _ in range((seed * waiting) % 5):
                await asyncio.sleep(0)

        recording.before = together
        services = replace(world.services, store=recording)  # type: ignore[arg-type]
        done = await asyncio.gather(
            groups.remove_member(services, OLGA, group_id, "adam"),
            groups.remove_member(services, ADAM, group_id, "adam" if seed % 2 else "olga"),
            return_exceptions=True,
        )
        assert sum(isinstance(one, Problem) for one in done) == 1, done
        assert list((await members(world, group_id)).values()) == ["Owner"]

    async def test_nobody_acts_on_a_role_that_they_have_just_lost(self, world: World) -> None:
        """Guards the moment between a change's decision and its write."""
        group_id = await group_of(world, adam=Role.ADMIN)
        recording = RecordingStore(world.store)

        async def demoted(ops: Any) -> None:
            recording.before = None
            await groups.set_member(world.services, OLGA, group_id, "adam", Role.USER, None)

        recording.before = demoted
        services = replace(world.services, store=recording)  # type: ignore[arg-type]
        assert await refusal(groups.rename(services, ADAM, group_id, "Mine")) == "role_required"
        assert (await groups.read(world.services, group_id))["name"] == "A group"


class TestDeletion:
    async def test_a_group_is_not_deleted_while_runs_are_active(self, world: World) -> None:
        """Guards runs from losing their ground: nothing is deleted, and who asked learns what to cancel."""
        group_id = await group_of(world)
        scope = f"group:{group_id}"
        await Documents(world.services.blobs, scope).put("a.txt", b"a", "text/plain")
        await world.workflow(ECHO, scope=scope)
        busy = await world.workflow(ECHO, scope=scope)
        ref = await world.start(busy)
        with pytest.raises(Problem) as caught:
            await groups.delete(world.services, OLGA, group_id)
        assert (caught.value.code, caught.value.extra) == ("group_busy", {"active_run_ids": [ref.run_id]})
        assert len((await world.store.query(Query(DocumentType.WORKFLOW, scope))).items) == 2
        await world.cancel(ref)
        await groups.delete(world.services, OLGA, group_id)
        assert not (await world.store.query(Query(DocumentType.WORKFLOW, scope))).items
        assert not (await world.services.blobs.list(f"documents/{scope}/")).items
        assert await refusal(groups.read(world.services, group_id)) == "group_not_found"

    async def test_a_deletion_that_meets_a_run_can_be_asked_for_again(self, world: World) -> None:
        """Guards against a run without a group: a trigger starts one in the middle, and the group stays until it ends."""
        group_id = await group_of(world)
        first, second = [await world.workflow(ECHO, scope=f"group:{group_id}") for _ in range(2)]
        recording = RecordingStore(world.store)
        started: list[Any] = []

        async def triggered(ops: Any) -> None:
            recording.before = None
            started.append(await world.start(second))

        recording.before = triggered
        services = replace(world.services, store=recording)  # type: ignore[arg-type]
        assert await refusal(groups.delete(services, OLGA, group_id)) == "group_busy"
        assert await members(world, group_id) == {"olga": "Owner"}
        with pytest.raises(Problem):
            await workflows.get(world.services, Partition(first["scope"], first["workflow_id"]))
        await world.cancel(started[0])
        await groups.delete(world.services, OLGA, group_id)
        assert await refusal(groups.delete(world.services, OLGA, group_id)) == "group_not_found"


def turned_off(world: World) -> None:
    """From now on, groups may have no workflows."""
    world.services.settings = replace(world.services.settings, group_workflows=False)


class TestTriggers:
    async def test_a_childs_workflow_is_one_of_its_parents_scope(self, world: World) -> None:
        """Guards against a way out of a scope: a personal workflow is not there for a group's run, nor the other way."""
        scope = f"group:{await group_of(world)}"
        for there, here in (("user:alice", scope), (scope, "user:alice"), (scope, f"group:{await group_of(world)}")):
            child = await world.workflow(ECHO, scope=there)
            step = {"kind": "child_run", "workflow_id": child["workflow_id"]}
            ref = await world.start(await world.workflow(step, scope=here))
            assert await world.drive(ref) == "failed"
            assert (await world.run(ref))["error"]["code"] == "child_workflow_missing"
            assert not await runs_of(world, child)

    async def test_a_groups_child_run_is_asked_for_by_who_asked_for_its_parent(self, world: World) -> None:
        """Guards `requested_by` down a tree, in the group's own scope."""
        scope = f"group:{await group_of(world)}"
        child = await world.workflow(ECHO, scope=scope)
        ref = await world.start(
            await world.workflow({"kind": "child_run", "workflow_id": child["workflow_id"]}, scope=scope)
        )
        assert await world.drive(ref) == "completed"
        (run,) = await runs_of(world, child)
        assert (run["scope"], run["requested_by"]) == (scope, (await world.run(ref))["requested_by"])

    @pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
    async def test_time_starts_a_groups_runs_unless_they_are_off(self, world: World, on: bool) -> None:
        """Guards schedules of groups: the run is the schedule's, and while workflows are off it says why it never ran."""
        trigger = {"kind": "schedule", "every": {"value": 1, "unit": "hours"}}
        workflow = await world.workflow(ECHO, scope=f"group:{await group_of(world)}", trigger=trigger)
        if not on:
            turned_off(world)
        due = from_text((await workflow_of(world, workflow))["runtime"]["next_run_at"])
        await run_due(world.services, FakeOrchestrations(), due + timedelta(seconds=1))
        (run,) = await runs_of(world, workflow)
        assert run["requested_by"]["id"] == "schedule"
        assert run["status"] == ("queued" if on else "skipped")
        assert on or "turned off" in run["error"]["message"]

    @pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
    async def test_a_request_starts_a_groups_run_unless_they_are_off(self, world: World, on: bool) -> None:
        """Guards run requests to groups."""
        asked = Asked(world, await world.workflow(ECHO, scope=f"group:{await group_of(world)}", run_requests=SENDERS))
        if not on:
            turned_off(world)
        assert await handle(world.services, asked.durable, asked.message()) == ("started" if on else "skipped")
        (run,) = await asked.runs()
        assert run["requested_by"]["id"] == "sender:billing"
        assert on or "turned off" in run["error"]["message"]

    @pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
    async def test_files_start_a_groups_run_unless_they_are_off(self, world: World, tmp_path: Path, on: bool) -> None:
        """Guards File Sync of groups: nothing is lost without a word, and the queue is not blocked."""
        workflow = await world.workflow(
            ECHO, scope=f"group:{await group_of(world)}", trigger={"kind": "file_sync", "debounce_seconds": 1}
        )
        inbox = Inbox(world, tmp_path, workflow)
        if not on:
            turned_off(world)
        await inbox.put("a.txt")
        await inbox.later(60)
        (run,) = await inbox.runs()
        assert (run["requested_by"]["id"], run["status"]) == ("file_sync", "queued" if on else "skipped")
        assert on or "turned off" in run["error"]["message"]
        assert await inbox.at_rest()

    async def test_what_was_started_before_they_were_off_goes_on_to_its_end(self, world: World) -> None:
        """Guards a tree that is at work: its children still start, and it can be cancelled and seen."""
        scope = f"group:{await group_of(world)}"
        child = await world.workflow(ECHO, scope=scope)
        parent = await world.workflow({"kind": "child_run", "workflow_id": child["workflow_id"]}, scope=scope)
        ref = await world.start(parent)
        turned_off(world)
        assert await world.drive(ref) == "completed"
        with pytest.raises(Problem) as caught:
            await world.start(parent)
        assert (caught.value.status, caught.value.code) == (403, "workflows_off")
        assert run_ref(await world.run(ref)) == ref


async def test_a_group_is_read_where_writes_are_judged(world: World) -> None:
    """Guards the last look before an accept: on Cosmos DB a plain read may miss a change that another process made."""
    group_id = await group_of(world)
    recording = RecordingStore(world.store)
    reads: list[Any] = []

    async def noted(ops: Any) -> None:
        reads.append(ops)

    recording.before = noted
    services = replace(world.services, store=recording)  # type: ignore[arg-type]
    group: Document = await groups.read_at_accept(services, group_id)
    assert group["member_ids"] == ["olga"]
    ((check,),) = reads
    assert check.when, "without a condition Cosmos DB would only read"
    await groups.delete(world.services, OLGA, group_id)
    assert await refusal(groups.read_at_accept(services, group_id)) == "group_not_found"
    with pytest.raises(NotFound):
        await world.store.get(Partition(f"group:{group_id}", "_group"), "group")
