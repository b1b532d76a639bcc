"""Agents in tests: a model that plays each agent's turns as they are written down, and tools that tests watch."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from shared.model_answers import ModelAnswer, ToolCall
from shared.model_client import ModelRequest
from tests.support.world import Script

Played = str | ModelAnswer | Callable[[ModelRequest], Awaitable[str | ModelAnswer]]


def calls(
    *wanted: tuple[str, Any], text: str = "", reason: str = "tool_calls", tokens: int | None = None
) -> ModelAnswer:
    """An answer that asks for these calls, as (name, arguments); arguments that are a string are sent as they are."""
    made = [
        ToolCall(f"id{i}", name, given if isinstance(given, str) else json.dumps(given))
        for i, (name, given) in enumerate(wanted)
    ]
    usage = None if tokens is None else {"total_tokens": tokens}
    return ModelAnswer(text, reason, usage, "scripted", made)


class Play:
    """A script for `open_world`: the agent whose instructions begin with a key plays that key's turns, in order.

    `requests` holds what each agent's model was asked, by the same key.
    """

    def __init__(self, **turns: list[Played]) -> None:
        self.turns = turns
        self.requests: dict[str, list[ModelRequest]] = {}

    @property
    def script(self) -> Script:
        """What `open_world` takes."""
        return self._answer

    async def _answer(self, request: ModelRequest, on_text: Callable[[str], None]) -> str | ModelAnswer:
        key = next(key for key in self.turns if str(request.messages[0]["content"]).startswith(key))
        self.requests.setdefault(key, []).append(request)
        turn = sum(message["role"] == "assistant" for message in request.messages)
        played = self.turns[key][min(turn, len(self.turns[key]) - 1)]
        if callable(played):
            return await played(request)
        if isinstance(played, str):
            on_text(played)
        return played


def results(request: ModelRequest) -> list[str]:
    """What the model was told of the calls so far."""
    return [message["content"] for message in request.messages if message["role"] == "tool"]


def agent(**options: Any) -> dict[str, Any]:
    """An agent step; its key for `Play` is `main`."""
    return {"kind": "agent", "instructions": "main", "input": "Go", **options}


def sub_agent(name: str, **options: Any) -> dict[str, Any]:
    """A sub-agent; its key for `Play` is its name."""
    return {"name": name, "description": f"Does {name}.", "instructions": name, **options}
