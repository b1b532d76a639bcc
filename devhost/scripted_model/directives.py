"""Reads a prompt's directives; the language is described in this package's docstring."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

DEFAULT_TOKENS = 40
DEFAULT_DELAY = 0.02
MAX_TOKENS = 100_000
MAX_SECONDS = 60.0
QUOTED_WORDS = 12

_NUMBERS = ("tokens", "hang_after", "cut_after", "status", "times")
_DURATIONS = ("delay", "first", "retry_after")
_START = re.compile(rf"\[\[\s*(?=(?:{'|'.join((*_NUMBERS, *_DURATIONS, 'say', 'tool', 'key', 'arguments'))})=|hang\b)")
_SETTING = re.compile(r"([a-z_]+)(=?)")
_VALUE = re.compile(r"[^\s\]]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)?")
_FILLER = (
    "The reports agree on the main figures and differ in a few details that deserve a closer look before anyone decides "
    "what to do next; the open questions are listed below with their sources."
)


class BadDirective(ValueError):
    """A directive that can't be understood; the message says why."""


@dataclass(slots=True)
class Script:
    """What one answer is to be. Times in seconds; `turns` holds each tool turn's calls as (name, arguments)."""

    text: str | None = None
    tokens: int = DEFAULT_TOKENS
    delay: float = DEFAULT_DELAY
    first: float | None = None
    hang: bool = False
    hang_after: int | None = None
    cut_after: int | None = None
    status: int | None = None
    retry_after: float | None = None
    times: int | None = None
    key: str | None = None
    turns: list[list[tuple[str, Any]]] = field(default_factory=list)
    prompt: str = ""
    """The prompt without its directives."""

    def behave(self) -> None:
        """Forget the misbehaviour that `times` limits."""
        self.hang, self.hang_after, self.cut_after, self.status, self.retry_after = False, None, None, None, None

    def words(self) -> list[str]:
        """The answer's text, token by token (each with the space that follows it)."""
        if self.text is not None:
            return re.findall(r"\s*\S+\s*", self.text)
        words = self.prompt.split()
        quoted = " ".join(words[:QUOTED_WORDS]) + (" …" if len(words) > QUOTED_WORDS else "")
        opening = f"On “{quoted}”: ".split(" ")[:-1] if words else []
        missing = max(0, self.tokens - len(opening))
        sentence = _FILLER.split()
        filler = (sentence * (missing // len(sentence) + 1))[:missing]
        return [f"{word} " for word in (opening + filler)[: self.tokens]]


def parse(prompt: str) -> Script:
    """The script that `prompt` asks for. Raises `BadDirective`."""
    script, plain, position = Script(), [], 0
    while (start := _START.search(prompt, position)) is not None:
        plain.append(prompt[position : start.start()])
        position = _directive(prompt, start.end(), script)
    script.prompt = "".join([*plain, prompt[position:]])
    return script


def _directive(prompt: str, position: int, script: Script) -> int:
    """Read one directive's settings into `script`; answers where the text goes on."""
    calls: list[tuple[str, Any]] = []
    while True:
        while prompt[position : position + 1].isspace():
            position += 1
        if prompt.startswith("]]", position):
            break
        setting = _SETTING.match(prompt, position)
        if setting is None:
            raise BadDirective(f"a directive does not end well: {prompt[position : position + 40]!r}")
        name, given = setting.group(1), bool(setting.group(2))
        position = setting.end()
        if name == "hang" and not given:
            script.hang = True
        elif name == "say" and given:
            position = _say(prompt, position, script)
        elif name == "arguments" and given and calls:
            value, position = _json(prompt, position)
            calls[-1] = (calls[-1][0], value)
        else:
            text = _VALUE.match(prompt, position)
            if not given or text is None:
                raise BadDirective(f"{name!r} is not a setting with a value")
            position = text.end()
            if name == "tool":
                calls.append((text.group(), {}))
            else:
                _set(script, name, text.group())
    if calls:
        script.turns.append(calls)
    return position + 2


def _say(prompt: str, position: int, script: Script) -> int:
    end = prompt.find("]]", position)
    if end < 0 or not prompt[position:end].strip():
        raise BadDirective("'say' needs a text and closing brackets")
    script.text = prompt[position:end]
    return end


def _json(prompt: str, position: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(prompt, position)
    except ValueError as error:
        raise BadDirective(f"'arguments' is not JSON: {error}") from error


def _set(script: Script, name: str, text: str) -> None:
    if name == "key":
        script.key = text[:200]
    elif name in _DURATIONS:
        setattr(script, name, _duration(name, text))
    elif name in _NUMBERS:
        setattr(script, name, _number(name, text))
    else:
        raise BadDirective(f"{name!r} is not a setting")


def _number(name: str, text: str) -> int:
    low, high = (400, 599) if name == "status" else (0, MAX_TOKENS)
    if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise BadDirective(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def _duration(name: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    seconds = float(found.group(1)) / (1000 if found.group(2) == "ms" else 1) if found else -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise BadDirective(f"{name} must be a duration of at most {MAX_SECONDS:g} s, such as 20ms, not {text!r}")
    return seconds
