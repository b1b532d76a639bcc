"""How this app reaches an Azure Storage account, and what that account's errors mean to us. For blobs and queues alike.

A connection is read as the Functions host reads it, so one setting serves its triggers and us: `NAME` is a connection
string, or `NAME__blobServiceUri`, `NAME__queueServiceUri` (or `NAME__accountName`), `NAME__credential` and
`NAME__clientId` say where the account is and which identity opens it.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import BlobServiceClient, LinearRetry
from azure.storage.queue.aio import QueueServiceClient

from shared.errors import Misconfigured, NotFound, StoreError, Throttled, Unavailable
from shared.settings import SettingsError

SETTING = "AzureWebJobsStorage"
API_VERSION = "2025-07-05"
"""Older than what the SDK would choose, because Azurite refuses versions that it doesn't know."""

# Three attempts within two seconds: whoever calls us retries too, and must not wait behind the SDK's default of 15 s a try.
RETRIES = 2
BACKOFF_SECONDS = 0.5
CONNECT_SECONDS = 3
SILENCE_SECONDS = 20
CALL_SECONDS = 120.0
BUSY_SECONDS = 1.0
PIECEMEAL_BYTES = 512 * 1024

_GONE = ("BlobNotFound", "MessageNotFound", "PopReceiptMismatch")
_MADE = ("ContainerAlreadyExists", "QueueAlreadyExists")
_NOT_MADE = ("ContainerNotFound", "QueueNotFound")

Client = TypeVar("Client", BlobServiceClient, QueueServiceClient)


@dataclass(frozen=True, slots=True)
class StorageConnection:
    """Where the account is and who we are to it. `setting` is what messages name."""

    setting: str
    connection_string: str | None = field(default=None, repr=False)
    blob_uri: str | None = None
    queue_uri: str | None = None
    managed_identity: bool = False
    client_id: str | None = None

    def check(self) -> None:
        """Raises `SettingsError` if one of the services that we use has no address."""
        for service, uri in (("blob", self.blob_uri), ("queue", self.queue_uri)):
            if self.connection_string is None and uri is None:
                raise SettingsError(f"{self.setting}__{service}ServiceUri is not set")

    def blobs(self, closing: AsyncExitStack, **options: Any) -> BlobServiceClient:
        """A client of the blob service, closed (with its credential) by `closing`. Raises `SettingsError`."""
        return self._client(BlobServiceClient, "blob", self.blob_uri, closing, options)

    def queues(self, closing: AsyncExitStack) -> QueueServiceClient:
        """A client of the queue service, closed (with its credential) by `closing`. Raises `SettingsError`."""
        return self._client(QueueServiceClient, "queue", self.queue_uri, closing, {})

    def _client(
        self, kind: type[Client], service: str, uri: str | None, closing: AsyncExitStack, options: Mapping[str, Any]
    ) -> Client:
        common = {
            **options,
            "api_version": API_VERSION,
            "retry_policy": LinearRetry(
                backoff=BACKOFF_SECONDS,  # type: ignore[arg-type] # declared int, works as float
                retry_total=RETRIES,
                random_jitter_range=BACKOFF_SECONDS / 2,  # type: ignore[arg-type]
            ),
            "transport": _Transport(connection_timeout=CONNECT_SECONDS, read_timeout=SILENCE_SECONDS),
        }
        try:
            if self.connection_string is not None:
                client = kind.from_connection_string(self.connection_string, **common)
            elif uri is None:
                raise SettingsError(f"{self.setting}__{service}ServiceUri is not set")
            else:
                client = kind(uri, self._credential(closing), **common)
        except ValueError as error:
            if isinstance(error, SettingsError):
                raise
            raise SettingsError(f"{self.setting} can't be used: {error}") from None
        closing.push_async_callback(client.close)
        return client

    def _credential(self, closing: AsyncExitStack) -> Any:
        from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

        if self.managed_identity:
            credential: Any = ManagedIdentityCredential(client_id=self.client_id)
        else:
            credential = DefaultAzureCredential(managed_identity_client_id=self.client_id)
        closing.push_async_callback(credential.close)
        return credential


def connection_from(environment: Mapping[str, str], setting: str = SETTING) -> StorageConnection:
    """The connection that `setting` describes. A connection string wins, as in the host. Raises `SettingsError`."""
    _quiet()
    if text := environment.get(setting, "").strip():
        return StorageConnection(setting, connection_string=_checked(setting, text))
    account = environment.get(f"{setting}__accountName")
    kind = environment.get(f"{setting}__credential", "").strip().lower()
    if kind not in ("", "managedidentity"):
        raise SettingsError(f"{setting}__credential must be 'managedidentity' or unset, not {kind!r}")
    uris = {service: _uri(environment, setting, service, account) for service in ("blob", "queue")}
    if not any(uris.values()):
        raise SettingsError(
            f"{setting} is not set: give a connection string (with Azurite: UseDevelopmentStorage=true), "
            f"or {setting}__blobServiceUri and {setting}__queueServiceUri"
        )
    client_id = environment.get(f"{setting}__clientId") or None
    return StorageConnection(setting, None, uris["blob"], uris["queue"], kind == "managedidentity", client_id)


