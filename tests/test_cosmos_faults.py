"""The Cosmos DB store when requests go wrong: an acknowledged write happened once, and nothing is said that isn't known."""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.errors import ConditionFailed, Conflict, NotFound, Throttled, Unavailable
from shared.store import cosmos as cosmos_module
from shared.store.cosmos import CosmosStore
from shared.store.port import Check, Create, Delete, FieldIn, Op, Partition, Patch, Query
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

LOST: dict[str, Callable[[bool], Fault]] = {
    "cut": faults.cut,
    "408": lambda applied: faults.status(408, applied),
    "410": lambda applied: faults.status(410, applied),
    "500": lambda applied: faults.status(500, applied),
    "502": lambda applied: faults.status(502, applied),
    "503": lambda applied: faults.status(503, applied),
}


@pytest.fixture
async def second(double: Double) -> AsyncIterator[CosmosStore]:
    """Another process."""
    store = CosmosStore(account_of(double))
    yield store
    await store.close()


class TestLostAnswers:
    @pytest.mark.parametrize("kind", LOST)
    @pytest.mark.parametrize("applied", [False, True])
    @pytest.mark.parametrize("times", [1, 3])
    async def test_a_write_that_creates_something_happens_exactly_once(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
        kind: str,
        applied: bool,
        times: int,
    ) -> None:
        """The SDK sends a write again by itself after some of these: the counter would be 2."""
        await begun(cosmos, partition)
        double.trouble.plan("batch", *[LOST[kind](applied)] * times)
        run, event = await cosmos.transact(partition, [ADD, EVENT])
        assert run is not None and event is not None
        assert (run["n"], event["id"]) == (1, "event")
        assert await cosmos.get(partition, "a") == run
        assert await cosmos.get(partition, "event") == event

    @pytest.mark.parametrize("kind", LOST)
    async def test_a_write_that_was_applied_is_recognised(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
        kind: str,
    ) -> None:
        """A patch alone can't be sent again; the marker on the document says that it landed."""
        await begun(cosmos, partition)
        double.trouble.plan("batch", LOST[kind](True))
        [run] = await cosmos.transact(partition, [ADD])
        assert run is not None and run["n"] == 1
        assert await cosmos.get(partition, "a") == run
        assert double.trouble.seen["batch"] == 2  # the one of `begun` and this

    @pytest.mark.parametrize("kind", LOST)
    async def test_a_write_that_may_or_may_not_have_been_applied_is_unavailable(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
        kind: str,
    ) -> None:
        """It may still be under way, so it is neither sent again nor said to have failed."""
        await begun(cosmos, partition)
        double.trouble.plan("batch", LOST[kind](False))
        with pytest.raises(Unavailable, match="isn't known"):
            await cosmos.transact(partition, [ADD])
        assert (await cosmos.get(partition, "a"))["n"] == 0
        assert double.trouble.seen["batch"] == 2

    @pytest.mark.parametrize("fault", [faults.half_an_answer(), faults.garbled()], ids=lambda fault: fault.then)
    async def test_an_answer_that_can_not_be_read_is_lost(
        self, cosmos: CosmosStore, double: Double, partition: Partition, fault: Fault
    ) -> None:
        await begun(cosmos, partition)
        double.trouble.plan("batch", fault, fault)
        await cosmos.transact(partition, [ADD, EVENT])
        await cosmos.transact(partition, [ADD])
        assert (await cosmos.get(partition, "a"))["n"] == 2

    @pytest.mark.parametrize("applied", [False, True])
    async def test_silence_is_a_lost_answer(self, double: Double, partition: Partition, applied: bool) -> None:
        """A request without an answer would hold a supervisor until its own fence."""
        store = CosmosStore(account_of(double, timeout_seconds=0.1))
        try:
            await begun(store, partition)
            double.trouble.plan("batch", faults.stalled(applied))
            [run, _] = await store.transact(partition, [ADD, EVENT])
            assert run is not None and run["n"] == 1
        finally:
            await store.close()

    async def test_silence_without_end_is_unavailable_and_names_the_setting(
        self, cosmos: CosmosStore, double: Double, partition: Partition, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each request would wait for its own time, and a caller of several for minutes."""
        await begun(cosmos, partition)
        monkeypatch.setattr(cosmos_module, "CALL_SECONDS", 0.2)
        for kind, call in (
            ("read", lambda: cosmos.get(partition, "a")),
            ("query", lambda: cosmos.query(Query("run", partition))),
            ("feed", lambda: cosmos.changes(partition)),
            ("batch", lambda: cosmos.transact(partition, [ADD, EVENT])),
        ):
            double.trouble.plan(kind, faults.stalled(applied=False))
            with pytest.raises(Unavailable, match="TRUESTOP_COSMOS_ENDPOINT"):
                await call()
        monkeypatch.undo()
        assert (await cosmos.get(partition, "a"))["n"] == 0

    async def test_reads_that_lag_do_not_hide_that_it_was_applied(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        """The lost answer held the session token, so the first look sees nothing. The second write tells."""
        await begun(cosmos, partition)
        double.trouble.stale = True
        double.trouble.plan("batch", faults.cut(applied=True))
        run, _ = await cosmos.transact(partition, [ADD, EVENT])
        assert run is not None and run["n"] == 1
        assert double.trouble.seen["batch"] == 3

    async def test_reads_that_lag_leave_a_patch_in_doubt(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        await begun(cosmos, partition)
        double.trouble.stale = True
        double.trouble.plan("batch", faults.cut(applied=True))
        with pytest.raises(Unavailable):
            await cosmos.transact(partition, [ADD])
        double.trouble.stale = False
        assert (await cosmos.get(partition, "a"))["n"] == 1

    async def test_what_was_created_by_replacing_itself_is_not_sent_again(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        """Deleted and created in one transaction, a document doesn't keep the transaction from being applied twice."""
        await begun(cosmos, partition)
        double.trouble.plan("batch", faults.cut(applied=False))
        with pytest.raises(Unavailable):
            await cosmos.transact(partition, [Delete("a"), Create(doc("a", n=7))])
        assert (await cosmos.get(partition, "a"))["n"] == 0

    async def test_checks_alone_are_simply_sent_again(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        await begun(cosmos, partition)
        check = Check("a", (FieldIn("status", ("running",)),))
        for applied in (False, True):
            double.trouble.plan("batch", faults.cut(applied), faults.status(503, applied))
            assert await cosmos.transact(partition, [check]) == [await cosmos.get(partition, "a")]
        double.trouble.plan("batch", faults.cut(applied=True))
        with pytest.raises(ConditionFailed):
            await cosmos.transact(partition, [Check("a", (FieldIn("status", ("no",)),))])

    async def test_a_store_that_never_answers_is_unavailable(
        self,
        cosmos: CosmosStore,
        double: Double,
        partition: Partition,
    ) -> None:
        await begun(cosmos, partition)
        double.trouble.plan("batch", *[faults.cut(applied=False)] * cosmos_module.ATTEMPTS)
        with pytest.raises(Unavailable):
            await cosmos.transact(partition, [ADD, EVENT])
        assert double.trouble.pending() == 0
        assert (await cosmos.get(partition, "a"))["n"] == 0


class TestMeanwhile:
    """Between a lost answer and the second sending, somebody else writes."""

    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Awaitable[object]]], None]:
        def arrange(what: Callable[[], Awaitable[object]]) -> None:
            async def pause(_attempt: int) -> None:
                await what()

            monkeypatch.setattr(cosmos_module, "_pause", pause)

        return arrange

    async def test_a_refusal_then_is_an_answer(
        self,
        cosmos: CosmosStore,
        second: CosmosStore,
        double: Double,
        partition: Partition,
        meanwhile: Callable[..., None],
    ) -> None:
        """The first sending wasn't applied, or else its event would be there."""
        await begun(cosmos, partition)
        meanwhile(lambda: second.transact(partition, [Patch("a", set={"status": "cancelling"})]))
        double.trouble.plan("batch", faults.cut(applied=False))
        with pytest.raises(ConditionFailed) as caught:
            await cosmos.transact(partition, [EVENT, ADD])
        assert caught.value.op_index == 1
        with pytest.raises(NotFound):
            await cosmos.get(partition, "event")

    async def test_a_write_that_was_applied_counts_although_a_second_one_would_be_refused(
        self,
        cosmos: CosmosStore,
        second: CosmosStore,
        double: Double,
        partition: Partition,
        meanwhile: Callable[..., None],
    ) -> None:
        """A begin that landed before the cancel must not be told that it was refused: it would leave itself in flight."""
        await begun(cosmos, partition)
        meanwhile(lambda: second.transact(partition, [Patch("a", set={"status": "cancelling"})]))
        double.trouble.stale = True
        double.trouble.plan("batch", faults.cut(applied=True))
        run, event = await cosmos.transact(partition, [ADD, EVENT])
        assert run is not None and event is not None
        assert (run["n"], run["status"]) == (1, "cancelling")

    async def test_a_rival_that_created_the_same_document_leaves_doubt(
        self,
        cosmos: CosmosStore,
        second: CosmosStore,
        double: Double,
        partition: Partition,
        meanwhile: Callable[..., None],
    ) -> None:
        await begun(cosmos, partition)
        meanwhile(lambda: second.transact(partition, [EVENT]))
        double.trouble.plan("batch", faults.cut(applied=False))
        with pytest.raises(Unavailable):
            await cosmos.transact(partition, [EVENT])
        with pytest.raises(Conflict):
            await cosmos.transact(partition, [EVENT])

    async def test_a_later_write_does_not_hide_that_it_was_applied(
        self,
        cosmos: CosmosStore,
        second: CosmosStore,
        double: Double,
        partition: Partition,
        meanwhile: Callable[..., None],
    ) -> None:
        """A patch overwrites the version, but not who created the document."""
        double.trouble.stale = True
        meanwhile(lambda: second.transact(partition, [Patch("event", set={"seen": True})]))
        double.trouble.plan("batch", faults.cut(applied=True))
        [event] = await cosmos.transact(partition, [EVENT])
        assert event is not None and event["seen"] is True


