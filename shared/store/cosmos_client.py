"""The connection to Cosmos DB: one SDK client a process, its session, and what its errors mean to the port.

Three things of the SDK (azure-cosmos 4.17, asyncio) that this file works around:

- It sends a write again when the connection broke or the service said 503, though the first may have been applied: an
  increment would count twice. So the transport turns every such answer to a batch into `AnswerLost`, which no retry policy
  of the SDK knows; the store then finds out what happened.
- It doesn't remember the session token of a batch, so a read could miss the write before it. `SessionTokens` does, in
  place of the SDK's own session.
- It asks for the container's properties when it first needs them, and a missing container then looks like a missing
  document. So the container is read when the connection opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientConnectorError
from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError
from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError, CosmosResourceExistsError, CosmosResourceNotFoundError

from shared.errors import Misconfigured, StoreError, Throttled, TooLarge, Unavailable
from shared.store.limits import PARTITION_FIELDS
from shared.store.port import MAX_BYTES

ENDPOINT, KEY = "TRUESTOP_COSMOS_ENDPOINT", "TRUESTOP_COSMOS_KEY"
DATABASE, CONTAINER = "TRUESTOP_COSMOS_DATABASE", "TRUESTOP_COSMOS_CONTAINER"
_IS_BATCH = "x-ms-cosmos-is-batch-request"
_SESSION = "x-ms-session-token"
_RETRY_AFTER = "x-ms-retry-after-ms"
_SESSION_NOT_AVAILABLE = 1002
_THROTTLE_TRIES = 4
_THROTTLE_SECONDS = 3
"""For one request; a query's are counted twice over, as the SDK nests its retries."""
_UNINDEXED = ("definition", "input", "input_preview", "output_preview", "side_effects", "data", "error")
"""Fields that are only shown. Indexing them would add to the cost of every write."""


class AnswerLost(Exception):
    """A batch was sent and it isn't known whether it was applied. Not an `AzureError`: the SDK must not try again."""


class _Transport(AioHttpTransport):  # type: ignore[misc]
    """Says `AnswerLost` where a batch may have been applied although there is no good answer."""

    async def send(self, request: Any, **options: Any) -> Any:
        if request.headers.get(_IS_BATCH) != "True":
            return await super().send(request, **options)
        try:
            response = await self._send_file(request, options)
        except ServiceRequestError as error:
            if isinstance(error.inner_exception, ClientConnectorError):
                raise  # there was no connection to send it over
            raise AnswerLost(f"the connection broke: {error}") from error
        except AzureError as error:
            raise AnswerLost(str(error)) from error
        if response.status_code >= 500 or response.status_code in (408, 410):  # from whom, and how far did it get?
            raise AnswerLost(f"Cosmos DB answered with status {response.status_code}")
        return response

    async def _send_file(self, request: Any, options: Mapping[str, Any]) -> Any:
        """Send the body as a file: aiohttp warns about a large one that isn't."""
        body = request.data
        request.data = io.BytesIO(body.encode() if isinstance(body, str) else body)
        try:
            return await super().send(request, **options)
        finally:
            request.data = body


@dataclass(slots=True)
class SessionTokens:
    """The newest session token of each physical partition. Sent with every request, it makes reads see earlier writes.

    With one write region (a condition of the design) the newest is the one with the highest sequence number.
    """

    _latest: dict[str, tuple[tuple[int, int], str]] = field(default_factory=dict)

    def note(self, headers: Mapping[str, str], _result: object = None) -> None:
        """Take over what a response says. Also the SDK's `response_hook`."""
        for one in filter(None, headers.get(_SESSION, "").split(",")):
            range_id, _, text = one.partition(":")
            parts = text.split("#")
            numbers = [int(part) if part.lstrip("-").isdigit() else 0 for part in parts[:2]]
            age = (numbers[0], numbers[1]) if len(numbers) > 1 else (0, numbers[0])
            if range_id not in self._latest or age >= self._latest[range_id][0]:
                self._latest[range_id] = (age, text)

    @property
    def text(self) -> str | None:
        """For the SDK's `session_token`."""
        return ",".join(f"{range_id}:{text}" for range_id, (_, text) in self._latest.items()) or None


@dataclass(frozen=True, slots=True)
class CosmosAccount:
    """Where the documents are. `key` None: this process's own identity (managed identity in Azure, `az login` elsewhere)."""

    endpoint: str
    key: str | None
    database: str
    container: str
    timeout_seconds: float = 10.0
    """How long one request may stay without an answer."""
    endpoint_discovery: bool | None = None
    """Whether to ask the account where its regions are. None: unless it is on this machine, as emulators don't know where
    they are reached."""


def _discovers(account: CosmosAccount) -> bool:
    if account.endpoint_discovery is not None:
        return account.endpoint_discovery
    return urlsplit(account.endpoint).hostname not in ("localhost", "127.0.0.1", "::1")


@contextlib.asynccontextmanager
async def _client(account: CosmosAccount) -> AsyncIterator[CosmosClient]:
    """The SDK's client. It does not retry by itself, except where the service says that it did nothing (429)."""
    async with contextlib.AsyncExitStack() as stack:
        credential: Any = account.key
        if credential is None:
            try:
                from azure.identity.aio import DefaultAzureCredential
            except ImportError:
                raise Misconfigured(f"{KEY} is unset, and azure-identity is not installed", (KEY,)) from None
            credential = await stack.enter_async_context(DefaultAzureCredential())
        client = CosmosClient(
            account.endpoint,
            credential,
            transport=_Transport(),
            consistency_level="Session",
            enable_endpoint_discovery=_discovers(account),
            enable_compact_utf8_item_writes=True,
            connection_timeout=account.timeout_seconds,
            read_timeout=account.timeout_seconds,
            retry_connect=0,
            retry_read=0,
            retry_status=0,
            retry_throttle_total=_THROTTLE_TRIES,
            retry_throttle_backoff_max=_THROTTLE_SECONDS,
        )
        stack.push_async_callback(client.close)  # also when entering it fails half-way
        try:
            await client.__aenter__()
        except ValueError as error:
            raise Misconfigured(f"{ENDPOINT} or {KEY} can't be used: {error}", (ENDPOINT, KEY)) from error
        client.client_connection.session = None  # ours is complete; and the SDK's fails when a session isn't there yet
        yield client


