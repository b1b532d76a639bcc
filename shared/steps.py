"""The kinds of steps that a definition may hold: each a strict shape, with its templates.

A new kind is a class here, added to `AnyStep`, and its work in `activities/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, field_validator, model_validator

from shared.documents import validate_name
from shared.names import RUN_WORKFLOW
from shared.schemas import check_schema
from shared.tools import registry

MAX_STEP_SECONDS = 86_400
"""The longest deadline of a step; `functionTimeout` of host.json is longer."""
Text = Annotated[str, Field(max_length=200_000)]


class Strict(BaseModel):
    """A shape that refuses unknown fields and does not guess types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Retries(Strict):
    """How often an operation that failed retryably is tried again, and how long to wait (doubling, at most an hour)."""

    max: int = Field(default=2, ge=0, le=10)
    backoff_seconds: float = Field(default=5, ge=0, le=3600)


class Step(Strict):
    """What every step has."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    timeout_seconds: float | None = Field(default=None, gt=0, le=MAX_STEP_SECONDS)
    retries: Retries = Retries()
    on_error: Literal["stop", "continue"] = "stop"
    on_cancelled: Literal["continue", "stop"] = "continue"

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        """The templates: (field, text, whether `document` is known there)."""
        yield from ()


class Documents(Strict):
    """Which documents of the scope: all whose name begins with `prefix`, those in `names`, or those that the earlier
    `file_sync` step named `step` brought in."""

    prefix: str | None = Field(default=None, max_length=300)
    names: list[str] | None = Field(default=None, min_length=1, max_length=100)
    step: str | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _one_of(self) -> Documents:
        if [self.prefix, self.names, self.step].count(None) != 2:
            raise ValueError("give one of prefix, names and step")
        for name in self.names or ():
            validate_name(name)
        return self


class ModelOptions(Strict):
    """What a model call takes."""

    prompt: Text = Field(min_length=1)
    system: Text | None = None
    model: str | None = Field(default=None, max_length=200)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)

    def prompts(self, document: bool) -> Iterator[tuple[str, str, bool]]:
        """Its templates."""
        yield "prompt", self.prompt, document
        if self.system is not None:
            yield "system", self.system, document


class FileSyncStep(Step):
    """Brings files that were dropped for the workflow into the scope's documents, one item a file.

    `only_changed`: the files that started the run (in another run: those newer than their documents), or all; None: as the
    trigger says. `prefix`: of the files' paths; None: the trigger's. `into`: what the documents' names begin with.
    """

    kind: Literal["file_sync"]
    only_changed: bool | None = None
    prefix: str | None = Field(default=None, max_length=299)
    into: str = Field(default="", max_length=200)
    parallel: int = Field(default=4, ge=1, le=64)

    @field_validator("prefix", "into")
    @classmethod
    def _begins_a_name(cls, text: str | None) -> str | None:
        validate_name(f"{text or ''}x")
        return text


class FetchUrlsStep(Step):
    """Fetches pages, one item a page."""

    kind: Literal["fetch_urls"]
    urls: list[Annotated[str, Field(min_length=1, max_length=4000)]] = Field(min_length=1, max_length=100)
    parallel: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _urls_are_urls(self) -> FetchUrlsStep:
        for url in self.urls:
            if "{{" not in url:
                TypeAdapter(HttpUrl).validate_python(url)
        return self

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        for i, url in enumerate(self.urls):
            yield f"urls.{i}", url, False


class AnalyzeDocumentsStep(Step, ModelOptions):
    """Reads documents and asks the model about each, one item a document."""

    kind: Literal["analyze_documents"]
    documents: Documents
    parallel: int = Field(default=4, ge=1, le=64)

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield from self.prompts(document=True)


class CompareDocumentsStep(Step, ModelOptions):
    """Reads documents and asks the model about all of them at once."""

    kind: Literal["compare_documents"]
    documents: Documents

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield from self.prompts(document=False)


class ModelStep(Step, ModelOptions):
    """Asks the model once."""

    kind: Literal["model"]

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield from self.prompts(document=False)


class ToolStep(Step):
    """Calls one tool."""

    kind: Literal["tool"]
    tool: str = Field(max_length=64)
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tool_is_known(self) -> ToolStep:
        if self.tool not in registry.names():
            raise ValueError(f"unknown tool {self.tool!r}; known are {', '.join(sorted(registry.names()))}")
        if self.tool == RUN_WORKFLOW:
            raise ValueError(f"{RUN_WORKFLOW} is for agents: use a step of kind child_run")
        return self

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield from _strings("arguments", self.arguments)


class AgentOptions(Strict):
    """What every agent has, whether it is a step or a sub-agent.

    `max_tokens` bounds each answer, `max_total_tokens` all that the agent's own model calls use.
    """

    instructions: Text = Field(min_length=1)
    model: str | None = Field(default=None, max_length=200)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_total_tokens: int | None = Field(default=None, ge=1, le=100_000_000)
    max_turns: int = Field(default=8, ge=1, le=99)
    tools: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=64)
    agents: list[SubAgent] = Field(default_factory=list, max_length=16)
    output_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> AgentOptions:
        for name in self.tools:
            if name not in registry.names():
                raise ValueError(f"unknown tool {name!r}; known are {', '.join(registry.names())}")
        names = [*self.tools, *(agent.name for agent in self.agents)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)!r} names two of its tools and sub-agents")
        if self.output_schema is not None:
            check_schema(self.output_schema)
        return self

    def agent_texts(self, where: str) -> Iterator[tuple[str, str, bool]]:
        """The templates of this agent and those below it."""
        yield f"{where}instructions", self.instructions, False
        for i, agent in enumerate(self.agents):
            yield from agent.agent_texts(f"{where}agents.{i}.")

    def depth(self) -> int:
        """How many agents are nested below this one."""
        return max((1 + agent.depth() for agent in self.agents), default=0)


class SubAgent(AgentOptions):
    """An agent that another one calls as it calls a tool, with a text as input. The model chooses by `description`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    description: str = Field(min_length=1, max_length=2000)
    timeout_seconds: float | None = Field(default=None, gt=0, le=MAX_STEP_SECONDS)


