"""Tools: schemas, strict arguments, what becomes of errors and cancels, and the built-in ones."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from shared import web
from shared.blobs import LocalBlobs
from shared.cancellation import CancelToken, checkpoint, current_token, set_current
from shared.documents import Documents
from shared.errors import Cancellation, NoCurrentRun, RunCancelled, StepFailed
from shared.tools import ToolContext, builtin, registry, tool
from shared.tools.registry import MAX_RESULT_BYTES, make_tool
from shared.tools.testing import ToolRun
from shared.web import CheckedClient, Fetched, FetchLimits


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int = 0


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    return ToolContext(Documents(LocalBlobs(tmp_path), "user:ana"), ToolRun(tmp_path), FetchLimits(allow_private=True))


@pytest.fixture
def token() -> CancelToken:
    return CancelToken()


def plain(
    count: int,
    schema: str,
    context: ToolContext,
    ratio: float = 0.5,
    colour: Colour = Colour.RED,
    _odd: str | None = None,
) -> Any:
    """Do a plain thing.

    At length.

    Args:
        count: How many.
        schema (str): A name that pydantic
            would not take: really.
        ratio: Between.

    Returns:
        Nothing: of note.
    """
    return [count, schema, ratio, colour, _odd, isinstance(context, ToolContext)]


async def test_a_schema_comes_from_hints_and_docstring() -> None:
    """What a model is told is what the function says of itself."""
    made = make_tool(plain, side_effects=("artifact",))
    assert (made.name, made.description, made.side_effects) == (
        "plain",
        "Do a plain thing.\n\nAt length.",
        ("artifact",),
    )
    properties = made.parameters["properties"]
    assert list(properties) == ["count", "schema", "ratio", "colour", "_odd"]
    assert properties["count"] == {"description": "How many.", "type": "integer"}
    assert properties["schema"]["description"] == "A name that pydantic would not take: really."
    assert properties["ratio"]["default"] == 0.5
    assert made.parameters["required"] == ["count", "schema"]
    assert made.parameters["additionalProperties"] is False
    assert "title" not in made.parameters
    assert not any("title" in one for one in properties.values())
    assert "ontext" not in str(made.parameters)


async def test_arguments_arrive_as_the_hints_say(context: ToolContext, token: CancelToken) -> None:
    """Enums and models from JSON, defaults where nothing was given."""
    set_current(token)
    made = make_tool(plain)
    assert await made.call({"count": 1, "schema": "s"}, context) == [1, "s", 0.5, "red", None, True]
    given = {"count": 1, "schema": "s", "ratio": 2, "colour": "blue", "_odd": "o"}
    assert await made.call(given, context) == [1, "s", 2.0, "blue", "o", True]

    def nested(points: list[Point], kind: Literal["a", "b"] = "a") -> int:
        assert all(isinstance(point, Point) for point in points)
        return sum(point.x + point.y for point in points)

    assert await make_tool(nested).call({"points": [{"x": 1}, {"x": 2, "y": 3}]}, context) == 6


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "count"),
        ({"count": 1}, "schema"),
        ({"count": "1", "schema": "s"}, "count"),
        ({"count": True, "schema": "s"}, "count"),
        ({"count": 1.5, "schema": "s"}, "count"),
        ({"count": 1, "schema": None}, "schema"),
        ({"count": 1, "schema": "s", "extra": 1}, "extra"),
        ({"count": 1, "schema": "s", "context": {}}, "context"),
        ({"count": 1, "schema": "s", "p0": 3}, "p0"),
        ({"count": 1, "schema": "s", "colour": "green"}, "colour"),
        ({"count": 1, "schema": "s", "ratio": float("nan")}, "JSON"),
        ({"count": 1, "schema": object()}, "JSON"),
        ({"count": 1, "schema": "\ud800"}, "arguments"),
    ],
)
async def test_wrong_arguments_are_named(
    arguments: dict[str, Any], field: str, context: ToolContext, token: CancelToken
) -> None:
    """A model that invents arguments is told which, and the tool doesn't run."""
    set_current(token)
    with pytest.raises(StepFailed) as caught:
        await make_tool(plain).call(arguments, context)
    assert caught.value.code == "tool_arguments_invalid"
    assert field in caught.value.detail


def raising(error: BaseException) -> tuple[Any, Any]:
    """A sync and an async tool that raise `error`."""

    def sync_tool() -> None:
        raise error

    async def async_tool() -> None:
        raise error

    return make_tool(sync_tool), make_tool(async_tool)


