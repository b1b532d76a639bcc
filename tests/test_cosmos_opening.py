"""Opening the Cosmos DB store: once, with a message that names the setting if it fails; and the command that sets it up."""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import asyncio
import base64
import socket
import sys
import uuid
from dataclasses import replace

import pytest

from shared.errors import NotFound, StoreError, Unavailable
from shared.store.cosmos import CosmosStore
from shared.store.cosmos_client import CosmosAccount, initialise
from shared.store.port import (
    Create,
    Document,
    Partition,
)
from tests.cosmos_double.fixtures import account_of, cosmos, cosmos_server, doc, double, partition  # noqa: F401
from tests.cosmos_double.server import Double
from truestop import admin


class TestOpening:
    async def test_the_container_is_opened_once(
        self, cosmos: CosmosStore, double: Double, partition: Partition
    ) -> None:
        results = await asyncio.gather(*(cosmos.get(partition, "a") for _ in range(8)), return_exceptions=True)
        assert all(isinstance(one, NotFound) for one in results)
        assert double.trouble.seen["container"] == 1

    @pytest.mark.parametrize(
        ("change", "setting"),
        [
            ({"key": base64.b64encode(b"another key").decode()}, "TRUESTOP_COSMOS_KEY"),
            ({"key": "no key"}, "TRUESTOP_COSMOS_KEY"),
            ({"container": "other"}, "TRUESTOP_COSMOS_CONTAINER"),
            ({"database": "other"}, "TRUESTOP_COSMOS_DATABASE"),
            ({"endpoint": "nonsense"}, "TRUESTOP_COSMOS_ENDPOINT"),
        ],
    )
    async def test_a_wrong_setting_is_named(
        self, double: Double, partition: Partition, change: dict[str, str], setting: str
    ) -> None:
        """And it isn't taken for a missing document."""
        store = CosmosStore(replace(account_of(double), **change))  # type: ignore[arg-type]
        try:
            with pytest.raises(Unavailable, match=setting):
                await store.get(partition, "a")
        finally:
            await store.close()

    async def test_a_clock_that_is_wrong_is_mentioned(self, double: Double, partition: Partition) -> None:
        double.trouble.clock_offset = 3600
        store = CosmosStore(account_of(double))
        with pytest.raises(Unavailable, match="clock"):
            await store.get(partition, "a")
        double.trouble.clock_offset = 0
        with pytest.raises(NotFound):  # it opens as soon as it can
            await store.get(partition, "a")
        await store.close()

    async def test_nobody_there_is_unavailable(self, double: Double, partition: Partition) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}/"
            store = CosmosStore(replace(account_of(double), endpoint=endpoint))
            for call in (store.get(partition, "a"), store.transact(partition, [Create(doc("a"))])):
                with pytest.raises(Unavailable, match="TRUESTOP_COSMOS_ENDPOINT"):
                    await call
            await store.close()

    async def test_an_identity_needs_its_package(
        self, double: Double, partition: Partition, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
        store = CosmosStore(replace(account_of(double), key=None))
        with pytest.raises(Unavailable, match="azure-identity"):
            await store.get(partition, "a")
        await store.close()


def admin_settings(account: CosmosAccount, **changes: str) -> dict[str, str]:
    settings = {"TRUESTOP_COSMOS_ENDPOINT": account.endpoint, "TRUESTOP_COSMOS_KEY": account.key or ""}
    return settings | {f"TRUESTOP_COSMOS_{name.upper()}": value for name, value in changes.items()}


class TestInit:
    def test_it_makes_what_is_missing_and_keeps_what_is_there(
        self, double: Double, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = admin_settings(account_of(double), database=f"db-{uuid.uuid4().hex}")
        for _ in range(2):
            assert admin.main(["init"], settings) == 0
            assert "is ready" in capsys.readouterr().out
        [container] = double.account.databases[settings["TRUESTOP_COSMOS_DATABASE"]].values()
        assert container.definition["partitionKey"] == {
            "paths": ["/scope", "/workflow_id"],
            "kind": "MultiHash",
            "version": 2,
        }
        assert container.definition["defaultTtl"] == -1

    @pytest.mark.parametrize(
        ("made", "complaint"),
        [
            ({"partitionKey": {"paths": ["/id"], "kind": "Hash", "version": 2}, "defaultTtl": -1}, "partition key"),
            (
                {"partitionKey": {"paths": ["/scope", "/workflow_id"], "kind": "MultiHash", "version": 2}},
                "time to live",
            ),
        ],
    )
    def test_a_container_that_will_not_do_is_refused(
        self, double: Double, capsys: pytest.CaptureFixture[str], made: Document, complaint: str
    ) -> None:
        name = f"db-{uuid.uuid4().hex}"
        double.account.make(name, {"id": "truestop", **made})
        assert admin.main(["init"], admin_settings(account_of(double), database=name)) == 1
        assert complaint in capsys.readouterr().err

    def test_what_is_wrong_is_said(self, double: Double, capsys: pytest.CaptureFixture[str]) -> None:
        assert admin.main(["init"], {}) == 1
        assert "TRUESTOP_COSMOS_ENDPOINT" in capsys.readouterr().err
        assert admin.main(["init"], admin_settings(account_of(double), key="no key")) == 1
        assert "TRUESTOP_COSMOS_KEY" in capsys.readouterr().err

    async def test_two_at_once_agree(self, double: Double) -> None:
        account = replace(account_of(double), database=f"db-{uuid.uuid4().hex}")
        results = await asyncio.gather(*(initialise(account) for _ in range(3)), return_exceptions=True)
        assert [one for one in results if isinstance(one, StoreError)] == []
        assert results.count(None) == 3
