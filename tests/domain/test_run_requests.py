"""Runs that other systems ask for over the queue: only what their sender may, once for each key, and never again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from shared import workflows
from shared.errors import Unavailable
from shared.executions import RunRef, run_ref
from shared.names import QUEUE_RUN_REQUESTS, DocumentType
from shared.queue_intake import REJECTED
from shared.queues import MAX_BODY, POISON
from shared.run_requests import MAX_TRIES, handle
from shared.store.port import Document, Op, Partition, Query
from tests.support.orchestrations import FakeOrchestrations
from tests.support.world import RecordingStore, World

ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.word}}"}}
TOKEN = "t" * 40
SENDERS = [{"sender": "billing", "token": TOKEN}, {"sender": "sales", "token": "s" * 40}]


class Asked:
    """A workflow that `billing` and `sales` may ask for, and the Durable side."""

    def __init__(self, world: World, workflow: Document) -> None:
        self.world, self.durable = world, FakeOrchestrations()
        self.partition = Partition(workflow["scope"], workflow["workflow_id"])

    def message(self, **more: Any) -> str:
        """A good message, but for `more`."""
        where = {"scope": self.partition.scope, "workflow_id": self.partition.workflow_id}
        whole = {**where, "sender": "billing", "token": TOKEN, "key": "order-1", "input": {"word": "hi"}, **more}
        return json.dumps({name: value for name, value in whole.items() if value is not ...})

    async def ask(self, text: str | None = None, **more: Any) -> str:
        """Deliver a message."""
        return await handle(self.world.services, self.durable, self.message(**more) if text is None else text)

    async def runs(self) -> list[Document]:
        """The workflow's runs, oldest first."""
        query = Query(DocumentType.RUN, self.partition, order_by="created_at", limit=1000)
        return (await self.world.store.query(query)).items

    async def waiting(self) -> list[tuple[dict[str, Any], float]]:
        """The messages on the queue and how long each is hidden."""
        assert self.world.services.database is not None
        sql = "SELECT body, visible_at - inserted_at FROM queue_messages WHERE queue = ?"
        await self.world.services.queue.peek(QUEUE_RUN_REQUESTS)
        return [
            (json.loads(body), hidden)
            for body, hidden in self.world.services.database.fetch(sql, (QUEUE_RUN_REQUESTS,))
        ]

    async def poisoned(self) -> list[dict[str, Any]]:
        return await self.world.services.queue.peek(QUEUE_RUN_REQUESTS + POISON)

    async def rejected(self) -> list[Document]:
        return (await self.world.store.query(Query(DocumentType.REJECTED, REJECTED, limit=100))).items


@pytest.fixture
async def asked(world: World) -> Asked:
    return Asked(world, await world.workflow(ECHO, run_requests=SENDERS))


async def test_a_request_starts_a_run_in_its_senders_name(asked: Asked) -> None:
    """Guards the whole way, and that people see who asked."""
    assert await asked.ask() == "started"
    (run,) = await asked.runs()
    assert run["trigger"] == {"kind": "request", "key": "billing:order-1"}
    assert run["requested_by"] == {"id": "sender:billing", "name": "billing"}
    assert asked.durable.started == [run["instance_id"]]
    assert await asked.world.drive(run_ref(run)) == "completed"
    assert (await asked.world.executions(run_ref(run)))["s01.c0"]["output_preview"] == "hi"
    assert TOKEN not in json.dumps(run)


async def test_a_key_starts_one_run_whatever_became_of_it(asked: Asked) -> None:
    """Guards at-least-once delivery and senders that repeat themselves, also after a cancel: nothing starts again."""
    await asked.ask()
    (run,) = await asked.runs()
    await asked.world.cancel(run_ref(run))
    await asked.world.drive(run_ref(run))
    for _ in range(10):
        assert await asked.ask() == "repeated"
    assert [one["status"] for one in await asked.runs()] == ["cancelled"]
    assert asked.durable.started == [run["instance_id"]]
    assert await asked.ask(key="order-2") == "started"


async def test_two_senders_keys_are_their_own(asked: Asked) -> None:
    """Guards a request that another sender's would swallow."""
    await asked.ask()
    (run,) = await asked.runs()
    await asked.world.drive(run_ref(run))
    assert await asked.ask(sender="sales", token="s" * 40) == "started"


async def test_copies_of_a_message_at_once_start_one_run(asked: Asked) -> None:
    """Guards the race of two deliveries."""
    outcomes = await asyncio.gather(*(asked.ask() for _ in range(5)))
    assert sorted(outcomes) == ["repeated"] * 4 + ["started"]
    assert len(await asked.runs()) == 1


async def test_a_run_whose_instance_was_not_started_is_started_by_the_next_delivery(asked: Asked) -> None:
    """Guards the crash, or the failure, between accepting the run and starting its orchestration."""
    asked.durable.fails = Exception("Durable is away")
    assert await asked.ask() == "started"
    assert asked.durable.started == []
    asked.durable.fails = None
    assert await asked.ask() == "repeated"
    assert len(asked.durable.started) == 1


