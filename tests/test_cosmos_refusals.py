"""The Cosmos DB store when it is refused or a read fails: what did nothing is tried again, within bounds."""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import pytest

from shared.errors import ConditionFailed, Throttled, Unavailable
from shared.store.cosmos import CosmosStore
from shared.store.port import FieldIn, Partition, Patch, Query
from tests.cosmos_double import faults
from tests.cosmos_double.faults import Fault
from tests.cosmos_double.fixtures import (  # noqa: F401
    ADD,
    EVENT,
    account_of,
    begun,
    brief_pauses,
    cosmos,
    cosmos_server,
    doc,
    double,
    partition,
)
from tests.cosmos_double.server import Double

pytestmark = pytest.mark.usefixtures("brief_pauses")

READ_FAULTS = [
    faults.throttled(),
    faults.status(503),
    faults.status(410),
    faults.cut(applied=False),
    faults.half_an_answer(),
    faults.garbled(),
]


class TestRefusals:
    @pytest.mark.parametrize("fault", [faults.throttled(), faults.status(449), faults.operation_status(449),
                                       faults.operation_status(429)], ids=str)  # fmt: skip
    async def test_what_was_not_applied_is_sent_again(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
        fault: Fault,
    ) -> None:
        await begun(cosmos, partition)
        double.trouble.plan("batch", fault, fault)
        [run] = await cosmos.transact(partition, [ADD])
        assert run is not None and run["n"] == 1

    async def test_a_guard_is_still_there_the_second_time(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        """The SDK empties the options of a batch's operations as it sends them, the predicates with them."""
        await begun(cosmos, partition)
        double.trouble.plan("batch", faults.status(449), faults.cut(applied=False))
        with pytest.raises(ConditionFailed):
            await cosmos.transact(partition, [Patch("a", when=(FieldIn("status", ("no",)),)), EVENT])

    async def test_throttling_without_end_is_throttled(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        await begun(cosmos, partition)
        double.trouble.plan("batch", *[faults.throttled(0.007)] * 10)
        with pytest.raises(Throttled) as caught:
            await cosmos.transact(partition, [ADD])
        assert caught.value.retry_after == 0.007
        double.trouble.clear()
        double.trouble.plan("batch", *[faults.status(449)] * 10)
        with pytest.raises(Throttled):
            await cosmos.transact(partition, [ADD])
        double.trouble.clear()
        assert (await cosmos.get(partition, "a"))["n"] == 0

    async def test_throttling_does_not_forget_a_doubt(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        """`Throttled` would say that nothing happened."""
        await begun(cosmos, partition)
        double.trouble.stale = True
        double.trouble.plan("batch", faults.cut(applied=True), *[faults.throttled()] * 10)
        with pytest.raises(Unavailable, match="isn't known"):
            await cosmos.transact(partition, [ADD, EVENT])


class TestReads:
    @pytest.mark.parametrize("fault", READ_FAULTS, ids=str)
    async def test_a_read_is_tried_again(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
        fault: Fault,
    ) -> None:
        await begun(cosmos, partition)
        for kind in ("read", "query", "feed"):
            double.trouble.plan(kind, fault)
        assert (await cosmos.get(partition, "a"))["n"] == 0
        assert len((await cosmos.query(Query("run", partition))).items) == 1
        assert len((await cosmos.changes(partition)).items) == 1
        assert double.trouble.pending() == 0

    async def test_a_read_does_not_try_for_ever(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        await begun(cosmos, partition)
        for kind, read in (
            ("read", lambda: cosmos.get(partition, "a")),
            ("query", lambda: cosmos.query(Query("run", partition))),
            ("feed", lambda: cosmos.changes(partition)),
        ):
            double.trouble.plan(kind, *[faults.cut(applied=False)] * 20)
            with pytest.raises(Unavailable, match="TRUESTOP_COSMOS_ENDPOINT"):
                await read()
            double.trouble.clear()
            double.trouble.plan(kind, *[faults.throttled(0.001)] * 60)
            with pytest.raises(Throttled):
                await read()
            double.trouble.clear()

    async def test_a_session_that_is_not_there_yet_is_not_a_missing_document(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        """Both are 404; a run that seems not to exist would be settled, or begun anew."""
        await begun(cosmos, partition)
        double.trouble.plan("read", *[faults.status(404, sub_status=1002)] * 10)
        with pytest.raises(Unavailable):
            await cosmos.get(partition, "a")
