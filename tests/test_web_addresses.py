"""Fetching: which addresses are allowed. No spelling, name, or redirect leads into the network."""

from __future__ import annotations

import ipaddress

import pytest

from shared import web
from shared.web import CheckedClient, FetchLimits, allowed, fetch
from tests.support.web_server import answering, failure, resolving, serving

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


def test_the_address_lists_are_networks() -> None:
    """A typing mistake in the lists would open a hole without a sound."""
    listed = [*web._NEVER, *web._PRIVATE]
    assert len(listed) == len(set(listed))
    assert all(isinstance(one, ipaddress.IPv4Network | ipaddress.IPv6Network) for one in listed)
