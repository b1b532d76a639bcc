"""OpenAI's chat completions as bytes: what a request must look like, and chunks, answers and errors."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class BadRequest(ValueError):
    """A body that is not a chat completion request; `param` is the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message, self.param = message, param


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is heeded of a request. `turn` counts the model's tool turns since the last user message."""

    model: str
    prompt: str
    prompt_tokens: int
    turn: int
    stream: bool
    include_usage: bool
    max_tokens: int | None


def parse_request(body: bytes) -> ChatRequest:
    """Raises `BadRequest`."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
    if not isinstance(content, dict):
        raise BadRequest("The body must be a JSON object.")
    model, messages = content.get("model"), content.get("messages")
    if not isinstance(model, str) or not model:
        raise BadRequest("You must provide a model parameter.", "model")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be an array with at least one message.", "messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest("A message must be an object with a role.", f"messages[{number}]")
    if content.get("n") not in (None, 1):
        raise BadRequest("Only one choice can be made.", "n")
    stream, options = content.get("stream") or False, content.get("stream_options") or {}
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise BadRequest("'stream' must be a boolean and 'stream_options' an object.", "stream")
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    since = messages[users[-1] + 1 :] if users else []
    return ChatRequest(
        model=model,
        prompt=_text(messages[users[-1]]) if users else "",
        prompt_tokens=sum(len(_text(message).split()) for message in messages),
        turn=sum(1 for message in since if message["role"] == "assistant" and message.get("tool_calls")),
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        max_tokens=_max_tokens(content),
    )


def _text(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _max_tokens(content: Json) -> int | None:
    name = "max_completion_tokens" if content.get("max_completion_tokens") is not None else "max_tokens"
    value = content.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise BadRequest(f"'{name}' must be a whole number above 0.", name)
    return value


class Writer:
    """Writes one answer: its chunks, or the whole of it."""

    def __init__(self, number: int, request: ChatRequest) -> None:
        self._request = request
        self._head: Json = {"id": f"chatcmpl-dev{number}", "created": int(time.time()), "model": request.model}
        frame = self._chunk({"content": "\0"}, None)
        # Every token of a stream differs in this one place only.
        self._before, self._after = frame.rsplit(json.dumps("\0").encode(), 1)

    def role(self, text: bool) -> bytes:
        """The first chunk, which says whether text or tool calls follow."""
        return self._chunk({"role": "assistant", "content": "" if text else None}, None)

    def token(self, text: str) -> bytes:
        """A chunk of text."""
        return self._before + json.dumps(text).encode() + self._after

    def call(self, index: int, call: Json, arguments: str | None) -> bytes:
        """A chunk of a tool call: its beginning (no arguments yet), or a piece of its arguments."""
        if arguments is None:
            named = {"name": call["function"]["name"], "arguments": ""}
            part = {"index": index, "id": call["id"], "type": "function", "function": named}
        else:
            part = {"index": index, "function": {"arguments": arguments}}
        return self._chunk({"tool_calls": [part]}, None)

    def end(self, finish_reason: str, completion_tokens: int) -> bytes:
        """The last chunks."""
        last = self._chunk({}, finish_reason)
        if self._request.include_usage:
            usage = {
                **self._head,
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": self._usage(completion_tokens),
            }
            last += _event(usage)
        return last + b"data: [DONE]\n\n"

    def whole(self, text: str | None, calls: list[Json], finish_reason: str, completion_tokens: int) -> bytes:
        """The answer to a request that doesn't stream."""
        message: Json = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        usage = self._usage(completion_tokens)
        return json.dumps({**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()

    def _chunk(self, delta: Json, finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk: Json = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._request.include_usage:
            chunk["usage"] = None
        return _event(chunk)

    def _usage(self, completion_tokens: int) -> Json:
        prompt_tokens = self._request.prompt_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


def _event(content: Json) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error in OpenAI's shape."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()
