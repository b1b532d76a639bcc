"""HTTP functions over real sockets: requests and responses have the shape that the Functions host gives them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from devhost.bindings import Unserved
from devhost.host import Application
from devhost.local_settings import HostSettings
from tests.devhost_serving import NoEngine, raw, serving_app, write_app
from tests.durable_host import functions_of
from tests.support.waiting import eventually

APP = """
import asyncio, contextvars, json, os, threading, time
seen = []
variable = contextvars.ContextVar("variable", default="none")

@app.route(route="echo/{id:int?}")
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    told = {
        "method": req.method, "url": req.url, "headers": dict(req.headers), "params": dict(req.params),
        "route": dict(req.route_params), "body": req.get_body().decode(),
    }
    return func.HttpResponse(json.dumps(told), mimetype="application/json")

@app.route(route="files/{*path}", methods=["GET"])
def files(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(repr(req.route_params.get("path")))

@app.route(route="{ignored:maxlength(0)?}", methods=["GET"])
def page(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("<h1>é</h1>", mimetype="text/html")

@app.route(methods=["POST"])
def unrouted(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(status_code=202)

@app.route(route="answer/{what}")
async def answer(req: func.HttpRequest) -> func.HttpResponse:
    what = req.route_params["what"]
    if what == "none": return None
    if what == "dict": return {"body": "x"}
    if what == "text": return "x"
    if what == "raises": raise RuntimeError("deliberate")
    if what == "cancelled": raise asyncio.CancelledError
    if what == "exits": raise SystemExit(3)
    if what == "twice":
        given = func.HttpResponse("x", headers={"X-A": "1", "Location": "/there"})
        given.headers.add("x-a", "2")
        given.headers.add("Set-Cookie", "a=1")
        given.headers.add("Set-Cookie", "b=2")
        return given
    if what == "nocontent": return func.HttpResponse("ignored", status_code=204)
    if what == "badheader": return func.HttpResponse("x", headers={"X-A": "é"})
    if what == "badstatus": return func.HttpResponse("x", status_code=999)
    if what == "length": return func.HttpResponse("four", headers={"Content-Length": "99", "Transfer-Encoding": "chunked"})
    if what == "typed": return func.HttpResponse(b"[]", headers={"Content-Type": "application/problem+json"})

@app.route(route="client")
@app.durable_client_input(client_name="client")
async def with_client(req: func.HttpRequest, client: str) -> func.HttpResponse:
    return func.HttpResponse("unused")

@app.route(route="slow")
async def slow(req: func.HttpRequest) -> func.HttpResponse:
    seen.append("began")
    while not os.path.exists(req.params["until"]):
        await asyncio.sleep(0.005)
    with open(req.params["until"] + ".done", "w") as file:
        file.write("done")
    return func.HttpResponse("late")

@app.route(route="blocking")
def blocking(req: func.HttpRequest) -> func.HttpResponse:
    time.sleep(0.3)
    return func.HttpResponse(threading.current_thread().name)

@app.route(route="switched-off")
def switched_off(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("on")
"""


@pytest_asyncio.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("AzureWebJobs.switched_off.Disabled", "true")
    monkeypatch.setenv("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", "200000")
    async with (
        serving_app(write_app(tmp_path / "app", APP)) as base,
        httpx.AsyncClient(base_url=base, trust_env=False) as one,
    ):
        yield one


async def echo(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> dict[str, Any]:
    answer = await client.request(method, path, **more)
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


async def test_a_function_sees_the_request_as_the_host_shapes_it(client: httpx.AsyncClient) -> None:
    """Header names, joined query values and absent parameters are what code written here relies on in Azure."""
    told = await echo(
        client, "PUT", "/Echo/7?x=1&x=2&y=&z=a%20b%2Bc&X=3&flag", headers={"X-MiXed": "é".encode()}, content=b"hello"
    )

    assert told["method"] == "PUT"
    assert told["url"] == f"{client.base_url}/Echo/7?x=1&x=2&y=&z=a%20b%2Bc&X=3&flag".replace(":80/", "/")
    assert told["params"] == {"x": "1,2,3", "z": "a b+c"}
    assert told["route"] == {"id": "7"}
    assert told["headers"]["x-mixed"] == "é"
    assert told["headers"]["content-length"] == "5"
    assert told["body"] == "hello"
    assert (await echo(client, "GET", "/echo"))["route"] == {}


async def test_a_chunked_body_arrives_empty(client: httpx.AsyncClient) -> None:
    """The host reads only bodies that announce their length; an app that needs more must fail here as well."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    assert (await echo(client, "POST", "/echo", content=pieces()))["body"] == ""
    assert (await echo(client, "POST", "/echo", content=b"next"))["body"] == "next"


async def test_a_header_given_twice_in_a_request_is_joined(client: httpx.AsyncClient) -> None:
    """ASP.NET joins them with a comma; the last one alone would hide a smuggled first one."""
    told = await echo(client, "GET", "/echo", headers=[("x-a", "1"), ("x-a", "2")])
    assert told["headers"]["x-a"] == "1,2"


async def test_a_body_over_the_limit_is_413(client: httpx.AsyncClient) -> None:
    """One request must not be able to fill the memory."""
    assert (await client.post("/echo", content=b"x" * 200_000)).status_code == 200
    answer = await client.post("/echo", content=b"x" * 200_001)
    assert (answer.status_code, answer.content) == (413, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("DELETE", "/files/a"),
        ("HEAD", "/files/a"),
        ("OPTIONS", "/files/a"),
        ("GET", "/unrouted"),
        ("GET", "/echo/x"),
        ("GET", "/switched-off"),
    ],
)
async def test_what_no_function_serves_is_404_and_empty(client: httpx.AsyncClient, method: str, path: str) -> None:
    """There is no 405 and no automatic HEAD or OPTIONS on the host."""
    answer = await client.request(method, path)
    assert (answer.status_code, answer.content) == (404, b"")


async def test_routes_work_with_catch_alls_roots_and_defaults(client: httpx.AsyncClient) -> None:
    """The page is served at `/` through an optional parameter that can't be given."""
    assert (await client.get("/files/a/b%20c%2Fd")).text == "'a/b c%2Fd'"
    assert (await client.get("/files")).text == "None"
    page = await client.get("/")
    assert (page.text, page.headers["content-type"]) == ("<h1>é</h1>", "text/html; charset=utf-8")
    assert (await client.post("/UNROUTED")).status_code == 202


@pytest.mark.parametrize("what", ["none", "dict", "text", "raises", "cancelled", "exits", "badheader", "badstatus"])
async def test_a_function_that_fails_is_500_and_empty_and_the_host_goes_on(
    client: httpx.AsyncClient, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stack trace belongs in the log, not in the answer; and one function must not end the process."""
    answer = await client.get(f"/answer/{what}")
    assert (answer.status_code, answer.content) == (500, b"")
    assert [record for record in caplog.records if record.levelname == "ERROR" and record.name == "devhost.http"]
    assert (await client.get("/answer/typed")).status_code == 200


async def test_responses_are_written_as_the_host_writes_them(client: httpx.AsyncClient) -> None:
    """Of a header given twice the last wins, except cookies; lengths are the host's business."""
    twice = await client.get("/answer/twice")
    assert twice.headers.get_list("x-a") == ["2"]
    assert twice.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert twice.headers["location"] == "/there"
    assert twice.headers["content-type"] == "text/plain; charset=utf-8"
    nothing = await client.get("/answer/nocontent")
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert "content-length" not in nothing.headers
    length = await client.get("/answer/length")
    assert (length.text, length.headers["content-length"]) == ("four", "4")
    assert (await client.get("/answer/typed")).headers["content-type"] == "application/problem+json"


async def test_a_client_that_goes_away_does_not_cancel_its_function(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """A cancel request must land although the page that sent it was closed."""
    signal = tmp_path / "signal"
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/slow", params={"until": str(signal)}, timeout=0.1)
    signal.touch()
    await eventually(Path(f"{signal}.done").exists)


async def test_blocking_functions_run_beside_each_other(client: httpx.AsyncClient) -> None:
    """Sync functions have the worker's thread pool; one must not stop the loop or its neighbours."""
    began = time.monotonic()
    answers = await asyncio.gather(*(client.get("/blocking") for _ in range(3)), client.get("/files/x"))
    assert time.monotonic() - began < 0.8
    assert all(answer.text.startswith("function") for answer in answers[:3])


async def test_pipelined_and_malformed_requests_do_not_confuse_the_host(client: httpx.AsyncClient) -> None:
    """Raw sockets: two requests in one packet are answered in order, nonsense is 400."""
    base = str(client.base_url).rstrip("/")
    first = b"GET /files/a HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /files/b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = await raw(base, first + last)
    assert answer.index(b"'a'") < answer.index(b"'b'")
    assert b" 400 " in (await raw(base, b"NONSENSE\r\n\r\n")).splitlines()[0]
    assert b" 400 " in (await raw(base, b"POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n")).splitlines()[0]
    old = await raw(base, b"GET /echo HTTP/1.0\r\n\r\n")
    assert json.loads(old.partition(b"\r\n\r\n")[2])["url"] == f"{base}/echo"


async def test_a_durable_client_parameter_is_filled(tmp_path: Path) -> None:
    """The binding names the host's own address, whatever the request's Host header says."""
    source = """
    @app.route(route="client")
    @app.generic_input_binding(arg_name="starter", type="durableClient")
    async def client(req: func.HttpRequest, starter: str) -> func.HttpResponse:
        return func.HttpResponse(starter)
    """
    async with serving_app(write_app(tmp_path / "app", source)) as base, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{base}/client", headers={"Host": "elsewhere.example"})
        assert answer.text == "client of http://host.test"


async def test_the_route_prefix_is_api_unless_host_json_says_otherwise(tmp_path: Path) -> None:
    """The default prefix is the host's, not ours."""
    source = """
    @app.route(route="x")
    def x(req: func.HttpRequest) -> func.HttpResponse:
        return func.HttpResponse("x")
    """
    async with (
        serving_app(write_app(tmp_path / "app", source, host_json='{"version": "2.0"}')) as base,
        httpx.AsyncClient(base_url=base, trust_env=False) as client,
    ):
        assert (await client.get("/api/x")).text == "x"
        assert (await client.get("/x")).status_code == 404


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (
            '@app.event_grid_trigger(arg_name="t")\ndef tick(t: func.EventGridEvent) -> None: ...',
            "eventGridTrigger",
        ),
        (
            '@app.route(route="q")\n@app.queue_output(arg_name="out", queue_name="q", connection="c")\n'
            "def tick(req: func.HttpRequest, out: func.Out[str]) -> func.HttpResponse: ...",
            "queue",
        ),
        (
            '@app.queue_output(arg_name="out", queue_name="q", connection="c")\n@app.activity_trigger(input_name="x")\n'
            "def tick(x: str, out: func.Out[str]) -> str: ...",
            "queue",
        ),
    ],
)
def test_what_the_host_does_not_have_is_named_at_start(tmp_path: Path, source: str, named: str) -> None:
    """A trigger that silently never fires would look like a bug of the app."""
    functions = functions_of(write_app(tmp_path / "app", source))
    with pytest.raises(Unserved, match=f"'tick'.*{named}"):
        Application(functions, HostSettings("", "hub"), NoEngine(), "http://host.test")


async def test_a_request_costs_the_host_well_under_a_millisecond(tmp_path: Path) -> None:
    """Guards the fast path: routing, shaping and answering, measured without the socket."""
    functions = functions_of(write_app(tmp_path / "app", APP))
    application = Application(functions, HostSettings("", "hub"), NoEngine(), "http://host.test")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("there is no body")

    headers = [(b"host", b"h"), (b"accept", b"*/*"), (b"x-truestop-dev-user", b"alice;Alice;roles=Truestop.Admin")]
    scope = {"type": "http", "method": "GET", "scheme": "http", "server": ("h", 1), "headers": headers}
    scope |= {"path": "/answer/typed", "raw_path": b"/answer/typed", "query_string": b"a=1&b=2"}
    costs = []
    for _ in range(300):
        began = time.thread_time()
        await application(scope, receive, send)
        costs.append(time.thread_time() - began)
    assert sent[0]["status"] == 200
    assert sorted(costs)[150] < 0.0005
