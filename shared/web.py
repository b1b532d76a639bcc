"""Fetching pages for people and models, without becoming their way into the network.

Whoever writes a URL is not trusted with what this machine can reach. Each connection resolves its host here, drops
every address that is not public, and goes to exactly an address that was checked: a name that resolves differently a
moment later changes nothing, nor does a redirect, for its connection is checked in the same way. TLS and the Host
header still use the name. There are no environment proxies, no cookies, no credentials.

Everything is bounded: bytes (unpacked too), redirects, and the time for all of it. When the task is cancelled, or a
checkpoint between two chunks raises, the connection is closed at once.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore
import httpx

from shared.cancellation import checkpoint_if_run
from shared.errors import StepFailed
from shared.extract import extract_text

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Answers the addresses of (host, port) as text, best first."""

MAX_URL = 8000
MAX_RETRY_AFTER = 3600.0
CONNECT_SECONDS = 10.0
_USER_AGENT = "truestop/0.1"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ADDRESSES_TRIED = 4

# Written out, since what `ipaddress` calls private changes with Python's patch releases. Never allowed: addresses of
# machine metadata (link-local; 168.63.129.16 is Azure's own), multicast and reserved ones, and the IPv6 forms that
# stand for an IPv4 address, which would smuggle in a forbidden one.
_NEVER = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3"),
        *("::/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16"),
        *("5f00::/16", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::254/128"),
    )
)
_PRIVATE = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("2001:db8::/32", "3fff::/20", "fc00::/7"),
    )
)
_GLOBAL_UNICAST = ip_network("2000::/3")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """`max_bytes` of content (as sent, and unpacked), `seconds` in all, and how many `redirects` are followed."""

    max_bytes: int = 5 * 1024 * 1024
    seconds: float = 30.0
    redirects: int = 5
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought. `final_url` is where the last redirect led; `content_type` is as sent, perhaps empty."""

    url: str
    final_url: str
    status: int
    content_type: str
    data: bytes


class ForbiddenAddress(httpcore.ConnectError):
    """A host has no address that may be fetched from."""


def allowed(address: str, allow_private: bool) -> bool:
    """Whether an address may be connected to. Metadata, multicast and disguised addresses may never."""
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if any(parsed in network for network in _NEVER):
        return False
    if allow_private:
        return True
    if any(parsed in network for network in _PRIVATE):
        return False
    return parsed.version == 4 or parsed in _GLOBAL_UNICAST


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """The operating system's answer. It reads the odd spellings of addresses too (`0x7f.1`, `2130706433`)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _CheckedBackend(httpcore.AnyIOBackend):
    """Connects to checked addresses only."""

    def __init__(self, resolver: Resolver, allow_private: bool) -> None:
        self._resolver, self._allow_private = resolver, allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} can't be resolved: {error}") from error
        checked = [address for address in addresses if allowed(address, self._allow_private)]
        if not checked:
            raise ForbiddenAddress(f"{host} is at no public address")
        failure: Exception | None = None
        for address in checked[:_ADDRESSES_TRIED]:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def connect_unix_socket(self, *_args: Any, **_kwargs: Any) -> httpcore.AsyncNetworkStream:
        raise ForbiddenAddress("a socket file is no web address")


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _CheckedTransport(httpx.AsyncBaseTransport):
    """httpx over a pool whose connections are checked. Errors are httpcore's."""

    def __init__(self, backend: _CheckedBackend, tls: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream))

    async def aclose(self) -> None:
        await self._pool.aclose()


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


