"""File Sync while the document store is away: nothing is lost, and the blob trigger has nothing to poison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import Throttled, Unavailable
from shared.file_messages import MAX_DEFERRED, deliver
from shared.file_sync import Arrival
from tests.support.inbox import Inbox, inbox_of
from tests.support.world import World


class Away:
    """A store that does nothing but refuse."""

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_arguments: Any) -> Any:
            raise (Throttled(1) if name == "get" else Unavailable("away"))

        return refuse


@pytest.fixture
async def inbox(world: World, tmp_path: Path) -> Inbox:
    return await inbox_of(world, tmp_path)


async def test_an_arrival_waits_for_the_store(inbox: Inbox) -> None:
    """Guards against five failures in a row, after which the host forgets a blob."""
    store, inbox.services.store = inbox.services.store, Away()
    inbox.drop("a.txt")
    assert await inbox.deliver("a.txt") == "deferred"
    await inbox.later(1000)
    assert len(inbox.sent) == 1
    assert inbox.delivered < 12
    inbox.services.store = store
    await inbox.later(310)
    assert await inbox.paths() == [["a.txt"]]
    assert await inbox.at_rest()


async def test_a_burst_waits_for_the_store(inbox: Inbox) -> None:
    """Guards a burst whose message comes while the store is away: it is neither dropped nor poison."""
    await inbox.put("a.txt")
    store, inbox.services.store = inbox.services.store, Away()
    await inbox.later(1000)
    inbox.services.store = store
    await inbox.later(310)
    assert await inbox.paths() == [["a.txt"]]
    assert await inbox.at_rest()


async def test_waiting_for_the_store_has_an_end(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    """Guards the queue against a message that goes round for ever."""
    store, inbox.services.store = inbox.services.store, Away()
    inbox.drop("a.txt")
    await inbox.deliver("a.txt")
    await inbox.later(MAX_DEFERRED * 301)
    inbox.services.store = store
    assert inbox.sent == []
    assert "file_sync_given_up" in caplog.text
    assert inbox.delivered == MAX_DEFERRED


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, '{"delivery": {}, "times": 1}', '{"blob": 1}'])
async def test_a_message_that_means_nothing_is_dropped(inbox: Inbox, text: str) -> None:
    """Guards the queue: no text makes its function fail, and so come again."""
    assert await inbox.handle(text) == "invalid"


async def test_a_blob_of_any_name_is_dealt_with(inbox: Inbox) -> None:
    """Guards the trigger against names that no file of ours has."""
    assert await deliver(inbox.services, "", inbox.now) == Arrival.NOBODYS
    for path in ("", "x" * 5000, "\ud7ff\ue000", "a//b", "%2e%2e/a.txt", "CON.txt", "a.txt "):
        assert await inbox.deliver(path) in (Arrival.NOBODYS, Arrival.PENDING, Arrival.GONE)
    await inbox.later(10)
    assert await inbox.at_rest()
