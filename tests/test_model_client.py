"""The model client against the scripted model and against servers that misbehave, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devhost.scripted_model import ScriptedModel
from shared.cancellation import set_current
from shared.errors import Cancellation, NoCurrentRun, RunCancelled, StepFailed
from shared.model_answers import ModelAnswer
from shared.model_client import ModelRequest
from tests.devhost_serving import serving
from tests.model_endpoints import KEY, Model, misbehaving, model_at, saying
from tests.support.waiting import eventually


@pytest_asyncio.fixture
async def model() -> AsyncIterator[Model]:
    async with serving(ScriptedModel()) as base, model_at(f"{base}/dev/model/v1") as one:
        yield one


async def test_an_answer_is_handed_over_as_it_comes_and_whole_at_the_end(model: Model) -> None:
    """The page shows text while it is written; the step's output is all of it."""
    answer = await model.ask("[[say=one two three]]")

    assert model.text == ["one ", "two ", "three"]
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert answer == ModelAnswer("one two three", "stop", usage, "default")
    assert (await model.ask("x", model="other", max_tokens=1)).finish_reason == "length"
    assert [entry["model"] for entry in await model.log()] == ["default", "other"]


async def test_a_cancel_between_chunks_closes_the_connection_at_once(model: Model) -> None:
    """The promise: the endpoint sees the client go within milliseconds, and no text comes after."""
    call = model.ask("[[tokens=1000 delay=10ms]]")
    await eventually(lambda: len(model.text) >= 3)
    cancelled_at = time.monotonic()
    model.token.cancel(Cancellation("api"))
    with pytest.raises(RunCancelled):
        await call
    assert time.monotonic() - cancelled_at < 0.25
    (entry,) = await eventually(model.ended)

    assert entry["how"] == "closed"
    assert entry["ended_t"] - cancelled_at < 0.25
    assert len(model.text) <= entry["sent"] <= len(model.text) + 1
    assert (
        " ".join(model.text).split() == ["The", "reports", "agree", "on", "the", "main", "figures"][: len(model.text)]
    )


@pytest.mark.parametrize(
    ("prompt", "pieces"), [("[[tokens=1000 delay=10ms]]", 3), ("[[hang_after=1 delay=0]]", 1), ("[[hang]]", 0)]
)
async def test_a_cancelled_task_closes_the_connection_wherever_it_waits(model: Model, prompt: str, pieces: int) -> None:
    """The supervisor cancels the task: before the first byte, or in a silence, no chunk comes to check at."""
    call = model.ask(prompt)
    await eventually(lambda: _begun(model, pieces))
    cancelled_at = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (entry,) = await eventually(model.ended)

    assert entry["how"] == "closed"
    assert entry["ended_t"] - cancelled_at < 0.25
    assert len(model.text) >= pieces


async def _begun(model: Model, pieces: int) -> bool:
    return len(model.text) >= pieces and bool(await model.log())


async def test_a_cancelled_call_asks_nothing(model: Model) -> None:
    """After the accept no request may go out; nor may one outside a run, which nothing could cancel."""
    model.token.cancel(Cancellation("api"))
    with pytest.raises(RunCancelled):
        await model.ask("x")
    assert await model.log() == []
    with pytest.raises(NoCurrentRun):
        await model.client.complete(ModelRequest([]), model.text.append)


async def test_a_call_that_is_cancelled_while_the_client_opens_asks_nothing(model: Model) -> None:
    """The first call of a process imports the SDK, which takes long enough for a cancel to come between."""
    call = model.ask("x")
    await asyncio.sleep(0)
    model.token.cancel(Cancellation("api"))
    with pytest.raises(RunCancelled):
        await call
    assert await model.log() == []


async def test_a_consumer_that_fails_closes_the_connection(model: Model) -> None:
    """Text is saved as it comes; when saving fails, the call must not go on being paid for, nor the error be renamed."""

    def refuse(_text: str) -> None:
        raise ValueError("disk full")

    set_current(model.token)
    request = ModelRequest([{"role": "user", "content": "[[tokens=1000 delay=10ms]]"}])
    with pytest.raises(ValueError, match="disk full"):
        await model.client.complete(request, refuse)
    (entry,) = await eventually(model.ended)
    assert (entry["how"], entry["sent"] < 10) == ("closed", True)


async def test_connections_are_used_again_after_an_answer_and_after_a_cancel(model: Model) -> None:
    """One client a process: a pool that leaks or breaks on cancel would end all later runs."""
    for _ in range(20):
        call = model.ask("[[tokens=1000 delay=1ms]]")
        await eventually(lambda: model.text)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        model.text.clear()
    answers = await asyncio.gather(*(model.ask("[[say=a b delay=0 first=0]]") for _ in range(50)))
    assert len(answers) == 50
    entries = await eventually(model.ended)
    assert [entry["how"] for entry in entries] == ["closed"] * 20 + ["done"] * 50


