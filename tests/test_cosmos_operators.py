"""Operators and machines' keys on Cosmos DB: queries over all partitions, and the guarded writes of one document a scope."""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

from pathlib import Path

import pytest

from shared import keys, operator_cancels, operators
from shared.errors import Problem
from shared.executions import ExecutionSpec, run_ref
from shared.identity import Caller
from shared.names import Kind
from shared.operations import begin
from shared.operator_cancels import Order, Selection, cancel_runs, work_off
from shared.permissions import KeyScope
from shared.starting import begin_run
from shared.states import ACTIVE_RUN
from shared.store.port import Patch
from tests.cosmos_double.fixtures import cosmos_server, double  # noqa: F401
from tests.cosmos_double.server import Double
from tests.support.orchestrations import FakeOrchestrations
from tests.test_cosmos_domain import ECHO, world_on

OP = {"id": "op", "name": "Op"}
LONG_AGO = "2026-01-01T00:00:00.000Z"


async def test_many_runs_are_found_and_cancelled_by_a_job(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the order of runs of all partitions, page after page, while their statuses change."""
    monkeypatch.setattr(operator_cancels, "BATCH", 2)
    async with world_on(double, tmp_path) as world:
        refs = [await world.start(await world.workflow(ECHO)) for _ in range(5)]
        ids, client = tuple(ref.run_id for ref in refs), FakeOrchestrations()
        selection = Selection(before=operators.moment_before(-60))
        results, job = await cancel_runs(world.services, client, Order(OP, "enough", selection))
        assert (len(results), job is not None) == (2, True)
        assert await work_off(world.services, client) == 2
        everything = operators.RunFilter(ACTIVE_RUN).query(10, None, descending=True)
        assert (await world.store.query(everything)).items == []
        again, _ = await cancel_runs(world.services, client, Order(OP, "again", Selection(run_ids=ids[:2])))
        assert [one["result"] for one in again] == ["cancelled"] * 2
        told = await operators.trail(world.services, await world.run(refs[0]))
        assert "operator.cancelled" in [one["type"] for one in told["trail"]]


async def test_what_is_wedged_is_found(double: Double, tmp_path: Path) -> None:
    """Guards the query for operations: by a null, a truth and a time, over all partitions."""
    async with world_on(double, tmp_path) as world:
        ref = await world.start(await world.workflow(ECHO))
        await begin_run(world.services, ref, await world.run(ref))
        await begin(world.store, run_ref(await world.run(ref)), [ExecutionSpec("s01", Kind.TOOL_CALL, "echo")])
        assert (await operators.wedged(world.services, 10))["operations"] == []
        await world.store.transact(ref.partition, [Patch(ref.execution_id("s01"), set={"started_at": LONG_AGO})])
        found = await operators.wedged(world.services, 10)
        assert [one["run_id"] for one in found["operations"]] == [ref.run_id]


async def test_a_key_is_used_noted_and_revoked(double: Double, tmp_path: Path) -> None:
    """Guards the patch of one key among many, and the guard that is judged where writes are."""
    async with world_on(double, tmp_path) as world:
        pia, services = Caller("pia", "Pia"), world.services
        key, text = await keys.make(services, pia, pia.scope, "one", [KeyScope.START], 1)
        await keys.make(services, pia, pia.scope, "two", [KeyScope.START], 1)
        machine = await keys.caller_of(services, text)
        assert machine.key is not None
        await keys.confirm(services, machine.key)
        one, two = await keys.of_scope(services, pia.scope)
        assert (one["last_used_at"] is None, two["last_used_at"]) == (False, None)
        await keys.revoke(services, pia, pia.scope, key["id"])
        with pytest.raises(Problem, match="401"):
            await keys.confirm(services, machine.key)
        with pytest.raises(Problem, match="401"):
            await keys.caller_of(services, text)
        events = (await world.store.query(keys.events(pia.scope, key["id"], 10, None))).items
        assert [event["event_type"] for event in events] == ["key.revoked", "key.used", "key.created"]