class AgentStep(Step, AgentOptions):
    """A model that works in turns: it calls tools and sub-agents, reads what they answer, and ends with an answer."""

    kind: Literal["agent"]
    input: Text = Field(min_length=1)

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield "input", self.input, False
        yield from self.agent_texts("")


class WriteArtifactStep(Step):
    """Writes an artifact of the run."""

    kind: Literal["write_artifact"]
    path: str = Field(min_length=1, max_length=300)
    content: Text

    @model_validator(mode="after")
    def _path_is_safe(self) -> WriteArtifactStep:
        validate_name(self.path)
        return self

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield "content", self.content, False


class NotifyStep(Step):
    """Tells the people of the scope something."""

    kind: Literal["notify"]
    subject: str = Field(min_length=1, max_length=500)
    message: Text

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield "subject", self.subject, False
        yield "message", self.message, False


class ChildRunStep(Step):
    """Runs another workflow of the same scope and waits for it; its output is this step's."""

    kind: Literal["child_run"]
    workflow_id: str = Field(pattern=r"^[a-z0-9]{26}$")
    input: Any = None

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        yield from _strings("input", self.input)


AnyStep = Annotated[
    FileSyncStep
    | FetchUrlsStep
    | AnalyzeDocumentsStep
    | CompareDocumentsStep
    | ModelStep
    | AgentStep
    | ToolStep
    | WriteArtifactStep
    | NotifyStep
    | ChildRunStep,
    Field(discriminator="kind"),
]
STEP_KINDS = frozenset(get_args(step.model_fields["kind"].annotation)[0] for step in get_args(get_args(AnyStep)[0]))
"""Every kind of step."""
FANS_OUT = ("file_sync", "fetch_urls", "analyze_documents")
"""Kinds whose work is one item each."""


def shape_of(kind: str) -> str:
    """How the pipeline sequences a step of this kind: `operation` (one activity), `fan_out`, `agent` or `child_run`."""
    if kind in FANS_OUT:
        return "fan_out"
    return kind if kind in ("agent", "child_run") else "operation"


def _strings(where: str, value: Any) -> Iterator[tuple[str, str, bool]]:
    if isinstance(value, str):
        yield where, value, False
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _strings(f"{where}.{i}", inner)


_step_adapter: TypeAdapter[AnyStep] = TypeAdapter(AnyStep)


def parse_step(data: Any) -> AnyStep:
    """One step of a definition that was validated when it was saved."""
    return _step_adapter.validate_python(data)
