"""Fetching: over real sockets, against servers that lie, stall, bomb and redirect into the network."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared import web
from shared.cancellation import CancelToken, set_current
from shared.errors import Cancellation, RunCancelled, StepFailed
from shared.web import CheckedClient, Fetched, FetchLimits, allowed, fetch, fetched_text
from tests.data.make_documents import pdf

LOCAL = FetchLimits(allow_private=True, seconds=10)
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server on loopback that shows what it heard and whether its peer has hung up."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    sni: list[str] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(
    handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve one request a connection with `handler(request head, writer)`; then wait for the peer to hang up."""
    server = Server()
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: server.sni.append(name)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            server.requests.append(head)
            work = asyncio.ensure_future(handler(head, writer))
            gone = asyncio.ensure_future(reader.read())
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                server.hung_up.set()
            for one in (work, gone):
                one.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(
    body: bytes = b"hello", status: str = "200 OK", headers: Sequence[str] = ("Content-Type: text/plain",)
) -> Handler:
    """A handler that always gives the same answer."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        lines = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}", "Connection: close"))
        writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    return handler


def dripping(piece: bytes = b"x", head: bytes = b"HTTP/1.1 200 OK\r\n\r\n", pause: float = 0.01) -> Handler:
    """A handler that sends a piece every now and then, for ever."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return handler


async def failure(url: str, limits: FetchLimits = LOCAL, client: CheckedClient | None = None) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        await fetch(url, limits=limits, client=client)
    return caught.value


async def test_a_page_is_fetched() -> None:
    """The plain case, with what the server is told."""
    async with serving(answering("héllo".encode(), headers=["Content-Type: text/plain; charset=utf-8"])) as server:
        fetched = await fetch(server.url("/a?b=c#d"), limits=LOCAL)
    assert fetched == Fetched(
        url=server.url("/a?b=c#d"),
        final_url=server.url("/a?b=c"),
        status=200,
        content_type="text/plain; charset=utf-8",
        data="héllo".encode(),
    )
    head = server.requests[0].lower()
    assert head.startswith("get /a?b=c http/1.1\r\n")
    assert f"host: 127.0.0.1:{server.port}\r\n" in head
    assert "cookie" not in head and "authorization" not in head


PUBLIC = [
    "93.184.216.34",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "2606:4700::1111",
    "2a00:1450::1",
]
PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("100.64.0.1", "198.18.0.1"),
    *("192.0.2.1", "203.0.113.9", "::1", "fc00::1", "fd12:3456::1", "2001:db8::1", "3fff::1"),
]
NEVER = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "168.63.129.16", "192.0.0.170", "192.88.99.1"),
    *("224.0.0.1",),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
    *("64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:0:1::1", "fe80::1", "fe80::1%lo", "fec0::1"),
    *("ff02::1", "100::1"),
    *("fd00:ec2::254", "not an address", "", "127.1", "0x7f000001", "2130706433"),
]


