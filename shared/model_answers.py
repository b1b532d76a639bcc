"""What a model's streamed answer comes to: its text, the tools it wants called, why it ended.

Endpoints differ in how they stream a tool call: piece by piece under an index, whole at once, with or without an id. And
what they send is a model's invention: everything is bounded, and nothing is believed to have the type that it should.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.errors import StepFailed

MAX_CALLS = 128
"""Tool calls of one answer."""
MAX_ARGUMENTS = 256 * 1024
"""Characters of one call's arguments."""
MAX_NAME = 200
MAX_DETAIL = 500

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called. `arguments` is the text that it wrote: JSON, if it did well."""

    id: str
    name: str
    arguments: str


@dataclass
class ModelAnswer:
    """A whole answer. `usage` counts tokens (`prompt_tokens`, `completion_tokens`, `total_tokens`) if the endpoint did."""

    text: str
    finish_reason: str | None
    usage: dict[str, int] | None
    model: str
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """A tool call as it grows."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    size: int = 0


class AnswerReader:
    """Puts the chunks of one answer together. `model`: what was asked for, in case the endpoint doesn't say."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}
        """The call that a piece under each index belongs to."""
        self._usage: dict[str, int] | None = None
        self._finish_reason: str | None = None

    def take(self, chunk: Any) -> str:
        """Note what a chunk says; answers its text. Raises `StepFailed` for what is no chunk, or too much."""
        try:
            return self._take(chunk)
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            detail = "the endpoint sent something that is not a chunk of a chat completion"
            raise StepFailed("model_interrupted", detail, retryable=True) from error

    def _take(self, chunk: Any) -> str:
        self._model = str(chunk.get("model") or self._model)[:MAX_NAME]
        if usage := chunk.get("usage"):
            self._usage = {name: usage[name] for name in _USAGE if isinstance(usage.get(name), int)}
        for choice in (chunk.get("choices") or [])[:1]:
            if reason := choice.get("finish_reason"):
                self._finish_reason = str(reason)[:MAX_NAME]
            delta = choice.get("delta") or {}
            for part in delta.get("tool_calls") or ():
                self._take_call(part)
            if refusal := delta.get("refusal"):
                self._refusal.append(_clean(refusal))
            if text := _clean(delta.get("content")):
                self._text.append(text)
                return text
        return ""

    def _take_call(self, part: dict[str, Any]) -> None:
        function = part.get("function") or {}
        index, own = part.get("index"), _clean(part.get("id"))[:MAX_NAME]
        call = None if index is None else self._at.get(int(index))
        # Some endpoints send each call whole, without an index or all of them under 0.
        if call is None or (own and call.id and own != call.id):
            call = _Call()
            self._calls.append(call)
            self._at[int(index or 0)] = call
        call.id = call.id or own
        call.name = (call.name or _clean(function.get("name")))[:MAX_NAME]
        piece = _clean(function.get("arguments"))
        call.size += len(piece)
        if len(self._calls) > MAX_CALLS or call.size > MAX_ARGUMENTS:
            raise StepFailed(
                "model_answer_too_large",
                f"the model asked for over {MAX_CALLS} tool calls at once, or for one with over {MAX_ARGUMENTS} characters",
            )
        call.arguments.append(piece)

    def whole(self) -> ModelAnswer:
        """The answer, once the stream has ended.

        Raises `StepFailed`: `model_interrupted` when it ended before the answer did, `model_refused`, `model_filtered`.
        """
        if self._finish_reason is None:
            raise StepFailed("model_interrupted", "the model's answer ended before it was complete", retryable=True)
        if self._refusal:
            raise StepFailed("model_refused", f"the model refused: {''.join(self._refusal)[:MAX_DETAIL]}")
        if self._finish_reason == "content_filter":
            raise StepFailed("model_filtered", "the endpoint's content filter cut the answer off")
        answer = ModelAnswer("".join(self._text), self._finish_reason, self._usage, self._model)
        seen: set[str] = set()
        for number, call in enumerate(self._calls):
            # Every result names its call, so each needs an id of its own.
            own = call.id if call.id and call.id not in seen else f"call_{number}"
            seen.add(own)
            answer.tool_calls.append(ToolCall(own, call.name, "".join(call.arguments)))
        return answer


def _clean(value: Any) -> str:
    """A string of an answer as it can be stored: JSON may hold halves of surrogate pairs, UTF-8 may not."""
    text = str(value or "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
