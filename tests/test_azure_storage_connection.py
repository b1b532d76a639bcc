"""How the Azure Storage account is named by settings, and what a wrong one is told."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import Any

import azure.identity.aio
import pytest
from azure.core.exceptions import ClientAuthenticationError

from shared.azure_storage import connection_from
from shared.blobs_azure import AzureBlobs
from shared.errors import Unavailable
from shared.queues_azure import AzureQueue
from shared.settings import SettingsError
from tests.support import azurite

NAME = "AzureWebJobsStorage"
KEY = "c2VjcmV0"
URIS = {f"{NAME}__blobServiceUri": "https://blobs.example", f"{NAME}__queueServiceUri": "https://queues.example"}


class FakeCredential:
    """Remembers how it was made, and opens nothing."""

    made: list[tuple[str, dict[str, Any], FakeCredential]]

    def __init__(self, **given: Any) -> None:
        self.made.append((type(self).__name__, given, self))
        self.closed = False

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        raise ClientAuthenticationError("no identity here")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], FakeCredential]]:
    """The credentials made so far."""
    made: list[tuple[str, dict[str, Any], FakeCredential]] = []
    for name in ("DefaultAzureCredential", "ManagedIdentityCredential"):
        monkeypatch.setattr(azure.identity.aio, name, type(name, (FakeCredential,), {"made": made}))
    return made


async def urls(environment: dict[str, str], name: str = NAME) -> tuple[str, str]:
    """Where blobs and queues are, as the SDK understands it."""
    connection = connection_from(environment, name)
    async with AsyncExitStack() as stack:
        return connection.blobs(stack).url.rstrip("/"), connection.queues(stack).url.rstrip("/")


@pytest.mark.parametrize(
    ("text", "blobs", "queues"),
    [
        (
            "UseDevelopmentStorage=true",
            "http://127.0.0.1:10000/devstoreaccount1",
            "http://127.0.0.1:10001/devstoreaccount1",
        ),
        (
            " usedevelopmentstorage=True; ",
            "http://127.0.0.1:10000/devstoreaccount1",
            "http://127.0.0.1:10001/devstoreaccount1",
        ),
        (
            f"DefaultEndpointsProtocol=https;AccountName=mine;AccountKey={KEY};EndpointSuffix=core.windows.net",
            "https://mine.blob.core.windows.net",
            "https://mine.queue.core.windows.net",
        ),
        (
            f"AccountName=x;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:1/x;QueueEndpoint=http://127.0.0.1:2/x;",
            "http://127.0.0.1:1/x",
            "http://127.0.0.1:2/x",
        ),
    ],
)
async def test_a_connection_string_names_the_account(text: str, blobs: str, queues: str) -> None:
    assert await urls({NAME: text}) == (blobs, queues)
    assert await urls({"Other": text}, "Other") == (blobs, queues)
    assert await urls({NAME: text, **URIS}) == (blobs, queues)  # as in the host


async def test_an_account_without_keys_is_opened_by_identity(made: list[Any]) -> None:
    """What the Bicep template sets, as the Functions host spells it."""
    assert await urls(URIS) == ("https://blobs.example", "https://queues.example")
    account = {f"{NAME}__accountName": "mine", f"{NAME}__clientId": "1234"}
    where = ("https://mine.blob.core.windows.net", "https://mine.queue.core.windows.net")
    assert await urls(account) == where
    assert await urls({**account, f"{NAME}__credential": "managedIdentity"}) == where
    assert [(kind, given) for kind, given, _ in made[::2]] == [
        ("DefaultAzureCredential", {"managed_identity_client_id": None}),
        ("DefaultAzureCredential", {"managed_identity_client_id": "1234"}),
        ("ManagedIdentityCredential", {"client_id": "1234"}),
    ]
    assert all(credential.closed for _, _, credential in made)


async def test_an_identity_that_gets_no_token_is_unavailable(made: list[Any]) -> None:
    connection = connection_from(URIS)
    blobs, queues = AzureBlobs(connection, "truestop"), AzureQueue(connection)
    for call in (lambda: blobs.get("a"), lambda: queues.peek("q-1")):
        with pytest.raises(Unavailable, match=f"{NAME}: we can't sign in to the account: no identity here"):
            await call()
    for one in (blobs, queues):
        await one.close()
    assert all(credential.closed for _, _, credential in made)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, f"{NAME} is not set.*UseDevelopmentStorage.*{NAME}__blobServiceUri"),
        ({NAME: "  "}, f"{NAME} is not set"),
        ({NAME: "nonsense"}, f"{NAME} is not a storage connection string"),
        ({NAME: f"AccountKey={KEY}"}, f"{NAME} is not a storage connection string"),
        ({NAME: f"AccountName=x;AccountKey={KEY};oops"}, f"{NAME} is not a storage connection string"),
        ({**URIS, f"{NAME}__blobServiceUri": "http://blobs.example"}, f"{NAME}__blobServiceUri must be an https URL"),
        ({**URIS, f"{NAME}__queueServiceUri": "https://"}, f"{NAME}__queueServiceUri must be an https URL"),
        ({**URIS, f"{NAME}__credential": "workload"}, f"{NAME}__credential must be 'managedidentity'"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        connection_from(environment)
    assert KEY not in str(caught.value)


async def test_a_service_that_is_not_named_is_missed_when_it_is_wanted(made: list[Any]) -> None:
    connection = connection_from({f"{NAME}__blobServiceUri": "https://blobs.example"})
    await AzureBlobs(connection, "truestop").close()
    with pytest.raises(SettingsError, match=f"{NAME}__queueServiceUri is not set"):
        AzureQueue(connection)
    with pytest.raises(SettingsError, match=f"{NAME} can't be used"):
        AzureQueue(connection_from({NAME: "BlobEndpoint=https://blobs.example"}))


def test_the_sdk_does_not_log_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless someone asked for it: a worker passes INFO on to Application Insights, for money."""
    logger = logging.getLogger("azure.core.pipeline.policies.http_logging_policy")
    for before, after in ((logging.NOTSET, logging.WARNING), (logging.DEBUG, logging.DEBUG)):
        monkeypatch.setattr(logger, "level", before)
        connection_from({NAME: "UseDevelopmentStorage=true"})
        assert logger.level == after


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_node_the_contract_is_skipped_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """A contract that CI leaves out by accident protects nobody."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Node"), azurite.azurite():
        pass