def test_which_addresses_are_allowed() -> None:
    """One list a kind; metadata and disguised addresses stay forbidden even where private ones are allowed."""
    assert [address for address in PUBLIC if not allowed(address, False) or not allowed(address, True)] == []
    assert [address for address in PRIVATE if allowed(address, False) or not allowed(address, True)] == []
    assert [address for address in NEVER if allowed(address, False) or allowed(address, True)] == []


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST.", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001"),
        *("0177.0.0.1", "0x7f.1", "0", "0.0.0.0", "[::]", "169.254.169.254", "[fe80::1]", "[64:ff9b::127.0.0.1]"),
        *("[2002:7f00:1::]", "①②⑦.⓪.⓪.①", "127。0。0。1", "127%2e0.0.1"),
    ],
)
async def test_no_spelling_of_a_private_address_gets_through(host: str) -> None:
    """The server must not even see a connection."""
    async with serving(answering()) as server:
        error = await failure(f"http://{host}:{server.port}/", FetchLimits(seconds=5))
    # Some spellings are no host name at all: just as good, so long as nothing was asked.
    assert error.code in {"fetch_forbidden_address", "fetch_url_invalid", "fetch_failed"}
    if host in {"127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "2130706433"}:
        assert error.code == "fetch_forbidden_address"
        assert not error.retryable
    assert server.requests == []


def resolving(*answers: Sequence[str]) -> tuple[web.Resolver, list[str]]:
    """A resolver that gives these answers in turn (the last for ever), and what it was asked."""
    asked: list[str] = []

    async def resolver(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolver, asked


async def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    """The commonest way in: a public name with a private address."""
    async with serving(answering()) as server:
        for answer in (["127.0.0.1"], ["10.0.0.1", "::1", "169.254.169.254"], []):
            async with CheckedClient(resolver=resolving(answer)[0]) as client:
                error = await failure(server.url(host="public.test"), FetchLimits(), client)
            assert error.code == "fetch_forbidden_address"
    assert server.requests == []


@pytest.fixture
def only_first_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 127.0.0.1 for a public address; all other private ones stay forbidden."""
    monkeypatch.setattr(web, "allowed", lambda address, private: address == "127.0.0.1" or allowed(address, private))


@pytest.mark.usefixtures("only_first_loopback")
async def test_the_checked_address_is_the_one_connected_to() -> None:
    """DNS rebinding: asked a second time, the name leads inside. So it must be asked once a connection."""
    resolver, asked = resolving(["127.0.0.2", "127.0.0.1"], ["127.0.0.2"])
    async with serving(answering(b"public")) as public, CheckedClient(resolver=resolver) as client:
        limits = FetchLimits()
        fetched = await fetch(public.url(host="rebind.test"), limits=limits, client=client)
        assert fetched.data == b"public"
        assert asked == ["rebind.test"]
        assert f"Host: rebind.test:{public.port}\r\n" in public.requests[0]
        assert (await failure(public.url(host="rebind.test"), limits, client)).code == "fetch_forbidden_address"
    assert len(public.requests) == 1


@pytest.mark.usefixtures("only_first_loopback")
@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/",
        "//127.0.0.2:{port}/",
        "http://[::1]:{port}/",
        "http://169.254.169.254/latest/meta-data",
    ],
)
async def test_a_redirect_into_the_network_is_refused(target: str) -> None:
    """Each hop is checked as if it had been asked for."""
    async with serving(answering(b"inside"), host="127.0.0.2") as inside:
        location = target.format(port=inside.port)
        async with serving(answering(status="302 Found", headers=[f"Location: {location}"])) as outside:
            error = await failure(outside.url(), FetchLimits())
    assert error.code == "fetch_forbidden_address"
    assert inside.requests == []


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.org/", "gopher://x/", "example.org", "", "http://"),
        *("http:///path", "//x/"),
        *("http://user:pw@example.org/", "http://user@example.org/", "http://a b/", "http://[::1/", "http://x:99999/"),
        *("http://127%2e0.0.1/", "http://[fe80::1%25lo]/"),
        *("http://exa\nmple.org/", "http://\ud800.org/", "javascript:alert(1)", "http://x/" + "a" * 9000),
    ],
)
async def test_only_plain_web_addresses_are_fetched(url: str) -> None:
    """Anything else is the writer's mistake, which trying again can't mend."""
    error = await failure(url)
    assert (error.code, error.retryable) == ("fetch_url_invalid", False)
    assert "pw" not in error.detail


async def test_redirects_are_followed_and_bounded() -> None:
    """Relative and absolute ones, without a cookie that an earlier answer set."""

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        left = int(path.rpartition("/")[2])
        if left:
            headers = [f"Location: ../x/{left - 1}#frag", "Set-Cookie: a=b"]
            await answering(b"moved", f"30{(1, 2, 3, 7, 8)[left % 5]} Moved", headers)(head, writer)
        else:
            await answering(b"there")(head, writer)

    async with serving(handler) as server:
        fetched = await fetch(server.url("/x/5"), limits=LOCAL)
        assert (fetched.data, fetched.final_url) == (b"there", server.url("/x/0"))
        assert len(server.requests) == 6
        assert not any("cookie" in head.lower() for head in server.requests)
        assert (await failure(server.url("/x/6"))).code == "fetch_too_many_redirects"
    for location in ("file:///etc/passwd", "http://user:pw@127.0.0.1/", "http://a b/"):
        async with serving(answering(status="302 Found", headers=[f"Location: {location}"])) as server:
            assert (await failure(server.url())).code == "fetch_url_invalid"


@pytest.mark.parametrize(
    ("status", "headers", "retryable", "retry_after"),
    [
        ("404 Not Found", [], False, None),
        ("403 Forbidden", ["Retry-After: 5"], False, None),
        ("302 Found", [], False, None),
        ("304 Not Modified", [], False, None),
        ("408 Timeout", [], True, None),
        ("429 Slow Down", ["Retry-After: 7"], True, 7.0),
        ("503 Down", ["Retry-After: 99999999999999999999"], True, 3600.0),
        ("503 Down", ["Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"], True, 0.0),
        ("500 Oops", ["Retry-After: soon"], True, None),
    ],
)
async def test_other_statuses_fail(status: str, headers: list[str], retryable: bool, retry_after: float | None) -> None:
    """Trying again helps only where the server is at fault, or asks for patience."""
    async with serving(answering(status=status, headers=headers)) as server:
        error = await failure(server.url("/p?secret=1"))
    assert (error.code, error.retryable, error.retry_after) == ("fetch_status", retryable, retry_after)
    assert status[:3] in error.detail
    assert "secret" not in error.detail


async def test_size_is_bounded_as_declared_and_as_sent() -> None:
    """A server may say a size, say nothing, or lie."""
    limits = FetchLimits(allow_private=True, max_bytes=1000, seconds=10)
    async with serving(answering(b"x" * 1000)) as server:
        assert len((await fetch(server.url(), limits=limits)).data) == 1000
    async with serving(answering(b"x" * 1001)) as server:
        assert (await failure(server.url(), limits)).code == "fetch_too_large"
    async with serving(dripping(b"x" * 400)) as server:
        assert (await failure(server.url(), limits)).code == "fetch_too_large"
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_gzip_is_unpacked_within_the_limit() -> None:
    """A bomb of 100 KB would unpack to 100 MB; what is over the limit must never be unpacked."""
    headers = ["Content-Encoding: gzip"]
    limits = FetchLimits(allow_private=True, max_bytes=200_000, seconds=10)
    pieces = gzip.compress(b"one ") + gzip.compress(b"two")
    async with serving(answering(pieces, headers=headers)) as server:
        assert (await fetch(server.url(), limits=limits)).data == b"one two"
    async with serving(answering(gzip.compress(bytes(100_000_000), 9), headers=headers)) as server:
        assert (await failure(server.url(), limits)).code == "fetch_too_large"
    bombs = b"".join(gzip.compress(bytes(150_000)) for _ in range(2))
    async with serving(answering(bombs, headers=headers)) as server:
        assert (await failure(server.url(), limits)).code == "fetch_too_large"
    for body, sent in (
        (gzip.compress(b"x" * 5000)[:-9], headers),
        (b"plain", headers),
        (b"x", ["Content-Encoding: br"]),
    ):
        async with serving(answering(body, headers=sent)) as server:
            assert (await failure(server.url(), limits)).code == "fetch_failed"
    async with serving(answering(b"", headers=headers)) as server:
        assert (await fetch(server.url(), limits=limits)).data == b""


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_slow_server_is_given_up_in_time(head: bytes) -> None:
    """A byte now and then never trips a read timeout; the time is for all of it."""
    async with serving(dripping(b"x", head)) as server:
        error = await failure(server.url(), FetchLimits(allow_private=True, seconds=0.3))
        assert (error.code, error.retryable) == ("fetch_timeout", True)
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    """Nor may silence hold a run."""

    async def silent(_head: str, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(silent) as server:
        error = await failure(server.url(), FetchLimits(allow_private=True, seconds=0.3))
    assert (error.code, error.retryable) == ("fetch_timeout", True)


async def test_broken_connections_are_retryable() -> None:
    """Refused, cut short, no HTTP at all, unknown name: all may be well the next time."""

    async def cut(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async def rubbish(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await writer.drain()

    for handler in (cut, rubbish):
        async with serving(handler) as server:
            error = await failure(server.url())
            assert (error.code, error.retryable) == ("fetch_failed", True)
    error = await failure(server.url())  # it has stopped
    assert (error.code, error.retryable) == ("fetch_failed", True)

    async def unknown(_host: str, _port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    async with CheckedClient(resolver=unknown) as client:
        error = await failure("http://nowhere.test/", FetchLimits(), client)
    assert (error.code, error.retryable) == ("fetch_failed", True)


async def test_another_address_is_tried_when_the_first_refuses() -> None:
    """Names often have an IPv6 address that leads nowhere from here."""
    resolver, _ = resolving(["127.0.0.3", "127.0.0.1"])
    async with serving(answering()) as server, CheckedClient(allow_private=True, resolver=resolver) as client:
        assert (await fetch(server.url(host="two.test"), limits=LOCAL, client=client)).status == 200


async def test_a_cancelled_task_closes_the_connection_at_once() -> None:
    """Cancel means that the server sees us leave, not that we stop listening."""
    async with serving(dripping()) as server:
        task = asyncio.ensure_future(fetch(server.url(), limits=LOCAL))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.hung_up.wait(), 1)


async def test_a_cancelled_run_stops_between_chunks_and_before_the_first() -> None:
    """A checkpoint raises `RunCancelled`; it is never turned into a failed step."""
    token = CancelToken()
    set_current(token)
    async with serving(dripping()) as server:
        task = asyncio.ensure_future(fetch(server.url(), limits=LOCAL))
        while not server.requests:
            await asyncio.sleep(0.01)
        token.cancel(Cancellation("test"))
        with pytest.raises(RunCancelled):
            await asyncio.wait_for(task, 2)
        await asyncio.wait_for(server.hung_up.wait(), 1)
        with pytest.raises(RunCancelled):
            await fetch(server.url(), limits=LOCAL)
        assert len(server.requests) == 1


async def test_environment_proxies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect for us, unchecked."""
    async with serving(answering(b"proxied")) as proxy, serving(answering(b"direct")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert (await fetch(server.url(), limits=LOCAL)).data == b"direct"
    assert proxy.requests == []


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server named `name` and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cert.pem").write_bytes(pem + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_tls_is_for_the_name_though_the_connection_is_to_the_address(tmp_path: Path) -> None:
    """Connecting to a checked address must not weaken the check of the certificate."""
    server_tls, client_tls = certificate(tmp_path, "shop.test")
    resolver, _ = resolving(["127.0.0.1"])
    async with serving(answering(b"secure"), tls=server_tls) as server:
        async with CheckedClient(allow_private=True, resolver=resolver, tls=client_tls) as client:
            url = server.url(host="shop.test", scheme="https")
            assert (await fetch(url, limits=LOCAL, client=client)).data == b"secure"
            assert server.sni == ["shop.test"]
            other = await failure(server.url(host="other.test", scheme="https"), LOCAL, client)
        async with CheckedClient(allow_private=True, resolver=resolver) as client:
            untrusted = await failure(url, LOCAL, client)
    for error in (other, untrusted):
        assert (error.code, error.retryable) == ("fetch_failed", False)
        assert "certificate" in error.detail.lower()
    assert len(server.requests) == 1


async def test_a_client_made_for_private_addresses_is_not_used_unasked() -> None:
    """The limits say what is allowed; a client that allows more must not slip in."""
    async with CheckedClient(allow_private=True) as client:
        with pytest.raises(ValueError, match="allow_private"):
            await fetch("http://127.0.0.1/", limits=FetchLimits(), client=client)


@pytest.mark.parametrize(
    ("kind", "path", "data", "expected"),
    [
        ("text/html; charset=iso-8859-1", "/", "<p>caf\xe9".encode("latin-1"), "café\n"),
        ('TEXT/HTML;charset="utf-8"', "/x.pdf", b"<p>a<script>b</script>", "a\n"),
        ("application/pdf", "/", pdf([["in a pdf"]]), "in a pdf\n\n"),
        ("text/plain", "/", b"plain", "plain"),
        ("application/json", "/", b'{"a": 1}', '{"a": 1}'),
        ("application/atom+xml", "/", b"<feed/>", "<feed/>"),
        ("text/csv", "/", b"a;b\n", "a | b\n"),
        ("application/octet-stream", "/x.csv", b"a,b\n", "a | b\n"),
        ("", "/notes.md", b"# hi", "# hi"),
    ],
)
def test_the_content_type_decides_how_a_page_is_read(kind: str, path: str, data: bytes, expected: str) -> None:
    """The address decides only where the server doesn't say."""
    assert fetched_text(Fetched("u", f"http://x{path}", 200, kind, data)) == expected


@pytest.mark.parametrize("kind", ["image/png", "video/mp4", "application/zip", "", "application/octet-stream"])
def test_pages_without_text_are_refused(kind: str) -> None:
    """An image is no prompt."""
    with pytest.raises(StepFailed, match="document_type_unsupported"):
        fetched_text(Fetched("u", "http://x/y", 200, kind, b"\x89PNG"))


def test_the_address_lists_are_networks() -> None:
    """A typing mistake in the lists would open a hole without a sound."""
    listed = [*web._NEVER, *web._PRIVATE]
    assert len(listed) == len(set(listed))
    assert all(isinstance(one, ipaddress.IPv4Network | ipaddress.IPv6Network) for one in listed)
