"""Calls a language model through the official OpenAI SDK, so that a cancel closes the call and its connection at once.

Every call streams: text that arrived is kept whatever happens next, and between two chunks there is a place to stop.
The SDK's retries are off, because the pipeline's are durable and stop with their run. The SDK is imported on first use,
in a thread: that takes most of a second, which neither a cold start nor a running event loop can spare.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shared.cancellation import checkpoint
from shared.errors import StepFailed
from shared.model_answers import MAX_DETAIL, AnswerReader, ModelAnswer

if TYPE_CHECKING:
    import openai

CONNECT_SECONDS = 10.0
READ_SECONDS = 120.0
MAX_CONNECTIONS = 1000
KEEP_ALIVE_SECONDS = 4.0
"""Less than servers' (5 s is common), so that no request goes out on a connection that its server is closing."""
MAX_RETRY_AFTER = 3600.0
MIN_SECRET = 8
"""A shorter key is a word such as "dev", not a secret."""

_AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".openai.azure.us")
_AZURE_SCOPE = "https://cognitiveservices.azure.com/.default"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HINTS = {
    401: "set TRUESTOP_MODEL_API_KEY to this endpoint's key",
    403: "give the key, or on Azure this app's identity, the right to use the model",
    404: "check that TRUESTOP_MODEL_ENDPOINT ends where the API begins (/v1) and that TRUESTOP_MODEL names a model it has",
}


@dataclass
class ModelRequest:
    """What to ask: chat messages and tools as OpenAI defines them. `model` None: the client's default."""

    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)


