"""Tool calls and refusals in a model's streamed answer, however an endpoint sends them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devhost.scripted_model import ScriptedModel
from shared.errors import StepFailed
from shared.model_answers import MAX_ARGUMENTS, MAX_CALLS, AnswerReader, ModelAnswer, ToolCall
from tests.devhost_serving import serving
from tests.model_endpoints import misbehaving, model_at, saying

TOOL = {"type": "function", "function": {"name": "look_up", "description": "", "parameters": {"type": "object"}}}


def part(index: int | None, name: str | None, arguments: str, own: str | None = None) -> dict[str, Any]:
    """A piece of a tool call, without what an endpoint may leave out."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"function": function} | ({} if index is None else {"index": index}) | ({"id": own} if own else {})


def chunks(*deltas: dict[str, Any], reason: str | None = "tool_calls") -> Iterator[dict[str, Any]]:
    """Chunks with these deltas, the last of which gives the reason."""
    for delta in deltas:
        yield {"choices": [{"delta": delta, "finish_reason": None}]}
    yield {"choices": [{"delta": {}, "finish_reason": reason}]}


def read(*deltas: dict[str, Any], reason: str | None = "tool_calls") -> ModelAnswer:
    """The answer that the deltas come to."""
    reader = AnswerReader("asked")
    for chunk in chunks(*deltas, reason=reason):
        reader.take(chunk)
    return reader.whole()


async def test_parallel_calls_are_put_together_from_their_pieces() -> None:
    """Guards what an agent lives on, over a real socket: names, ids and arguments, and the tools that were offered."""
    prompt = '[[tool=look_up arguments={"word": "a long enough argument"} tool=sleep arguments={"seconds": 1}]]Go'
    async with serving(ScriptedModel()) as base, model_at(f"{base}/dev/model/v1") as model:
        answer = await model.ask(prompt, tools=[TOOL])
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    assert [(call.name, json.loads(call.arguments)) for call in answer.tool_calls] == [
        ("look_up", {"word": "a long enough argument"}),
        ("sleep", {"seconds": 1}),
    ]
    assert len({call.id for call in answer.tool_calls}) == 2


@pytest.mark.parametrize(
    "parts",
    [
        [part(0, "a", "", "x"), part(0, None, '{"n":'), part(1, "b", "{}", "y"), part(0, None, "1}")],
        [part(None, "a", '{"n":1}', "x"), part(None, "b", "{}", "y")],
        [part(0, "a", '{"n":1}', "x"), part(0, "b", "{}", "y")],
        [part(3, "a", '{"n":1}', "x"), part(1, "b", "{}", "y")],
    ],
    ids=["interleaved", "no index", "all under 0", "odd indexes"],
)
def test_every_way_of_streaming_calls_comes_to_the_same(parts: list[dict[str, Any]]) -> None:
    """Guards compatible endpoints, which differ here more than anywhere."""
    answer = read(*({"tool_calls": [one]} for one in parts))
    assert answer.tool_calls == [ToolCall("x", "a", '{"n":1}'), ToolCall("y", "b", "{}")]


def test_calls_without_an_id_or_with_the_same_one_get_their_own() -> None:
    """Guards the transcript: each result names its call."""
    answer = read({"tool_calls": [part(0, "a", "{}", "x"), part(1, "b", "{}", "x"), part(2, "c", "{}")]})
    assert [call.id for call in answer.tool_calls] == ["x", "call_1", "call_2"]


def test_a_refusal_and_a_filtered_answer_are_failures_that_no_retry_mends() -> None:
    """Guards against taking an empty text for an answer."""
    with pytest.raises(StepFailed) as refused:
        read({"refusal": "I can't "}, {"refusal": "help with that."}, reason="stop")
    assert (refused.value.code, refused.value.retryable) == ("model_refused", False)
    assert "I can't help with that." in refused.value.detail
    with pytest.raises(StepFailed) as filtered:
        read({"content": "Some"}, reason="content_filter")
    assert (filtered.value.code, filtered.value.retryable) == ("model_filtered", False)


def test_an_endless_answer_of_calls_is_cut_off() -> None:
    """Guards memory against a model, or an endpoint, that never stops calling."""
    many = [{"tool_calls": [part(number, "a", "{}")]} for number in range(MAX_CALLS + 1)]
    large = [{"tool_calls": [part(0, "a", "x" * (MAX_ARGUMENTS // 2 + 1))]}] * 2
    for deltas in (many, large):
        with pytest.raises(StepFailed) as caught:
            read(*deltas)
        assert (caught.value.code, caught.value.retryable) == ("model_answer_too_large", False)


@pytest.mark.parametrize("delta", ['{"tool_calls": 7}', '{"tool_calls": ["x"]}', '{"tool_calls": [{"index": "one"}]}'])
async def test_calls_that_are_nonsense_interrupt_the_answer(delta: str) -> None:
    """Guards against a fault of ours being told where the endpoint's is."""
    payload = f'data: {{"choices": [{{"delta": {delta}, "finish_reason": null}}]}}\n\n'.encode()
    async with misbehaving(saying(payload)) as base, model_at(base) as model:
        failed = await model.failure()
    assert (failed.code, failed.retryable) == ("model_interrupted", True)


def test_half_a_surrogate_pair_becomes_text_that_can_be_stored() -> None:
    """Guards the store: JSON can hold what UTF-8 can't, and models have written it."""
    answer = read({"content": "a\ud800b"}, {"tool_calls": [part(0, "n\udfff", '"\ud83d\ude00\ud800"')]})
    assert answer.text == "a\ufffdb"
    assert answer.tool_calls[0].name == "n\ufffd"
    answer.tool_calls[0].arguments.encode()
