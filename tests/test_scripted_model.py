"""The scripted model over real sockets: it answers as OpenAI's API does, obeys its prompt, and notes what it sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from devhost.scripted_model import ScriptedModel
from devhost.scripted_model.directives import BadDirective, parse
from devhost.scripted_model.log import ExchangeLog
from tests.devhost_serving import raw, serving
from tests.support.waiting import eventually

CHAT = "/dev/model/v1/chat/completions"
LOG = "/dev/model/log"


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving(ScriptedModel()) as base, httpx.AsyncClient(base_url=base, trust_env=False, timeout=10) as one:
        yield one


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}


async def events(client: httpx.AsyncClient, prompt: str, **more: Any) -> list[Any]:
    """The events of a streamed answer; the last is "[DONE]"."""
    answer = await client.post(CHAT, json=body(prompt, stream=True, **more))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [json.loads(one) if one != "[DONE]" else one for one in data]


async def log(client: httpx.AsyncClient, after: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(LOG, params={"after": after})).json()
    return found


def text_of(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks[:-1] for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_a_stream_has_the_chunks_that_clients_expect(client: httpx.AsyncClient) -> None:
    """Role first, then text, a finish reason, usage if asked for, and the end mark."""
    chunks = await events(client, "[[say=one two  three]]", stream_options={"include_usage": True})

    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(chunks) == "one two  three"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-2]] == [None] * 4 + ["stop"]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert chunks[-1] == "[DONE]"
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
    assert {chunk["object"] for chunk in chunks[:-1]} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in (await events(client, "[[say=x]]"))[:-1])


async def test_the_official_sdk_understands_every_kind_of_answer(client: httpx.AsyncClient) -> None:
    """What the app uses in Azure must read the same answers here."""
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/dev/model/v1", api_key="x", max_retries=0) as sdk:
        ask: Any = sdk.chat.completions.create
        whole = await ask(**body("[[tokens=3 delay=0 first=0]] Count the words, please"))
        assert whole.choices[0].message.content == "On “Count the"
        assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (3, "stop")
        call = await ask(**body('[[tool=find arguments={"a": [[1]], "b": "]]"} tool=other delay=0]]'))
        assert [one.function.name for one in call.choices[0].message.tool_calls] == ["find", "other"]
        assert json.loads(call.choices[0].message.tool_calls[0].function.arguments) == {"a": [[1]], "b": "]]"}
        assert call.choices[0].finish_reason == "tool_calls"
        assert [model.id async for model in sdk.models.list()] == ["scripted"]
        with pytest.raises(openai.RateLimitError, match="As the prompt asked") as refused:
            await ask(**body("[[status=429 retry_after=1.5]]"))
        assert refused.value.response.headers["retry-after"] == "1.5"


async def test_the_default_answer_is_short_deterministic_and_quotes_the_prompt(client: httpx.AsyncClient) -> None:
    """A demo should read like one, and a test be able to compare."""
    first = parse("Summarise the [[key=k]] quarterly report for us").words()
    assert len(first) == 40
    assert "".join(first).startswith("On “Summarise the quarterly report for us”: The reports agree")
    assert first == parse("Summarise the [[key=k]] quarterly report for us").words()
    assert len(parse("").words()) == 40
    assert parse("x").delay == 0.02


async def test_a_streamed_tool_call_comes_in_pieces(client: httpx.AsyncClient) -> None:
    """Arguments arrive split; whoever joins them by index gets JSON."""
    chunks = await events(client, '[[tool=a arguments={"text": "a long enough argument"} tool=b delay=0 first=0]]')

    parts = [part for chunk in chunks[:-1] for part in chunk["choices"][0]["delta"].get("tool_calls", [])]
    named = {part["index"]: part["function"]["name"] for part in parts if "id" in part}
    joined = {index: "".join(p["function"]["arguments"] for p in parts if p["index"] == index) for index in named}
    assert named == {0: "a", 1: "b"}
    assert json.loads(joined[0]) == {"text": "a long enough argument"}
    assert json.loads(joined[1]) == {}
    assert len(parts) > 4
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_each_tool_directive_is_one_turn_and_then_comes_text(client: httpx.AsyncClient) -> None:
    """An agent's loop must end: the same prompt comes again with every tool result."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "[[tool=a delay=0]] [[tool=b]] [[say=done]]"}]}
    ]
    names = []
    for _ in range(3):
        answer = (await client.post(CHAT, json={"model": "m", "messages": messages})).json()["choices"][0]["message"]
        names.append(answer["tool_calls"][0]["function"]["name"] if answer.get("tool_calls") else answer["content"])
        messages.append(answer)
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in answer.get("tool_calls", [])
        ]
    assert names == ["a", "b", "done"]