async def test_errors_of_a_tool_become_failed_steps(context: ToolContext, token: CancelToken) -> None:
    """Whatever a tool raises, the host lives on; `StopIteration` and `SystemExit` would wedge a future or end a loop."""
    set_current(token)
    for error in (ValueError("bad value"), StopIteration("bad value"), SystemExit("bad value"), KeyError("bad value")):
        for made in raising(error):
            with pytest.raises(StepFailed) as caught:
                await asyncio.wait_for(made.call({}, context), 5)
            assert caught.value.code == "tool_failed"
            assert "bad value" in caught.value.detail or "StopIteration" in caught.value.detail
    own = StepFailed("quota", "no more", retryable=True, retry_after=3)
    for made in raising(own):
        with pytest.raises(StepFailed) as caught:
            await made.call({}, context)
        assert caught.value is own
        assert caught.value.__cause__ is None


async def test_cancels_pass_through_untouched(context: ToolContext, token: CancelToken) -> None:
    """A tool layer never turns a cancel into a result or an error."""
    set_current(token)
    for error in (RunCancelled(Cancellation("test")), asyncio.CancelledError()):
        for made in raising(error):
            with pytest.raises(type(error)):
                await asyncio.wait_for(made.call({}, context), 5)
    token.cancel(Cancellation("test"))
    with pytest.raises(RunCancelled):
        await registry.get("echo").call({"value": 1}, context)


async def test_a_tool_needs_a_run(context: ToolContext) -> None:
    """Outside a run nothing could stop it."""
    with pytest.raises(NoCurrentRun):
        await registry.get("echo").call({"value": 1}, context)


async def test_a_sync_tool_runs_in_a_thread_with_the_token(context: ToolContext, token: CancelToken) -> None:
    """It must not hold the loop, and its checkpoints must work there."""
    set_current(token)
    began = threading.Event()

    def busy() -> None:
        assert current_token() is token
        assert threading.current_thread() is not threading.main_thread()
        began.set()
        while True:
            checkpoint()
            time.sleep(0.005)

    task = asyncio.ensure_future(make_tool(busy).call({}, context))
    await asyncio.to_thread(began.wait, 5)
    token.cancel(Cancellation("test"))
    with pytest.raises(RunCancelled):
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize(
    "result",
    [
        object(),
        {1, 2},
        b"bytes",
        float("nan"),
        {"a": object()},
        "x" * (MAX_RESULT_BYTES + 1),
        "é" * MAX_RESULT_BYTES,
        "\ud800",
    ],
    ids=["object", "set", "bytes", "nan", "nested", "large", "large in UTF-8", "half a surrogate"],
)
async def test_results_must_be_json_and_bounded(result: Any, context: ToolContext, token: CancelToken) -> None:
    """A result is stored and sent to a model."""
    set_current(token)
    with pytest.raises(StepFailed) as caught:
        await make_tool(lambda: result, name="odd").call({}, context)
    assert caught.value.code == "tool_result_invalid"


async def test_endless_results_are_refused(context: ToolContext, token: CancelToken) -> None:
    """A cycle, or nesting beyond sense, is no JSON."""
    set_current(token)
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for kind in ("cycle", "deep"):
        with pytest.raises(StepFailed, match="tool_result_invalid"):
            await make_tool({"cycle": lambda: cycle, "deep": lambda: deep}[kind], name="odd").call({}, context)


async def test_results_are_what_json_makes_of_them(context: ToolContext, token: CancelToken) -> None:
    """So that the next step sees the same as one that reads the stored output."""
    set_current(token)
    assert await make_tool(lambda: {"a": (1, 2)}, name="pair").call({}, context) == {"a": [1, 2]}


def test_signatures_that_can_not_be_tools_are_refused() -> None:
    """At import, with the parameter's name: not in a run."""

    def starred(*values: int) -> None: ...
    def keywords(**values: int) -> None: ...
    def positional(value: int, /) -> None: ...
    def untyped(value) -> None: ...  # type: ignore[no-untyped-def]

    for function in (starred, keywords, positional, untyped):
        with pytest.raises(TypeError, match="value"):
            make_tool(function)