def _checked(setting: str, text: str) -> str:
    parts = [part.partition("=") for part in text.split(";") if part.strip()]
    given = {name.strip().lower(): value.strip() for name, _, value in parts}
    if given.get("usedevelopmentstorage", "").lower() == "true":
        return "UseDevelopmentStorage=true"  # the one spelling that the SDK takes
    if not all(equals for _, equals, _ in parts) or not {"accountname", "blobendpoint", "queueendpoint"} & given.keys():
        raise SettingsError(f"{setting} is not a storage connection string (AccountName=…;AccountKey=…;…)")
    try:
        b64decode(given.get("accountkey", ""), validate=True)
    except ValueError:
        raise SettingsError(f"{setting} has an AccountKey that is not Base64, so it can't be an account's") from None
    return text


def _uri(
    environment: Mapping[str, str], setting: str, service: Literal["blob", "queue"], account: str | None
) -> str | None:
    name = f"{setting}__{service}ServiceUri"
    uri = environment.get(name) or (f"https://{account}.{service}.core.windows.net" if account else None)
    if uri is not None and (urlsplit(uri).scheme != "https" or not urlsplit(uri).hostname):
        raise SettingsError(f"{name} must be an https URL, not {uri!r}")
    return uri


def _quiet() -> None:
    """The SDK logs each request at INFO, which a Functions worker passes on: keep that for those who ask for it."""
    logger = logging.getLogger("azure.core.pipeline.policies.http_logging_policy")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


@asynccontextmanager
async def translated(setting: str, name: str) -> AsyncIterator[None]:
    """Bound what is within in time, and raise what the SDK raises there as a `StoreError`.

    `name` is the blob, message, container or queue that is meant.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS):
            yield
    except HttpResponseError as error:
        if _code(error) in _GONE:
            raise NotFound(name) from None
        raise _refusal(setting, name, error) from error
    except TimeoutError as error:
        raise Unavailable(f"{setting}: no answer within {CALL_SECONDS:g} s", (setting,)) from error
    except (AzureError, OSError) as error:
        raise Unavailable(f"{setting}: the account can't be reached: {_first_line(error)}", (setting,)) from error
    except ValueError as error:  # what the SDK makes of an answer that no storage account gives
        raise Unavailable(f"{setting}: the answer makes no sense: {_first_line(error)}", (setting,)) from error


@contextmanager
def made_already() -> Iterator[None]:
    """Let a container or queue that is there be as good as one just made. (One that is being deleted is another matter.)"""
    try:
        yield
    except ResourceExistsError as error:
        if _code(error) not in _MADE:
            raise


class _Transport(AioHttpTransport):  # type: ignore[misc] # mypy sees Any, as the SDK imports it lazily
    """Sends a large body in pieces: as one string of bytes aiohttp would hold up the event loop, and warns of it."""

    async def send(self, request: Any, **config: Any) -> Any:
        body = request.data
        if not isinstance(body, bytes) or len(body) <= PIECEMEAL_BYTES:
            return await super().send(request, **config)
        request.data = BytesIO(body)
        try:
            return await super().send(request, **config)
        finally:
            request.data = body  # for the next attempt: sending closes the stream


def _refusal(setting: str, name: str, error: HttpResponseError) -> StoreError:
    """What an answer of the service (or of what stands before it) means."""
    status, code = error.status_code, _code(error)
    if status is None:
        return Misconfigured(f"{setting}: we can't sign in to the account: {_first_line(error)}", (setting,))
    if status in (429, 503):
        return Throttled(_retry_after(error))
    if code in _NOT_MADE:
        return Misconfigured(
            f"{setting}: {code} for {name!r}; `python -m truestop.admin init` makes what is missing", (setting,)
        )
    if status in (401, 403):
        return Misconfigured(
            f"{setting}: the account refused us ({status} {code}): wrong key, a clock that is off by over 15 minutes, "
            "or an identity without the roles 'Storage Blob Data Owner' and 'Storage Queue Data Contributor'",
            (setting,),
        )
    return Unavailable(f"{setting}: {status} {code}: {_first_line(error)}", (setting,))


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code))


def _retry_after(error: HttpResponseError) -> float:
    headers = getattr(error.response, "headers", {})
    try:
        return min(max(float(headers.get("Retry-After", BUSY_SECONDS)), 0.0), 60.0)
    except ValueError:
        return BUSY_SECONDS


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