async def test_under_random_faults_no_acknowledged_write_is_lost_or_doubled(
    cosmos: CosmosStore,
    second: CosmosStore,
    double: Double,
    partition: Partition,
) -> None:
    """Two processes count and create events while a third of their requests goes wrong. TRUESTOP_TEST_SEED repeats a run."""
    seed = int(os.environ.get("TRUESTOP_TEST_SEED", random.randrange(2**32)))
    print(f"TRUESTOP_TEST_SEED={seed}")
    dice = random.Random(seed)
    await begun(cosmos, partition)
    choices = [*(make(applied) for make in LOST.values() for applied in (False, True)), faults.throttled(0.001)]
    choices += [faults.status(449), faults.operation_status(449), faults.half_an_answer(), faults.garbled()]
    for kind, count in (("batch", 150), ("query", 80)):
        double.trouble.plan(kind, *(dice.choice(choices) if dice.random() < 0.35 else None for _ in range(count)))
    counted, created, doubtful = 0, set(), 0

    async def work(store: CosmosStore, lane: int) -> None:
        nonlocal counted, doubtful
        for index in range(10):
            name = f"e{lane}-{index}"
            ops: list[Op] = [ADD, Create(doc(name))] if index % 2 else [ADD]
            try:
                await store.transact(partition, ops)
            except (Unavailable, Throttled) as error:
                doubtful += isinstance(error, Unavailable)
                continue
            counted += 1
            created.update([name] if index % 2 else [])

    await asyncio.gather(*(work((cosmos, second)[lane % 2], lane) for lane in range(6)))
    double.trouble.clear()
    n = (await cosmos.get(partition, "a"))["n"]
    found = {one["id"] for one in (await cosmos.query(Query("run", partition, limit=1000))).items} - {"a"}
    assert counted <= n <= counted + doubtful
    assert created <= found
    assert counted > 20
