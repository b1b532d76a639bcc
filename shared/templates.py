"""Templates: `{{steps.read.output}}` in a prompt, and nothing cleverer.

A path or nothing: no conditions, loops or filters, so a definition can be checked whole when it is saved, and a render
can't run away. Rendering is a single pass: what a value holds (a fetched page, a model's answer) is never a template.

    {{input}}  {{input.a.b}}  {{input.items.0}}     what the run was started with
    {{steps.NAME.output}}  {{steps.NAME.output.a}}  what an earlier step gave
    {{document.name}}  {{document.text}}            in a step that works on one document at a time

Spaces inside the braces don't matter. `\\{{` stands for two braces, `\\\\{{` for a backslash before a reference; any
other brace or backslash is itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import StepFailed, TruestopError

MAX_RENDERED = 2_000_000
MAX_DEPTH = 32

_MARK = re.compile(r"\\\\(?=\{\{)|\\\{\{|\{\{")
_PATH = re.compile(r"\s*([\w-]+(?:\.[\w-]+)*)\s*\}\}")


class TemplateError(TruestopError, ValueError):
    """A template is wrong at `position` (counted in characters from 0)."""

    def __init__(self, detail: str, position: int) -> None:
        super().__init__(detail, position)
        self.detail, self.position = detail, position
        self.message = f"{detail} (at character {position})"


@dataclass(frozen=True, slots=True)
class Reference:
    """One `{{a.b.c}}` of a template: its path and where its braces begin."""

    path: tuple[str, ...]
    position: int

    def __str__(self) -> str:
        return "{{" + ".".join(self.path) + "}}"


def _parse(text: str) -> Iterator[str | Reference]:
    """The template's literal pieces and references, in order. Raises `TemplateError`."""
    at = 0
    while mark := _MARK.search(text, at):
        yield text[at : mark.start()]
        at = mark.end()
        if mark[0] != "{{":
            yield mark[0][1:]
            continue
        path = _PATH.match(text, at)
        if path is None:
            raise TemplateError(_syntax(text, at), mark.start())
        yield Reference(tuple(path[1].split(".")), mark.start())
        at = path.end()
    yield text[at:]


def _syntax(text: str, at: int) -> str:
    end = text.find("}}", at)
    if end < 0:
        return "'{{' without '}}'; write \\{{ for two braces"
    inside = text[at:end].strip()
    return f"{inside[:60]!r} is not a path such as steps.name.output; write \\{{{{ for two braces"


def references(text: str) -> list[Reference]:
    """All references of a template, in order. Raises `TemplateError` where its syntax is wrong."""
    return [piece for piece in _parse(text) if isinstance(piece, Reference)]


def check(text: str, *, step_names: Collection[str], document: bool) -> None:
    """Raise `TemplateError` if the template could not be rendered where it stands.

    `step_names`: the steps before this one. `document`: whether `{{document.…}}` is known here. What is below `input`
    or an output is known only when the run is there.
    """
    for reference in references(text):
        problem = _problem(reference.path, step_names, document)
        if problem is not None:
            raise TemplateError(f"{reference}: {problem}", reference.position)


def _problem(path: tuple[str, ...], step_names: Collection[str], document: bool) -> str | None:
    root = path[0]
    if root == "input":
        return None
    if root == "steps":
        if len(path) < 3 or path[2] != "output":
            return "write steps.NAME.output"
        if path[1] not in step_names:
            earlier = f"; before it: {', '.join(step_names)}" if step_names else "; no step is before it"
            return f"no earlier step is named {path[1]!r}{earlier}"
        return None
    if root == "document":
        if not document:
            return "document is known only in a step that works on one document at a time"
        return None if path[1:] in {("name",), ("text",)} else "write document.name or document.text"
    return f"{root!r} is unknown; a path begins with input, steps or document"


def render(text: str, values: Mapping[str, Any]) -> str:
    """The template with each reference replaced; values that are not strings as compact JSON.

    `values`: `{"input": …, "steps": {NAME: {"output": …}}, "document": {"name": …, "text": …}}`, as far as known.
    Raises `TemplateError`; `StepFailed` `template_unknown_path`, and `template_too_large` over 2 million characters.
    """
    return _Renderer(values).text(text)


def render_value(value: Any, values: Mapping[str, Any]) -> Any:
    """JSON with every string in it rendered (keys are not); a string that is just one reference keeps the value's type.

    All of it together is bounded as one render is. Raises as `render` does.
    """
    return _Renderer(values).value(value, 0)


class _Renderer:
    """One render: `left` is how many more characters it may produce."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.left = MAX_RENDERED

    def text(self, text: str) -> str:
        pieces: list[str] = []
        for piece in _parse(text):
            pieces.append(piece if isinstance(piece, str) else _as_text(self.look_up(piece)))
            self.spend(len(pieces[-1]))
        return "".join(pieces)

    def value(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise StepFailed("template_too_large", f"it is nested over {MAX_DEPTH} deep")
        if isinstance(value, str):
            whole = [piece for piece in _parse(value) if piece != ""]
            if len(whole) == 1 and isinstance(whole[0], Reference):
                found = self.look_up(whole[0])
                self.spend(len(_as_text(found)))
                return found
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, depth + 1) for inner in value]
        return value

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise StepFailed("template_too_large", f"it renders to over {MAX_RENDERED} characters")

    def look_up(self, reference: Reference) -> Any:
        value: Any = self.values
        for part in reference.path:
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, Sequence) and not isinstance(value, str) and _index(part) < len(value):
                value = value[_index(part)]
            else:
                raise StepFailed("template_unknown_path", f"{reference}: there is no {part!r}")
        return value


def _index(part: str) -> int:
    """A list index, or one beyond every list's end."""
    return int(part) if len(part) < 10 and part.isascii() and part.isdigit() else 1 << 62


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