async def test_a_store_that_is_away_keeps_a_request_waiting_and_loses_none(asked: Asked) -> None:
    """Guards the request that was neither started nor recorded: the host would give it up within seconds."""
    store = RecordingStore(asked.world.store)

    async def away(_: Sequence[Op]) -> None:
        raise Unavailable("away")

    store.before = away
    services = replace(asked.world.services, store=store)
    assert await handle(services, asked.durable, asked.message()) == "waiting"
    for text in (asked.message(tries=MAX_TRIES), "nonsense"):
        with pytest.raises(Unavailable):
            await handle(services, asked.durable, text)
    ((body, hidden),) = await asked.waiting()
    assert round(hidden) == 30
    assert await asked.ask(json.dumps(body)) == "started"


async def test_while_the_workflow_is_busy_a_request_waits_longer_each_time_and_then_is_skipped(asked: Asked) -> None:
    """Guards bounded patience, and a person's question what became of the request."""
    await asked.ask()
    text = asked.message(key="order-2")
    pauses = []
    for _ in range(MAX_TRIES - 1):
        assert await asked.ask(text) == "waiting"
        (body, hidden) = (await asked.waiting())[-1]
        text = json.dumps(body)
        pauses.append(round(hidden))
    assert pauses == [30, 120, 480, 1920]
    assert await asked.ask(text) == "skipped"
    first, skipped = await asked.runs()
    assert (skipped["status"], skipped["trigger"]["key"]) == ("skipped", "billing:order-2")
    assert skipped["error"]["message"] == f"run {first['id']} is active at each of 5 tries"
    (kept,) = await asked.poisoned()
    assert kept["reason"] == skipped["error"]["message"]
    assert json.loads(kept["message"])["key"] == "order-2"
    assert TOKEN not in json.dumps(kept)
    await asked.world.drive(run_ref(first))
    assert await asked.ask(text) == "repeated"
    assert await asked.ask(asked.message(key="order-2")) == "repeated"


async def test_a_waiting_request_starts_when_the_workflow_is_free(asked: Asked) -> None:
    """Guards the message that we send ourselves: it is as good as the first."""
    await asked.ask()
    (first,) = await asked.runs()
    await asked.ask(key="order-2")
    ((body, _),) = await asked.waiting()
    await asked.world.drive(run_ref(first))
    assert await asked.ask(json.dumps(body)) == "started"
    assert (await asked.runs())[1]["input"] == {"word": "hi"}


async def test_a_disabled_workflow_gets_a_skipped_run_that_says_so(asked: Asked) -> None:
    """Guards a switch that people trust: nothing starts, and the request doesn't vanish."""
    await workflows.change(asked.world.services, asked.partition, {"enabled": False}, None, merge=True)
    assert await asked.ask() == "skipped"
    (run,) = await asked.runs()
    assert (run["status"], run["error"]["message"]) == ("skipped", "the workflow is disabled")
    assert await asked.world.idle(RunRef(*asked.partition, run["id"], 1))


NOT_OURS = "0" * 26


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"token": "u" * 40}, "sender_not_allowed"),
        ({"token": "s" * 40}, "sender_not_allowed"),
        ({"sender": "nobody"}, "sender_not_allowed"),
        ({"workflow_id": NOT_OURS}, "workflow_not_found"),
        ({"scope": "user:bob"}, "workflow_not_found"),
        ({"scope": "system"}, "invalid"),
        ({"scope": "user:../alice"}, "invalid"),
        ({"workflow_id": "a/b"}, "invalid"),
        ({"key": ...}, "invalid"),
        ({"key": "a/b"}, "invalid"),
        ({"key": "x" * 129}, "invalid"),
        ({"key": "a\n"}, "invalid"),
        ({"key": 7}, "invalid"),
        ({"token": ...}, "invalid"),
        ({"tries": 6}, "invalid"),
        ({"DequeueCount": 1}, "invalid"),
        ({"input": "x" * MAX_BODY}, "body_too_large"),
    ],
)
async def test_what_a_sender_may_not_ask_is_rejected_at_once_and_found_by_operators(
    asked: Asked, more: dict[str, Any], code: str
) -> None:
    """Guards the workflow, and the sender's people: a record with the reason, no endless tries, no token kept."""
    for _ in range(2):
        assert await asked.ask(**more) == "rejected"
    assert await asked.runs() == []
    (record,) = await asked.rejected()
    assert (record["queue"], record["error"]["code"]) == (QUEUE_RUN_REQUESTS, code)
    assert record["ttl"] > 0
    assert all(one["reason"] for one in await asked.poisoned())
    kept = json.dumps([record, await asked.poisoned()])
    assert all(token * 32 not in kept for token in "tus")


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[1]", "null", '{"a": NaN}', '{"input": 1e999}', '{"input": "\\ud800"}', "[" * 40_000, "\ud800"],
)
async def test_what_is_not_a_json_object_is_rejected_at_once(asked: Asked, text: str) -> None:
    """Guards the queue against messages that nobody can ever work on."""
    assert await asked.ask(text) == "rejected"
    (record,) = await asked.rejected()
    assert record["error"]["code"] in ("malformed_json", "invalid")
    assert len(await asked.poisoned()) == 1


async def test_no_token_lets_a_sender_in_where_none_was_allowed(world: World) -> None:
    """Guards the default: a workflow takes no requests."""
    asked = Asked(world, await world.workflow(ECHO))
    assert await asked.ask() == "rejected"
    assert await asked.runs() == []


async def test_a_removed_sender_may_ask_no_more(asked: Asked) -> None:
    """Guards revoking: it counts at once, for messages that already wait too."""
    await workflows.change(asked.world.services, asked.partition, {"run_requests": None}, None, merge=True)
    assert await asked.ask() == "rejected"
