"""An agent's turns, without any I/O: what its model is told, and what its answer means.

A transcript is never stored. It is made anew for each turn from the turns before it, which are executions that have ended
and don't change, so a redelivery or a takeover tells the model the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import StepFailed
from shared.jsontext import parsed
from shared.model_answers import ModelAnswer, ToolCall
from shared.schemas import read_answer
from shared.steps import AgentOptions
from shared.tools import registry

MAX_RESULT = 100_000
"""Characters of one call's result that the model is told; the execution keeps all of it."""
MAX_TRANSCRIPT = 2_000_000
MAX_CORRECTIONS = 2
"""How often an answer that doesn't match its schema is sent back."""
SAME_TURNS = 3
"""Turns with the same calls and the same results after which the next such turn's calls are not made."""
CHARACTERS_A_TOKEN = 4
"""An estimate, for endpoints that don't count."""

CANCELLED = json.dumps(
    {
        "cancelled": True,
        "message": "A person cancelled this call. It is no error; it may have been partly done. Go on without its result.",
    }
)
REPEATED = (
    f"Not called: the same calls gave the same results {SAME_TURNS} times in a row. Do something else, or answer."
)
TOO_MANY = "Not called: too many calls in one turn. Ask for fewer at a time."

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "All that it needs to know: it sees nothing else."}},
    "required": ["input"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn: what the model said, and what each call that was made answered (from the first on)."""

    text: str
    calls: tuple[ToolCall, ...]
    allowed: int
    """How many of the calls a turn may make."""
    tokens: int
    finish_reason: str | None
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calls:
    """The turn goes on: these calls, by their index, are to be made."""

    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Correction:
    """The answer doesn't match its schema: the model is told so, and asked again."""

    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The agent's answer: a text, or the JSON that its schema asks for."""

    value: Any


def read_turn(record: dict[str, Any], results: Sequence[str] = ()) -> Turn:
    """The turn that a model call's output tells of."""
    calls = tuple(ToolCall(**call) for call in record["tool_calls"])
    facts = (record["allowed"], record["tokens"], record["finish_reason"])
    return Turn(record["text"], calls, *facts, tuple(results))


def turn_record(answer: ModelAnswer, allowed: int, asked: int) -> dict[str, Any]:
    """What a model call keeps as its output. `asked`: characters of the request."""
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
    said = len(answer.text) + sum(len(call.arguments) for call in answer.tool_calls)
    counted = (answer.usage or {}).get("total_tokens")
    return {
        "text": answer.text,
        "tool_calls": calls,
        "allowed": allowed,
        "finish_reason": answer.finish_reason,
        "tokens": counted if counted is not None else (asked + said) // CHARACTERS_A_TOKEN,
    }


def offered(options: AgentOptions) -> list[dict[str, Any]]:
    """The tools and sub-agents of an agent, as its model is told of them."""
    found = [(tool.name, tool.description, tool.parameters) for tool in map(registry.get, options.tools)]
    found += [(agent.name, agent.description, _INPUT) for agent in options.agents]
    return [
        {"type": "function", "function": {"name": name, "description": description, "parameters": dict(parameters)}}
        for name, description, parameters in found
    ]


def transcript(options: AgentOptions, instructions: str, given: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The messages of an agent's next model call. Raises `StepFailed` `agent_transcript_too_large`."""
    told = instructions
    if options.output_schema is not None:
        schema = json.dumps(options.output_schema, ensure_ascii=False)
        told += f"\n\nYour final answer must be JSON alone, without any other text, that matches this schema:\n{schema}"
    messages: list[dict[str, Any]] = [{"role": "system", "content": told}, {"role": "user", "content": given}]
    repeated = _repeated(turns)
    for turn, again in zip(turns, repeated, strict=True):
        messages += _call_messages(turn, again) if turn.calls else _correction_messages(options, turn)
    if size(messages) > MAX_TRANSCRIPT:
        raise StepFailed(
            "agent_transcript_too_large", f"what the model would be told has over {MAX_TRANSCRIPT} characters"
        )
    return messages


def size(messages: Sequence[dict[str, Any]]) -> int:
    """The characters of messages."""
    return sum(
        len(message.get("content") or "")
        + sum(len(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
        for message in messages
    )


def _call_messages(turn: Turn, repeated: bool) -> list[dict[str, Any]]:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": _echo_name(call), "arguments": _echo_arguments(call)}}
        for call in turn.calls
    ]
    made = () if repeated else turn.results
    results = [*made, *(None for _ in turn.calls[len(made) :])]
    not_made = REPEATED if repeated else TOO_MANY
    return [
        {"role": "assistant", "content": turn.text or None, "tool_calls": calls},
        *(
            {"role": "tool", "tool_call_id": call.id, "content": bounded(not_made if result is None else result)}
            for call, result in zip(turn.calls, results, strict=True)
        ),
    ]


def _correction_messages(options: AgentOptions, turn: Turn) -> list[dict[str, Any]]:
    try:
        read_answer(turn.text, options.output_schema or {})
        problem = ""
    except ValueError as error:
        problem = str(error)
    told = f"Your answer does not match its schema: {problem}. Answer again, with matching JSON alone."
    return [{"role": "assistant", "content": bounded(turn.text)}, {"role": "user", "content": told}]


def _echo_name(call: ToolCall) -> str:
    """The name as endpoints accept it back: they refuse a whole request for a name that a model made up."""
    return call.name if _NAME.fullmatch(call.name) else "unknown"


def _echo_arguments(call: ToolCall) -> str:
    """The arguments as endpoints accept them back: some parse them again, and fail on what is no JSON object."""
    return "{}" if parsed_arguments(call) is None else call.arguments


def parsed_arguments(call: ToolCall) -> dict[str, Any] | None:
    """The arguments of a call, None unless they are a JSON object."""
    try:
        value = parsed(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def bounded(text: str) -> str:
    """A result as the model is told it: what was cut says so."""
    if len(text) <= MAX_RESULT:
        return text
    return f"{text[:MAX_RESULT]}\n[cut here: these are the first {MAX_RESULT} of {len(text)} characters]"


def failed_result(error: dict[str, str]) -> str:
    """What the model is told of a call that failed."""
    return json.dumps({"error": error}, ensure_ascii=False)


def _key(turn: Turn) -> tuple[tuple[str, str], ...]:
    """What makes two turns' calls the same: names and arguments, however these are written."""
    return tuple(
        (call.name, json.dumps(parsed_arguments(call) or call.arguments, sort_keys=True)) for call in turn.calls
    )


def _repeated(turns: Sequence[Turn]) -> list[bool]:
    """For each turn, whether its calls are not made because they would be one time too many the same."""
    found: list[bool] = []
    before: Turn | None = None
    same = 0
    for turn in turns:
        again = before is not None and bool(turn.calls) and _key(turn) == _key(before)
        found.append(again and same >= SAME_TURNS)
        if found[-1]:
            continue
        same = same + 1 if again and before is not None and turn.results == before.results else 1
        before = turn
    return found


def decide(options: AgentOptions, turns: Sequence[Turn]) -> Calls | Correction | Answer:
    """What the last of `turns`, which has no results yet, comes to.

    Raises `StepFailed`: `model_truncated`, `agent_turn_limit`, `agent_token_limit`, `agent_loop`, `agent_answer_invalid`.
    """
    turn = turns[-1]
    spent = sum(one.tokens for one in turns)
    out_of_tokens = options.max_total_tokens is not None and spent >= options.max_total_tokens
    if turn.finish_reason == "length":
        if out_of_tokens:
            _no_tokens_left(spent)
        raise StepFailed("model_truncated", "the answer was cut off at max_tokens, or at the model's own limit")
    decision = _calls(turns) if turn.calls else _answer(options, turns)
    if isinstance(decision, Answer):
        return decision
    if len(turns) >= options.max_turns:
        raise StepFailed("agent_turn_limit", f"no answer after {options.max_turns} turns")
    if out_of_tokens:
        _no_tokens_left(spent)
    return decision


def _no_tokens_left(spent: int) -> None:
    raise StepFailed("agent_token_limit", f"no answer after {spent} tokens")


def _calls(turns: Sequence[Turn]) -> Calls:
    turn, repeated = turns[-1], _repeated(turns)
    if not repeated[-1]:
        return Calls(tuple(range(min(len(turn.calls), turn.allowed))))
    if repeated[-2]:
        raise StepFailed("agent_loop", f"the model goes on making the same calls: {turn.calls[0].name}"[:MAX_RESULT])
    return Calls(())


def _answer(options: AgentOptions, turns: Sequence[Turn]) -> Answer | Correction:
    text = turns[-1].text
    if options.output_schema is None:
        return Answer(text)
    try:
        return Answer(read_answer(text, options.output_schema))
    except ValueError as error:
        if sum(not turn.calls for turn in turns) > MAX_CORRECTIONS:
            raise StepFailed("agent_answer_invalid", f"the answer does not match its schema: {error}") from None
        return Correction(str(error))