class CheckedClient(httpx.AsyncClient):
    """An HTTP client that reaches public addresses only, unless `allow_private`; what `fetch` wants of a client."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.allow_private = allow_private
        super().__init__(
            transport=_CheckedTransport(_CheckedBackend(resolver, allow_private), tls or _default_tls()),
            headers={"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
        )


async def fetch(url: str, *, limits: FetchLimits | None = None, client: CheckedClient | None = None) -> Fetched:
    """GET a page, following redirects. Without a `client`, one is made for this call.

    Raises `StepFailed`: `fetch_url_invalid`, `fetch_forbidden_address`, `fetch_too_large`, `fetch_too_many_redirects`;
    `fetch_status` (retryable for 408, 429 and 5xx, with `retry_after` where the server says so); `fetch_failed` and
    `fetch_timeout` (retryable). `ValueError` if the client's `allow_private` is not that of the limits.
    """
    limits = limits or FetchLimits()
    if client is None:
        async with CheckedClient(allow_private=limits.allow_private) as own:
            return await fetch(url, limits=limits, client=own)
    if client.allow_private != limits.allow_private:
        raise ValueError("the client was made for another allow_private")
    try:
        async with asyncio.timeout(limits.seconds):
            return await _follow(url, limits, client)
    except TimeoutError:
        raise StepFailed("fetch_timeout", f"{shown_url(url)} took over {limits.seconds:g} s", retryable=True) from None
    except ForbiddenAddress as error:
        raise StepFailed("fetch_forbidden_address", f"{shown_url(url)}: {error}") from None
    except (httpcore.TimeoutException, httpx.TimeoutException) as error:
        raise StepFailed("fetch_timeout", f"{shown_url(url)}: {type(error).__name__}", retryable=True) from None
    except _TRANSPORT_ERRORS as error:
        untrusted = isinstance(error.__context__, ssl.SSLCertVerificationError)
        detail = f"{shown_url(url)}: {error or type(error).__name__}"
        raise StepFailed("fetch_failed", detail, retryable=not untrusted) from error


_TRANSPORT_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, OSError)


async def _follow(url: str, limits: FetchLimits, client: CheckedClient) -> Fetched:
    target = _parse(url)
    for _ in range(limits.redirects + 1):
        checkpoint_if_run()
        timeout = httpx.Timeout(limits.seconds, connect=min(CONNECT_SECONDS, limits.seconds))
        async with client.stream("GET", target, timeout=timeout, follow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status_code in _REDIRECTS and location is not None:
                target = _parse(location, target)
                continue
            _check_status(response, target)
            data = await _read(response, limits.max_bytes, target)
            kind = response.headers.get("Content-Type", "")
            return Fetched(url, str(target), response.status_code, kind, data)
    raise StepFailed("fetch_too_many_redirects", f"{shown_url(url)} redirects over {limits.redirects} times")


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """The URL, absolute and without its fragment. Raises `StepFailed` `fetch_url_invalid`."""
    try:
        if len(text) > MAX_URL:
            raise ValueError(f"over {MAX_URL} characters")
        url = (base.join(text) if base is not None else httpx.URL(text)).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise StepFailed("fetch_url_invalid", f"{shown_url(text)}: {error}") from None
    odd = not url.host or b"%" in url.raw_host  # blanks and zone indexes are percent-encoded by httpx
    if url.scheme not in {"http", "https"} or odd or not 0 < (url.port or 80) < 65536:
        raise StepFailed("fetch_url_invalid", f"{shown_url(text)} is not an http or https address")
    if url.userinfo:
        raise StepFailed("fetch_url_invalid", f"{shown_url(text)}: an address may not carry credentials")
    return url


def shown_url(url: str | httpx.URL) -> str:
    """A URL as it may stand in a message: without query (it may hold a secret) and credentials, and not endless."""
    text = str(url).partition("?")[0].partition("#")[0]
    scheme, mark, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    return repr(f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"[:200])


def _check_status(response: httpx.Response, url: httpx.URL) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    retryable = status in {408, 429} or status >= 500
    wait = retry_after_seconds(response.headers.get("Retry-After")) if retryable else None
    raise StepFailed("fetch_status", f"{shown_url(url)} answered {status}", retryable, wait)


def retry_after_seconds(text: str | None) -> float | None:
    """Seconds to wait, from a number of them or a date; None if there is neither."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER)
    try:
        wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)


async def _read(response: httpx.Response, max_bytes: int, url: httpx.URL) -> bytes:
    """The body, unpacked here: httpx would unpack each chunk whole, a thousandfold if the sender likes."""
    too_large = StepFailed("fetch_too_large", f"{shown_url(url)} is over {max_bytes} bytes")
    declared = response.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:18]) > max_bytes:
        raise too_large
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in {"identity", "", "gzip", "x-gzip"}:
        raise StepFailed("fetch_failed", f"{shown_url(url)} is packed as {coding[:40]!r}, which was not asked for")
    unpack = _Gunzip() if "gzip" in coding else None
    data = bytearray()
    received = 0
    async for chunk in response.aiter_raw():
        checkpoint_if_run()
        received += len(chunk)
        data += chunk if unpack is None else unpack.feed(chunk, max_bytes + 1 - len(data))
        if max(received, len(data)) > max_bytes:
            raise too_large
    if unpack is not None and received and not unpack.complete:
        raise StepFailed("fetch_failed", f"{shown_url(url)}: its gzip data is cut short", retryable=True)
    return bytes(data)


class _Gunzip:
    """Unpacks gzip, of one member or several, giving at most as much as was asked for."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.complete = False

    def feed(self, chunk: bytes, at_most: int) -> bytes:
        """Unpack a chunk, and stop once there are `at_most` bytes (the rest is then lost: the fetch has failed)."""
        out = b""
        while chunk and len(out) < at_most:
            if self.complete:
                self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                out += self._inner.decompress(chunk, at_most - len(out))
            except zlib.error as error:
                raise httpx.DecodingError(f"not gzip: {error}") from None
            self.complete = self._inner.eof
            chunk = self._inner.unused_data
        return out


_ENDINGS = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/csv": "csv",
    "text/markdown": "md",
    "application/json": "txt",
    "application/xml": "txt",
}


def fetched_text(fetched: Fetched) -> str:
    """The text of a page, as `extract_text` gives it. CPU-bound: call it through `run_blocking`.

    The content type decides; where it says nothing (`application/octet-stream`, or none), the ending of the address.
    """
    kind, _, parameters = fetched.content_type.partition(";")
    kind = kind.strip().lower()
    path = httpx.URL(fetched.final_url).path
    ending = _ENDINGS.get(kind)
    if ending is None and (kind.startswith("text/") or kind.endswith(("+json", "+xml"))):
        ending = "txt"
    if ending is None and kind not in {"", "application/octet-stream", "binary/octet-stream"}:
        raise StepFailed(
            "document_type_unsupported", f"{shown_url(fetched.final_url)} is {kind[:80]!r}, which holds no text"
        )
    name = path if ending is None else f"page.{ending}"
    return extract_text(name, fetched.data, _charset(parameters))


def _charset(parameters: str) -> str | None:
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None
