"""Fetching: over real sockets, against servers that lie, stall and bomb; retries, TLS, proxies and cancels."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.cancellation import CancelToken, set_current
from shared.errors import Cancellation, RunCancelled, StepFailed
from shared.web import CheckedClient, Fetched, FetchLimits, fetch, fetched_text
from tests.data.make_documents import pdf
from tests.support.web_server import LOCAL, answering, dripping, failure, resolving, serving


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
