"""The receipt of a cancel, of runs of any size."""

from __future__ import annotations

from shared.executions import ExecutionSpec, RunRef, new_execution
from shared.names import Kind
from shared.operations import Begun, begin
from shared.receipts import cancel_receipt
from shared.states import ExecutionStatus as Ex
from shared.store.port import Create, Op, Patch
from tests.support.world import World


async def test_a_receipt_leaves_nothing_out_of_a_large_run(world: World) -> None:
    """Guards what the receipt is for: the operation at work, and what was done, after over a thousand others."""
    ref = await world.start(await world.workflow({"kind": "tool", "tool": "sleep", "arguments": {"seconds": 1}}))
    await world.begin(ref)
    await fill(world, ref)
    effect = {"execution_id": ref.execution_id("s03"), "kind": "letter", "what": "to Ann", "at": "now", "done": True}
    specs = [ExecutionSpec(path, Kind.TOOL_CALL, "sleep") for path in ("s03", "s04")]
    for spec in specs:
        assert isinstance(await begin(world.store, ref, [spec]), Begun)
    await world.store.transact(ref.partition, [Patch(ref.execution_id("s03"), set={"side_effects": [effect]})])
    receipt = await cancel_receipt(world.services, await world.cancel(ref))
    assert [one["execution_id"] for one in receipt["in_flight"]] == [ref.execution_id(one.path) for one in specs]
    assert receipt["side_effects"] == [effect]


async def fill(world: World, ref: RunRef) -> None:
    """Add over a thousand items to the run."""
    for batch in range(11):
        ops: list[Op] = [
            Create(new_execution(ref, ExecutionSpec(f"s02.i{batch * 99 + one:04}", Kind.ITEM, "x"), Ex.COMPLETED, True))
            for one in range(99)
        ]
        await world.store.transact(ref.partition, ops)