async def test_tokens_come_at_the_asked_pace_and_their_times_are_noted(client: httpx.AsyncClient) -> None:
    """Latency figures are computed from these times."""
    chunks = await events(client, "[[tokens=5 delay=20ms first=0.1s key=k]] " + "x" * 300)
    (entry,) = await log(client)

    assert len(text_of(chunks).split()) == 5
    assert (entry["sent"], entry["how"], entry["key"], entry["model"]) == (5, "done", "k", "m")
    assert entry["prompt"] == ("[[tokens=5 delay=20ms first=0.1s key=k]] " + "x" * 300)[:200]
    for number, moment in enumerate(entry["tokens"]):
        assert 0.1 + number * 0.02 - 0.002 <= moment < 0.1 + number * 0.02 + 0.15
    assert entry["t"] <= time.monotonic() - 0.18
    assert entry["ended_t"] - entry["t"] >= entry["tokens"][-1]
    assert entry["began_at"].endswith("Z")
    assert entry["ended_at"] >= entry["began_at"]


async def test_max_tokens_cuts_the_answer(client: httpx.AsyncClient) -> None:
    """The finish reason must say so."""
    chunks = await events(client, "[[tokens=9 delay=0]]", max_tokens=2)
    assert len(text_of(chunks).split()) == 2
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    whole = (await client.post(CHAT, json=body("[[say=a b c]]", max_completion_tokens=1))).json()
    assert (whole["choices"][0]["message"]["content"], whole["choices"][0]["finish_reason"]) == ("a", "length")


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [("[[tokens=1000 delay=10ms]]", None), ("[[hang]]", 0), ("[[hang_after=2 delay=0]]", 2), ("[[first=60s]]", 0)],
)
async def test_a_client_that_goes_is_noticed_at_once(client: httpx.AsyncClient, prompt: str, sent: int | None) -> None:
    """The proof that a cancel stops the work is that this log says "closed", and when."""

    async def ask() -> None:
        async with client.stream("POST", CHAT, json=body(prompt, stream=True)) as answer:
            async for _ in answer.aiter_bytes():
                pass

    asking = asyncio.create_task(ask())
    await eventually(lambda: _sent(client, sent if sent is not None else 3))
    assert (await log(client))[0]["how"] == "open"
    gone = time.monotonic()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    (entry,) = await eventually(lambda: _ended(client))

    assert entry["how"] == "closed"
    assert -0.001 < entry["ended_t"] - gone < 0.25
    assert entry["sent"] == len(entry["tokens"])
    assert all(entry["t"] + moment <= entry["ended_t"] for moment in entry["tokens"])
    if sent is not None:
        assert entry["sent"] == sent
    await asyncio.sleep(0.05)  # no token may follow: there is nothing to wait for
    assert await log(client) == [entry]


async def _sent(client: httpx.AsyncClient, count: int) -> bool:
    found = await log(client)
    return bool(found) and found[0]["sent"] >= count