def test_the_decorator_registers_bare_or_with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the function a plain function."""
    monkeypatch.setattr(registry, "_tools", dict(registry._tools))

    @tool
    def first(a: int) -> int:
        """First."""
        return a

    @tool(name="other", side_effects=("notification",))
    async def second() -> None:
        """Second."""

    assert first(3) == 3
    assert registry.get("first").side_effects == ()
    assert registry.get("other").side_effects == ("notification",)
    assert {"first", "other", "sleep"} <= set(registry.names())
    with pytest.raises(ValueError, match="first"):
        tool(first)
    with pytest.raises(StepFailed, match="tool_unknown"):
        registry.get("second")


def test_the_built_in_tools_are_there_and_described() -> None:
    """A model chooses by description: none may lack one, for itself or a parameter."""
    side_effects = {name: registry.get(name).side_effects for name in registry.names()}
    assert side_effects == {
        **dict.fromkeys(("echo", "fetch_url", "read_document", "run_workflow", "search_documents", "sleep"), ()),
        "notify": ("notification",),
        "write_artifact": ("artifact",),
    }
    for name in registry.names():
        made = registry.get(name)
        assert made.description
        assert all(one["description"] for one in made.parameters["properties"].values())


async def test_sleep_is_cancelled_at_once(context: ToolContext, token: CancelToken) -> None:
    """An awaitable tool stops when its task is cancelled."""
    set_current(token)
    task = asyncio.ensure_future(registry.get("sleep").call({"seconds": 600}, context))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    assert await registry.get("sleep").call({"seconds": 0}, context) == 0
    for seconds in (-1, 3601):
        with pytest.raises(StepFailed, match="seconds"):
            await registry.get("sleep").call({"seconds": seconds}, context)


async def test_a_blocking_sleep_is_waited_for(
    context: ToolContext, token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built-in example of a tool that ignores cancels: nothing may say that it has stopped while it goes on."""
    set_current(token)
    began, release = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        assert seconds == 5
        began.set()
        release.wait(10)

    monkeypatch.setattr(builtin, "time", SimpleNamespace(sleep=sleep))
    task = asyncio.ensure_future(registry.get("sleep").call({"seconds": 5, "blocking": True}, context))
    assert await asyncio.to_thread(began.wait, 5)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done
    release.set()
    assert await asyncio.wait_for(task, 5) == 5


async def test_documents_are_read_and_searched(context: ToolContext, token: CancelToken) -> None:
    """Over real formats; a file that can't be read doesn't spoil the search."""
    set_current(token)
    for path in (Path(__file__).parent / "data").iterdir():
        if path.suffix != ".py" and path.is_file():
            await context.documents.put(f"in/{path.name}", path.read_bytes(), "application/octet-stream")
    assert "Porto" in await registry.get("read_document").call({"name": "in/meeting_notes.md"}, context)
    with pytest.raises(StepFailed, match="document_missing"):
        await registry.get("read_document").call({"name": "in/none.md"}, context)
    search = registry.get("search_documents")
    found = await search.call({"query": "hallberg &  SØN"}, context)
    assert [one["name"] for one in found] == ["in/meeting_notes.md", "in/supplier_news.html"]
    assert all("Hallberg & Søn" in one["snippet"] and len(one["snippet"]) < 400 for one in found)
    assert await search.call({"query": "Hallberg", "prefix": "out/"}, context) == []
    assert len(await search.call({"query": "south", "limit": 1}, context)) == 1
    assert await search.call({"query": "   "}, context) == []
    token.cancel(Cancellation("test"))
    with pytest.raises(RunCancelled):
        await search.call({"query": "south"}, context)


def test_a_snippet_shows_the_right_place() -> None:
    """Letters that grow when lowered must not shift what is shown."""
    grown = builtin._snippet("İ" * 500 + " the WORD here", "word")
    assert grown is not None and grown.endswith(" the word here")
    assert builtin._snippet("a" * 500 + " the\n\nWORD here " + "b" * 500, "the word") == (
        f"…{'a' * 119} the WORD here {'b' * 114}…"
    )
    assert builtin._snippet("nothing", "word") is None


async def test_fetch_url_gives_text_within_bounds(
    context: ToolContext, token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limits and the client of the context; what is cut says so."""
    set_current(token)
    seen: list[Any] = []

    async def fetch(url: str, *, limits: FetchLimits, client: CheckedClient | None) -> Fetched:
        seen.append((url, limits, client))
        return Fetched(url, url, 200, "text/html", b"<h1>Long</h1><p>" + b"x" * 300_000)

    monkeypatch.setattr(web, "fetch", fetch)
    text = await registry.get("fetch_url").call({"url": "http://x.test/"}, context)
    assert seen == [("http://x.test/", context.fetch_limits, None)]
    assert text.startswith("Long\nxxx")
    assert text.endswith(f"[cut here: these are the first 200000 of {5 + 300_000 + 1} characters]")


async def test_fetch_url_refuses_private_addresses(context: ToolContext, token: CancelToken) -> None:
    """A model must not be talked into reading this machine's metadata."""
    set_current(token)
    for url in ("http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/", "http://168.63.129.16/"):
        with pytest.raises(StepFailed, match="fetch_forbidden_address"):
            await registry.get("fetch_url").call({"url": url}, context)