class ModelClient:
    """One a process: it keeps a pool of connections, opened on first use on the event loop that uses it.

    `endpoint` is the base URL of an OpenAI-compatible API, or of an Azure OpenAI resource (its v1 API is used). Without
    `api_key` an Azure endpoint is called as this app's managed identity. Timeouts in seconds; `read_timeout` is the
    longest silence.
    """

    def __init__(
        self,
        *,
        endpoint: str | None,
        api_key: str | None,
        default_model: str | None,
        connect_timeout: float = CONNECT_SECONDS,
        read_timeout: float = READ_SECONDS,
    ) -> None:
        self._endpoint = (endpoint or "").strip().rstrip("/")
        self._api_key, self._default_model = api_key or None, default_model or None
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._client: openai.AsyncOpenAI | None = None
        self._opening = asyncio.Lock()
        self._credential: Any = None

    async def complete(self, request: ModelRequest, on_text: Callable[[str], None]) -> ModelAnswer:
        """Ask, and hand over each piece of text as it comes. Call it inside a run's operation.

        Raises `RunCancelled` between chunks, and `StepFailed` with one of the codes model_not_configured, model_unavailable,
        model_rate_limited, model_rejected, model_timeout, model_interrupted, model_refused, model_filtered,
        model_answer_too_large. However it ends, the connection of an unfinished answer is closed and what arrived was given
        to `on_text`.
        """
        checkpoint()
        reader = AnswerReader(request.model or self._default_model or "")
        async with aclosing(self._chunks(request)) as chunks:
            async for chunk in chunks:
                text = reader.take(chunk)
                if text:
                    on_text(text)
                checkpoint()
        return reader.whole()

    async def probe(self) -> None:
        """Ask the endpoint for anything at all. Raises `StepFailed` when it doesn't answer or doesn't let us in."""
        client = await self._opened()
        import openai

        try:
            await client.models.list()
        except openai.OpenAIError as error:
            failure = self._failure(error)
            if not isinstance(error, openai.NotFoundError):  # it answered; not every endpoint lists its models
                raise failure from error

    async def close(self) -> None:
        """Close the pool. Idempotent; calls under way fail."""
        client, self._client = self._client, None
        credential, self._credential = self._credential, None
        if client is not None:
            await client.close()
        if credential is not None:
            await credential.close()

    async def _chunks(self, request: ModelRequest) -> AsyncGenerator[object, None]:
        """The answer's chunks; errors of the SDK and of what it reads become `StepFailed` here and nowhere else."""
        client, arguments = await self._opened(), self._arguments(request)
        checkpoint()  # opening may have taken a while
        import openai

        try:
            # Not `chat.completions.create`: it builds a model of typed objects for every chunk, which costs 0.3 ms a token.
            stream = await client.post(
                "/chat/completions", cast_to=object, body=arguments, stream=True, stream_cls=openai.AsyncStream[object]
            )
        except openai.OpenAIError as error:
            raise self._failure(error) from error
        async with stream:
            kind = stream.response.headers.get("content-type", "")
            if "text/html" in kind:
                raise StepFailed("model_rejected", f"the endpoint answered with a page ({kind}); {_HINTS[404]}")
            while True:
                try:
                    chunk = await anext(stream, None)
                except (openai.OpenAIError, ValueError) as error:
                    raise self._failure(error, begun=True) from error
                if chunk is None:
                    return
                yield chunk

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        model = request.model or self._default_model
        if model is None:
            raise StepFailed("model_not_configured", "name a model in the step, or set TRUESTOP_MODEL")
        arguments: dict[str, Any] = {
            "model": model,
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.tools:
            arguments["tools"] = request.tools
        if request.max_tokens is not None:
            # OpenAI's newer models refuse `max_tokens`; many compatible servers know nothing else.
            host = urlsplit(self._endpoint).hostname or ""
            current = host == "api.openai.com" or host.endswith(_AZURE_HOSTS)
            arguments["max_completion_tokens" if current else "max_tokens"] = request.max_tokens
        return arguments

    async def _opened(self) -> openai.AsyncOpenAI:
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await asyncio.to_thread(self._open)
        return self._client

    def _open(self) -> openai.AsyncOpenAI:
        url = urlsplit(self._endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise StepFailed("model_not_configured", "set TRUESTOP_MODEL_ENDPOINT to the base URL of a model endpoint")
        import httpx2
        import openai

        azure = url.hostname.endswith(_AZURE_HOSTS)
        timeout = httpx2.Timeout(self._read_timeout, connect=self._connect_timeout)
        client = openai.AsyncOpenAI(
            base_url=f"{self._endpoint}/openai/v1" if azure and not url.path else self._endpoint,
            api_key=self._api_key or (self._identity() if azure else "none"),
            max_retries=0,
            timeout=timeout,
            # aiohttp parses streams in C: half the CPU time of the SDK's default.
            http_client=openai.DefaultAioHttpClient(
                timeout=timeout,
                verify=_tls(),
                limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS),
                trust_env=url.hostname not in _LOOPBACK,  # a machine's proxy can't reach its own loopback
            ),
        )
        # Our settings alone say who calls: the SDK would add what it finds in OPENAI_* variables.
        client.organization = client.project = client.admin_api_key = None
        return client

    def _identity(self) -> Callable[[], Awaitable[str]]:
        """Gives tokens of this app's managed identity (or, on a developer's machine, of who is signed in to Azure)."""
        try:
            from azure.identity.aio import DefaultAzureCredential
        except ImportError:
            detail = "set TRUESTOP_MODEL_API_KEY, or install azure-identity to use a managed identity"
            raise StepFailed("model_not_configured", detail) from None
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        credential = self._credential = DefaultAzureCredential()

        async def token() -> str:
            try:
                value: str = (await credential.get_token(_AZURE_SCOPE)).token
            except ClientAuthenticationError as error:
                raise StepFailed(
                    "model_rejected", f"no managed identity to call the model with; {_HINTS[401]}"
                ) from error
            except AzureError as error:
                raise StepFailed(
                    "model_unavailable", "the identity service can't be reached", retryable=True
                ) from error
            return value

        return token

    def _failure(self, error: Exception, begun: bool = False) -> StepFailed:
        """What an error of the SDK means for a run. `begun`: the answer had begun to come."""
        import openai

        # Not by the SDK's class: with aiohttp it says "timeout" of a refused connection too.
        if any(isinstance(cause, TimeoutError) for cause in _chain(error)):
            silence = f"the model endpoint was silent for {self._read_timeout:g} s (or did not connect)"
            return StepFailed("model_timeout", silence, retryable=True)
        if begun:
            return StepFailed("model_interrupted", f"the model's answer broke off: {self._told(error)}", retryable=True)
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error)
        if isinstance(error, openai.APIConnectionError):
            *_, first = _chain(error)
            why = self._told(first)
            return StepFailed("model_unavailable", f"the model endpoint can't be reached: {why}", retryable=True)
        return StepFailed("model_unavailable", f"the model endpoint can't be used: {self._told(error)}", retryable=True)

    def _refusal(self, error: openai.APIStatusError) -> StepFailed:
        status, wait = error.status_code, _retry_after(error.response.headers)
        said = f"{status}: {self._told(error)}"
        if status == 408:
            return StepFailed("model_timeout", f"the model endpoint gave up ({said})", retryable=True)
        if status == 429 and error.code != "insufficient_quota":
            return StepFailed("model_rate_limited", f"the model endpoint asks for patience ({said})", True, wait)
        if status in (409, 425) or status >= 500:
            return StepFailed("model_unavailable", f"the model endpoint failed ({said})", True, wait)
        hint = _HINTS.get(status)
        return StepFailed("model_rejected", f"the model endpoint refused ({said})" + (f"; {hint}" if hint else ""))

    def _told(self, error: BaseException) -> str:
        """What an error says, short and without the key."""
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        text = str(said or error or type(error).__name__)
        if self._api_key and len(self._api_key) >= MIN_SECRET:
            text = text.replace(self._api_key, "***")
        return text[:MAX_DETAIL]


@cache
def _tls() -> ssl.SSLContext:
    """Trusts what the machine trusts. Reading that takes 70 ms, so it is done once."""
    import httpx2

    return httpx2.create_ssl_context()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait, if an answer says: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except ValueError:
                continue
        if not math.isnan(seconds):
            return min(max(0.0, seconds), MAX_RETRY_AFTER)
    return None