async def _ended(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    found = await log(client)
    return found if found and found[0]["how"] != "open" else []


async def test_a_whole_answer_is_sent_only_to_who_waited_for_it(client: httpx.AsyncClient) -> None:
    """Without streaming nothing counts as sent before the end."""
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=body("[[tokens=5 delay=1s]]"), timeout=0.1)
    (entry,) = await eventually(lambda: _ended(client))
    assert (entry["how"], entry["sent"]) == ("closed", 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_cut_after_breaks_the_connection_in_the_middle(client: httpx.AsyncClient, stream: bool) -> None:
    """The client must see a broken answer, never a short one that looks whole."""
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(CHAT, json=body("[[cut_after=2 delay=0]]", stream=stream))
    (entry,) = await log(client)
    assert entry["how"] == "cut"


async def test_times_limits_misbehaviour_to_the_first_requests_of_a_key(client: httpx.AsyncClient) -> None:
    """A retry must be able to succeed, and two tests not to disturb each other."""

    async def status(prompt: str) -> int:
        return (await client.post(CHAT, json=body(prompt))).status_code

    failing = "[[status=503 times=2 key=a delay=0 first=0]]"
    assert [await status(failing) for _ in range(3)] == [503, 503, 200]
    assert await status(failing.replace("key=a", "key=b")) == 503
    other = "[[status=500 times=1 delay=0]] another prompt, no key"
    assert [await status(other) for _ in range(2)] == [500, 200]
    assert (await client.delete(LOG)).status_code == 204
    assert await status(failing) == 503


@pytest.mark.parametrize(
    "prompt",
    [
        "[[tokens=100001]]",
        "[[tokens=x]]",
        "[[delay=61s]]",
        "[[delay=-1s]]",
        "[[status=200]]",
        "[[tokens=5 colour=red]]",
        "[[tokens=5",
        "[[say=]]",
        "[[say=x",
        "[[tool=a arguments={broken]]",
        "[[tokens=5 hang_after]]",
    ],
)
def test_a_directive_that_can_not_be_understood_is_refused(prompt: str) -> None:
    """A misspelt directive that is ignored makes a test pass for the wrong reason."""
    with pytest.raises(BadDirective):
        parse(prompt)


def test_brackets_that_are_no_directive_are_text() -> None:
    """Documents hold wiki links, and code holds nested lists."""
    prompt = "See [[Home]], [[hanging gardens]], [[1, 2], [3]] and [[ status ]]"
    assert parse(prompt).prompt == prompt


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"[" * 100_000, None),
        (b'{"messages": []}', "model"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": [1]}', "messages[0]"),
        (b'{"model": "m", "messages": [{"role": "user"}], "n": 2}', "n"),
        (b'{"model": "m", "messages": [{"role": "user"}], "stream": "yes"}', "stream"),
        (b'{"model": "m", "messages": [{"role": "user"}], "max_tokens": -1}', "max_tokens"),
        (json.dumps(body("[[tokens=x]]")).encode(), "messages"),
    ],
)
async def test_a_bad_body_is_400_in_openais_shape(client: httpx.AsyncClient, content: bytes, param: str | None) -> None:
    """The app's handling of rejections is tested against this shape."""
    answer = await client.post(CHAT, content=content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert (await log(client))[0]["how"] == "error"


async def test_the_log_pages_clears_and_checks_its_query(client: httpx.AsyncClient) -> None:
    """A bench reads it bit by bit."""
    for word in ("one", "two", "three"):
        await client.post(CHAT, json=body(f"[[say={word}]]"))
    assert [entry["id"] for entry in await log(client)] == [1, 2, 3]
    assert [entry["id"] for entry in await log(client, after=2)] == [3]
    assert (await client.get(LOG, params={"after": "x"})).status_code == 400
    await client.delete(LOG)
    assert await log(client) == []
    await client.post(CHAT, json=body("[[say=four]]"))
    assert [entry["id"] for entry in await log(client)] == [4]
    assert (await client.get("/dev/model/other")).status_code == 404


def test_the_log_is_bounded_in_requests_and_in_token_times() -> None:
    """A host that runs for weeks must not grow; an evicted answer that goes on must not be counted."""
    kept = ExchangeLog(max_exchanges=3, max_times=10)
    first = kept.open()
    for _ in range(3):
        kept.open()
    kept.sent(first, time.monotonic(), 100)
    assert [entry["id"] for entry in json.loads("".join(kept.after(0)))] == [2, 3, 4]
    last = kept.open()
    kept.sent(last, time.monotonic(), 11)
    assert [entry["id"] for entry in json.loads("".join(kept.after(0)))] == [5]


async def test_a_request_that_breaks_off_is_closed_in_the_log(client: httpx.AsyncClient) -> None:
    """Half a request is no request, and must not stay open in the log."""
    base = str(client.base_url).rstrip("/")
    host, _, port = base.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf".encode())
    await writer.drain()
    await eventually(lambda: log(client))
    writer.close()
    await writer.wait_closed()
    (entry,) = await eventually(lambda: _ended(client))
    assert (entry["how"], entry["model"]) == ("closed", None)


async def test_two_requests_on_one_connection_do_not_disturb_each_other(client: httpx.AsyncClient) -> None:
    """A pipelined second request must wait for the first, not end it."""
    content = json.dumps(body("[[say=a b c]]")).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(content)}\r\n".encode()
    both = head + b"\r\n" + content + head + b"Connection: close\r\n\r\n" + content
    answer = await raw(str(client.base_url).rstrip("/"), both)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert [entry["how"] for entry in await log(client)] == ["done", "done"]
