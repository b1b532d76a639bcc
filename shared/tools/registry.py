"""The tool registry: a plain typed function becomes a tool that a workflow step or a model can call.

    @tool(side_effects=("note",))
    async def save_note(title: str, text: str, context: ToolContext) -> str:
        '''Save a note.

        Args:
            title: What it is called.
        '''
        async with context.side_effect("note", title):
            ...

Its JSON schema comes from the type hints and the docstring. A parameter annotated `ToolContext` is filled in by the
caller and is no part of the schema. An async tool is cancelled when its run is; a sync one runs in a thread and is
waited for, so a long one calls `checkpoint()` in its loops. Arguments may be a model's invention: the check is strict.
docs/tools.md tells how to write and test one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema

from shared.cancellation import checkpoint, run_blocking
from shared.documents import Documents
from shared.errors import StepFailed, Throttled, Unavailable
from shared.names import ARTIFACT, NOTIFICATION
from shared.side_effects import SideEffect
from shared.web import CheckedClient, FetchLimits

F = TypeVar("F", bound=Callable[..., Any])

MAX_RESULT_BYTES = 1024 * 1024
MAX_MESSAGE = 1000


class Publisher(Protocol):
    """How a tool shows something to others: the operation that calls it. `ToolContext` says what each does."""

    @property
    def key(self) -> str: ...

    def side_effect(self, kind: str, what: str) -> SideEffect: ...

    async def write_artifact(self, path: str, content: str | bytes) -> dict[str, Any]: ...

    async def notify(self, subject: str, message: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may use of its run. Without `web_client` each fetch makes one. `declared`: the tool's side effects."""

    documents: Documents
    publisher: Publisher
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)
    web_client: CheckedClient | None = None
    declared: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same in every attempt of this call, and of no other: an idempotency key for what the tool asks of others."""
        return self.publisher.key

    def side_effect(self, kind: str, what: str) -> SideEffect:
        """A context manager around something that others can see: on record before it is done, and again when it is.

        `async with` in an async tool, `with` in a sync one. Entering raises `RunCancelled` once a cancel was accepted.
        Raises `ValueError` for a kind that the tool doesn't declare.
        """
        self._check(kind)
        return self.publisher.side_effect(kind, what)

    async def write_artifact(self, path: str, content: str | bytes) -> dict[str, Any]:
        """Write an artifact of the run. Answers its `path` and `size`. The tool must declare `artifact`."""
        self._check(ARTIFACT)
        return await self.publisher.write_artifact(path, content)

    async def notify(self, subject: str, message: str) -> dict[str, Any]:
        """Tell the people of the scope something, once a call. The tool must declare `notification`."""
        self._check(NOTIFICATION)
        return await self.publisher.notify(subject, message)

    def _check(self, kind: str) -> None:
        if kind not in self.declared:
            raise ValueError(f"the tool doesn't declare the side effect {kind!r}: @tool(side_effects=({kind!r},))")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. `parameters` is the JSON schema of its arguments; `side_effects` names what it may do to the world."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    side_effects: tuple[str, ...]
    function: Callable[..., Any]
    _arguments: type[BaseModel]
    _names: Mapping[str, str]
    _context: str | None

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Call the tool with JSON arguments and answer its result as JSON.

        Raises `NoCurrentRun` outside a run, `RunCancelled`, and `StepFailed`: what the tool itself raises of it,
        `tool_arguments_invalid`, `tool_failed` (any other exception), `tool_result_invalid` (no JSON, or over 1 MB).
        """
        checkpoint()
        given = self.validated(arguments)
        if self._context is not None:
            given[self._context] = replace(context, declared=self.side_effects)
        if inspect.iscoroutinefunction(self.function):
            try:
                result = await self.function(**given)
            except (StepFailed, Throttled, Unavailable):  # what a tool reads from may be away
                raise
            except (Exception, SystemExit) as error:
                raise _failed(error) from error
        else:
            result = await run_blocking(_call_sync, self.function, given)
        return self._json(result)

    def validated(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, by parameter. Raises `StepFailed` `tool_arguments_invalid`."""
        try:
            # From JSON text, where strict means strict JSON: an enum or a date may come as a string.
            model = self._arguments.model_validate_json(json.dumps(dict(arguments), allow_nan=False))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in one['loc']) or 'arguments'}: {one['msg']}"
                for one in error.errors(include_url=False, include_input=False, include_context=False)
            )
            raise StepFailed("tool_arguments_invalid", f"{self.name}: {problems}"[:MAX_MESSAGE]) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise StepFailed("tool_arguments_invalid", f"{self.name}: not JSON: {error}"[:MAX_MESSAGE]) from None
        return {self._names[key]: getattr(model, key) for key in self._names}

    def _json(self, result: Any) -> Any:
        if isinstance(result, str) and len(result) > MAX_RESULT_BYTES:
            raise StepFailed("tool_result_invalid", f"{self.name} returned over {MAX_RESULT_BYTES} bytes")
        try:
            text = json.dumps(result, ensure_ascii=False, allow_nan=False)
            size = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise StepFailed(
                "tool_result_invalid", f"{self.name} returned what is no JSON: {error}"[:MAX_MESSAGE]
            ) from None
        if size > MAX_RESULT_BYTES:
            raise StepFailed("tool_result_invalid", f"{self.name} returned over {MAX_RESULT_BYTES} bytes")
        return result if isinstance(result, str) else json.loads(text)


def _call_sync(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Call in the tool's thread, where errors are turned at once: a future takes no `StopIteration`."""
    try:
        return function(**given)
    except StepFailed:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(error) from error


def _failed(error: BaseException) -> StepFailed:
    return StepFailed("tool_failed", f"{type(error).__name__}: {error}"[:MAX_MESSAGE])


_tools: dict[str, Tool] = {}


@overload
def tool(function: F) -> F: ...
@overload
def tool(*, name: str | None = None, side_effects: tuple[str, ...] = ()) -> Callable[[F], F]: ...
def tool(
    function: F | None = None, *, name: str | None = None, side_effects: tuple[str, ...] = ()
) -> F | Callable[[F], F]:
    """Register a function as a tool, under its own name unless `name` says otherwise; answers the function unchanged.

    Raises `TypeError` if its signature can't be a tool's, `ValueError` if the name is taken.
    """

    def register(function: F) -> F:
        made = make_tool(function, name, side_effects)
        if made.name in _tools:
            raise ValueError(f"there is a tool named {made.name!r} already")
        _tools[made.name] = made
        return function

    return register if function is None else register(function)


def get(name: str) -> Tool:
    """The tool of that name. Raises `StepFailed` `tool_unknown`."""
    try:
        return _tools[name]
    except KeyError:
        raise StepFailed("tool_unknown", f"there is no tool named {name!r}") from None


def names() -> tuple[str, ...]:
    """The names of all tools, sorted."""
    return tuple(sorted(_tools))


class _Schema(GenerateJsonSchema):
    """JSON schema without the titles that pydantic makes of names: a model pays for each of them."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return False


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def make_tool(function: Callable[..., Any], name: str | None = None, side_effects: tuple[str, ...] = ()) -> Tool:
    """A tool made of a function, not registered. Raises `TypeError` if its signature can't be a tool's."""
    hints = get_type_hints(function, include_extras=True)
    summary, described = _read_docstring(inspect.getdoc(function) or "")
    context: str | None = None
    fields: dict[str, Any] = {}
    called: dict[str, str] = {}
    for parameter in inspect.signature(function).parameters.values():
        where = f"parameter {parameter.name!r} of tool {function.__name__!r}"
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"{where} must be one that can be given by name")
        if parameter.name not in hints:
            raise TypeError(f"{where} needs a type hint")
        if hints[parameter.name] is ToolContext:
            context = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        # Fields are numbered, with the parameter as alias: `schema` or `_x` can't be the name of a pydantic field.
        key = f"p{len(called)}"
        called[key] = parameter.name
        description = described.get(parameter.name)
        fields[key] = (hints[parameter.name], Field(default, alias=parameter.name, description=description))
    arguments = create_model("Arguments", __base__=_Arguments, **fields)
    parameters = arguments.model_json_schema(schema_generator=_Schema)
    for key in ("title", "description"):
        parameters.pop(key, None)
    return Tool(
        name=name or function.__name__,
        description=summary,
        parameters=parameters,
        side_effects=tuple(side_effects),
        function=function,
        _arguments=arguments,
        _names=called,
        _context=context,
    )


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """A Google-style docstring as (all before its sections, parameter: description)."""
    head: list[str] = []
    described: dict[str, str] = {}
    section, current = "", ""
    for line in text.splitlines():
        stripped = line.strip()
        if not line.startswith(" ") and stripped in {"Args:", "Arguments:", "Returns:", "Raises:", "Yields:"}:
            section = stripped
        elif not section:
            head.append(line)
        elif section in {"Args:", "Arguments:"} and stripped:
            start, colon, rest = stripped.partition(":")
            indent = len(line) - len(line.lstrip())
            if colon and indent <= 4:
                current = start.split("(")[0].strip()
                described[current] = rest.strip()
            elif current:
                described[current] = f"{described[current]} {stripped}".strip()
    return "\n".join(head).strip(), described