class Connection:
    """The container, opened on first use and once only. An attempt to open that fails is made again at the next use."""

    def __init__(self, account: CosmosAccount) -> None:
        self.account = account
        self.session = SessionTokens()
        self._stack = contextlib.AsyncExitStack()
        self._container: Any = None  # a ContainerProxy, whose overloads are too narrow for options built up
        self._opening = asyncio.Lock()

    async def container(self) -> Any:
        """The container. Raises `Throttled`; `Unavailable`, with a message that names the setting to look at."""
        if self._container is not None:
            return self._container
        async with self._opening:
            if self._container is None:
                async with contextlib.AsyncExitStack() as stack:
                    try:
                        client = await stack.enter_async_context(_client(self.account))
                        container = client.get_database_client(self.account.database).get_container_client(
                            self.account.container
                        )
                        await container.read()
                    except (AzureError, OSError) as error:
                        raise store_error(error, self.account) from error
                    self._stack = stack.pop_all()
                    self._container = container
            return self._container

    async def close(self) -> None:
        """Close the client and its connections. Idempotent."""
        async with self._opening:
            self._container = None
            await self._stack.aclose()


def store_error(error: Exception, account: CosmosAccount) -> StoreError:
    """What an error of the SDK means, for anything but a batch's own refusal."""
    if isinstance(error, StoreError):
        return error
    if not isinstance(error, CosmosHttpResponseError):
        if isinstance(error, ClientAuthenticationError):
            return Misconfigured(f"no identity to reach Cosmos DB with; set {KEY} or sign in: {error}", (KEY,))
        return Unavailable(f"Cosmos DB at {account.endpoint} ({ENDPOINT}) can't be reached: {error}", (ENDPOINT,))
    if error.status_code == 429:
        return Throttled(retry_after(error.headers))
    if error.status_code == 413:
        return TooLarge("bytes in a request", MAX_BYTES + 1, MAX_BYTES)
    if error.status_code == 404 and error.sub_status != _SESSION_NOT_AVAILABLE:
        return Misconfigured(
            f"there is no container {account.container!r} in database {account.database!r}; look at"
            f" {CONTAINER} and {DATABASE}, or make it with `python -m truestop.admin init`",
            (CONTAINER, DATABASE),
        )
    said = f"Cosmos DB answered with status {error.status_code}"
    if error.status_code in _REFUSALS:
        return Misconfigured(f"{said}{_REFUSALS[error.status_code]}: {error.http_error_message or ''}", (KEY, ENDPOINT))
    return Unavailable(f"{said}: {error.http_error_message or ''}")


_REFUSALS = {
    401: f" (look at {KEY}, and at this machine's clock)",
    403: " (no permission, a firewall, or this machine's clock; with an identity, it needs the role"
    " Cosmos DB Built-in Data Contributor)",
}


def retry_after(headers: Mapping[str, str] | None) -> float:
    """How long to wait, in seconds, as a throttled answer says."""
    text = (headers or {}).get(_RETRY_AFTER, "")
    return int(text) / 1000 if text.isdigit() else 1.0


async def initialise(account: CosmosAccount) -> None:
    """Create the database and the container if they are missing, and check the container if it is there.

    Raises `Throttled` and `Unavailable`; `ValueError` for a container with another partition key, or without time to live.
    """
    excluded = ['/"_etag"/?', *(f"/{name}/?" for name in ("_v", "_g", "_born")), *(f"/{name}/*" for name in _UNINDEXED)]
    # Only the ranges of single fields: the store settles ties itself, so no query needs a composite index.
    policy: dict[str, Any] = {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": "/*"}],
        "excludedPaths": [{"path": one} for one in excluded],
    }
    paths = [f"/{name}" for name in PARTITION_FIELDS]
    try:
        async with _client(account) as client:
            found = await _made(client, account, PartitionKey(path=paths, kind="MultiHash"), policy)
    except CosmosResourceNotFoundError as error:
        raise Unavailable(f"Cosmos DB answered with status 404: {error.http_error_message or ''}") from error
    except (AzureError, OSError) as error:
        raise store_error(error, account) from error
    if found["partitionKey"]["paths"] != paths:
        raise ValueError(
            f"container {account.container!r} has partition key {found['partitionKey']['paths']}, not {paths}"
        )
    if "defaultTtl" not in found:
        raise ValueError(
            f"container {account.container!r} has time to live switched off; switch it on, without a default"
        )


async def _made(
    client: CosmosClient, account: CosmosAccount, key: PartitionKey, policy: dict[str, Any]
) -> Mapping[str, Any]:
    """The container's properties, once it is there. Somebody else may be making it at the same time."""
    for last_try in (False, False, True):
        try:
            database = await client.create_database_if_not_exists(account.database)
            container = await database.create_container_if_not_exists(
                account.container,
                key,
                indexing_policy=policy,
                default_ttl=-1,  # documents live for ever, unless they say otherwise
            )
            return await container.read()
        except CosmosResourceExistsError:
            if last_try:
                raise
    raise AssertionError("the last try answers or raises")
