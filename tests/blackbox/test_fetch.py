"""`fetch_urls` over real HTTP: what is private stays unread unless a setting allows it; a cancel closes the connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api
from tests.support.promise import assert_cancelled_whole, assert_ended_whole, assert_promise_kept
from tests.support.waiting import eventually_sync

PAGE = b"<html><body><h1>Prices</h1><p>Valve K2: 11.86</p><script>no()</script></body></html>"


class Pages(ThreadingHTTPServer):
    """A site: a page, a redirect to it, an error, and a page that never ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str] = []
        self.streaming, self.closed = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        if self.path == "/page":
            self._answer(200, PAGE)
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/page")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self._stream()
        else:
            self._answer(410, b"gone")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        try:
            for _ in range(1000):
                self.wfile.write(b"a line\n")
                self.server.streaming.set()
                if self.server.closed.wait(0.01):  # a pace, and the end of the test
                    return
        except OSError:
            self.server.closed.set()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def pages() -> Iterator[Pages]:
    """The site, on this machine."""
    with Pages() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.closed.set()
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def open_client(start_host: StartHost) -> Iterator[httpx.Client]:
    """A client of a host that may read private addresses."""
    with new_client(start_host(TRUESTOP_FETCH_ALLOW_PRIVATE="true").base_url) as client:
        yield client


def fetching(*urls: str, **more: Any) -> dict[str, Any]:
    """A step that fetches pages."""
    return {"kind": "fetch_urls", "name": "pages", "urls": list(urls), "retries": {"max": 0}, **more}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_fetched_from_by_default(api: Api, pages: Pages, host: str) -> None:
    """Guards the network behind the app, however the address is spelt; no connection is made."""
    run = api.workflow(fetching(f"{{{{input}}}}:{pages.server_port}/page")).run(input=f"http://{host}")
    whole = assert_ended_whole(run)
    assert (whole["status"], whole["error"]["code"]) == ("failed", "fetch_forbidden_address")
    assert pages.seen == []


def test_pages_are_read_as_text_where_private_addresses_are_allowed(open_client: httpx.Client, pages: Pages) -> None:
    """Guards the step itself: text without markup, redirects followed, one item a page, urls from the input."""
    api = Api(open_client)
    after = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{steps.pages.output}}"}}
    urls = ["{{input.site}}/page", f"{pages.url}/moved"]
    run = api.workflow(fetching(*urls), after).run(input={"site": pages.url})
    assert assert_ended_whole(run)["status"] == "completed"
    items = run.items()
    assert [one["name"] for one in items] == [f"{pages.url}/page", f"{pages.url}/moved"]
    assert all("Valve K2: 11.86" in one["output_preview"] and "no()" not in one["output_preview"] for one in items)
    assert run.executions()["s02"]["output_preview"].count("Valve K2") == 2
    assert sorted(pages.seen) == ["/moved", "/page", "/page"]


def test_a_page_that_fails_is_told_and_the_others_are_kept(open_client: httpx.Client, pages: Pages) -> None:
    """Guards `on_error: continue` for pages; the address of machine metadata is refused whatever the setting."""
    urls = (f"{pages.url}/page", f"{pages.url}/gone", "http://169.254.169.254/latest/meta-data")
    run = Api(open_client).workflow(fetching(*urls, on_error="continue")).run()
    assert assert_ended_whole(run)["status"] == "completed"
    errors = [(one["error"] or {}).get("code") for one in run.items()]
    assert errors == [None, "fetch_status", "fetch_forbidden_address"]


def test_a_cancel_closes_the_connection_of_a_fetch(open_client: httpx.Client, pages: Pages) -> None:
    """Guards the stop of a fetch that would go on: the site sees the connection close."""
    run = Api(open_client).workflow(fetching(f"{pages.url}/endless", f"{pages.url}/page", parallel=1)).start()
    assert pages.streaming.wait(10)
    eventually_sync(lambda: run.items()[0]["status"] == "running")
    run.cancel()
    run.wait("cancelled", seconds=3)
    assert pages.closed.wait(3)
    assert pages.seen == ["/endless"]
    receipt = assert_cancelled_whole(run)
    assert [(one["kind"], one["outcome"]) for one in receipt["in_flight"]] == [("item", "stopped")]
    pages.closed.set()
    assert_promise_kept(run, None, 0)