@pytest.mark.parametrize(
    ("status", "code", "retryable", "said"),
    [
        (400, "model_rejected", False, "As the prompt asked"),
        (401, "model_rejected", False, "TRUESTOP_MODEL_API_KEY"),
        (403, "model_rejected", False, "right to use"),
        (404, "model_rejected", False, "TRUESTOP_MODEL_ENDPOINT"),
        (422, "model_rejected", False, "422"),
        (408, "model_timeout", True, "408"),
        (409, "model_unavailable", True, "409"),
        (429, "model_rate_limited", True, "429"),
        (500, "model_unavailable", True, "500"),
        (503, "model_unavailable", True, "503"),
    ],
)
async def test_a_refusal_becomes_a_stable_code(
    model: Model, status: int, code: str, retryable: bool, said: str
) -> None:
    """The pipeline retries by `retryable`; people read the rest."""
    failed = await model.failure(f"[[status={status} retry_after=1.5]]")
    assert (failed.code, failed.retryable) == (code, retryable)
    assert said in failed.detail
    waits = status in (409, 429, 500, 503)
    assert failed.retry_after == (1.5 if waits else None)
    assert len(await model.log()) == 1  # no retry of the SDK's own


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("retry-after-ms: 1500", 1.5),
        ("retry-after: 7", 7.0),
        ("retry-after: 1e9", 3600.0),
        ("retry-after: -3", 0.0),
        ("retry-after: Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("retry-after: nan", None),
        ("retry-after: soon", None),
        ("x: y", None),
    ],
)
async def test_retry_after_is_read_in_every_form_and_bounded(header: str, expected: float | None) -> None:
    """A durable timer is set from it; nonsense must not become a wait of years."""
    async with misbehaving(saying(b"{}", f"429 Slow\r\n{header}", "application/json")) as base, model_at(base) as model:
        assert (await model.failure()).retry_after == expected


async def test_no_quota_left_is_not_retried() -> None:
    """OpenAI answers 429 for an empty account as well; waiting doesn't fill it."""
    payload = json.dumps({"error": {"message": "no quota", "code": "insufficient_quota"}}).encode()
    async with misbehaving(saying(payload, "429 Slow", "application/json")) as base, model_at(base) as model:
        failed = await model.failure()
    assert (failed.code, failed.retryable) == ("model_rejected", False)


async def test_the_key_is_never_repeated() -> None:
    """Some endpoints quote the key they refuse; errors are stored and shown."""
    payload = json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
    async with misbehaving(saying(payload, "401 No", "application/json")) as base, model_at(base) as model:
        assert "bad key ***" in (await model.failure()).detail


async def test_a_cut_answer_is_interrupted_and_what_came_is_kept(model: Model) -> None:
    """Half an answer must not pass for one."""
    failed = await model.failure("[[say=one two three delay=0]] [[cut_after=2]]")
    assert (failed.code, failed.retryable) == ("model_interrupted", True)
    assert model.text == ["one ", "two "]


CHUNK = b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": null}]}\n\n'


@pytest.mark.parametrize(
    "payload",
    [
        CHUNK,
        CHUNK + b"data: [DONE]\n\n",
        CHUNK + b'data: {"error": {"message": "overloaded"}}\n\n',
        CHUNK + b"data: {broken\n\n",
        CHUNK + b"data: \xff\xfe\n\n",
        CHUNK + b"data: [1]\n\n",
        CHUNK + b'data: {"choices": ["x"]}\n\n',
        CHUNK + b'data: {"choices": 7}\n\n',
        CHUNK + b'data: {"choices": [{"delta": 7}]}\n\n',
    ],
)
async def test_an_answer_that_ends_or_turns_into_nonsense_is_interrupted(payload: bytes) -> None:
    """A proxy that gives up closes the connection properly, so only the finish reason says that all came."""
    async with misbehaving(saying(payload)) as base, model_at(base) as model:
        failed = await model.failure()
    assert (failed.code, failed.retryable, model.text) == ("model_interrupted", True, ["hi"])


async def test_a_page_instead_of_an_answer_is_rejected() -> None:
    """The commonest wrong endpoint answers 200 with HTML; retrying it helps nobody."""
    async with misbehaving(saying(b"<html>", kind="text/html")) as base, model_at(base) as model:
        failed = await model.failure()
    assert (failed.code, failed.retryable) == ("model_rejected", False)
    assert "TRUESTOP_MODEL_ENDPOINT" in failed.detail


@pytest.mark.parametrize("prompt", ["[[hang]]", "[[hang_after=1 delay=0]]"])
async def test_silence_is_a_timeout_before_and_within_an_answer(model: Model, prompt: str) -> None:
    """A dead endpoint must not hold a run until its deadline."""
    async with model_at(f"{model.base}/dev/model/v1", read_timeout=0.1) as hasty:
        failed = await hasty.failure(prompt)
    assert (failed.code, failed.retryable) == ("model_timeout", True)
    (entry,) = await eventually(model.ended)
    assert entry["how"] == "closed"


async def test_an_endpoint_that_can_not_be_reached_or_hangs_up_is_unavailable() -> None:
    """Both pass; a run may wait for that."""

    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async with misbehaving(hang_up) as base, model_at(base) as model:
        failed = await model.failure()
        assert (failed.code, failed.retryable) == ("model_unavailable", True)
    async with model_at(base) as model:  # nobody listens there any more
        failed = await model.failure()
        assert (failed.code, failed.retryable) == ("model_unavailable", True)
        with pytest.raises(StepFailed, match="model_unavailable"):
            await model.client.probe()
