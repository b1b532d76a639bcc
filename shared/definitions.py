"""A workflow's definition, as people write it: validated strictly, with unknown fields refused.

Templates are checked when the definition is saved: an unknown path is an error of its field, not a surprise in the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, ValidationError

from shared import templates
from shared.errors import Problem
from shared.integrations import MAX_PER_WORKFLOW, Sender, Webhook
from shared.schedule import shortest_gap
from shared.settings import Settings
from shared.steps import (
    STEP_KINDS,
    AgentStep,
    AnalyzeDocumentsStep,
    AnyStep,
    CompareDocumentsStep,
    FileSyncStep,
    Strict,
)
from shared.triggers import TRIGGER_KINDS, AnyTrigger, ManualTrigger, ScheduleTrigger

MAX_STEPS = 64


class Definition(Strict):
    """A whole workflow definition."""

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=10_000)
    enabled: bool = True
    grace_seconds: float = Field(default=30, ge=0, le=300)
    after_cancel: Literal["next_slot", "skip_next", "disable"] = "next_slot"
    notifications: list[Webhook] = Field(default=[], max_length=MAX_PER_WORKFLOW)
    run_requests: list[Sender] = Field(default=[], max_length=MAX_PER_WORKFLOW)
    trigger: AnyTrigger = ManualTrigger()
    steps: list[AnyStep] = Field(min_length=1, max_length=MAX_STEPS)


def _wrong_references(definition: Definition) -> Iterator[dict[str, str]]:
    earlier: list[str] = []
    syncs: list[str] = []
    for i, step in enumerate(definition.steps):
        if step.name in earlier:
            yield {"field": f"steps.{i}.name", "message": f"another step is named {step.name!r}"}
        for field, text, document in step.texts():
            try:
                templates.check(text, step_names=earlier, document=document)
            except templates.TemplateError as error:
                yield {"field": f"steps.{i}.{field}", "message": str(error)}
        if isinstance(step, AnalyzeDocumentsStep | CompareDocumentsStep) and step.documents.step not in (None, *syncs):
            yield {"field": f"steps.{i}.documents.step", "message": "names no earlier file_sync step"}
        if isinstance(step, FileSyncStep):
            syncs.append(step.name)
        earlier.append(step.name)


def invalid(errors: list[dict[str, str]], what: str = "the definition") -> Problem:
    """The problem that answers invalid input, one entry a field."""
    return Problem(422, "invalid", f"{what} is not valid", errors=errors[:50])


def validation_errors(error: ValidationError) -> list[dict[str, str]]:
    """Pydantic's errors as (field, message); the tag of a union is no part of a field's path."""
    found = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        path = [str(part) for part in one["loc"]]
        if len(path) > 2 and path[0] == "steps" and path[2] in STEP_KINDS:
            del path[2]
        elif len(path) > 1 and path[0] == "trigger" and path[1] in TRIGGER_KINDS:
            del path[1]
        elif path == ["trigger"] and one["type"].startswith("union_tag"):
            path.append("kind")
        found.append({"field": ".".join(path), "message": one["msg"].removeprefix("Value error, ")})
    return found


def _over_limits(definition: Definition, settings: Settings) -> Iterator[dict[str, str]]:
    """What the settings don't allow."""
    if len(definition.steps) > settings.steps_max:
        yield {"field": "steps", "message": f"there may be at most {settings.steps_max} (TRUESTOP_STEPS_MAX)"}
    for i, step in enumerate(definition.steps):
        if isinstance(step, AgentStep) and step.depth() > settings.agent_depth_max:
            message = f"sub-agents may be nested {settings.agent_depth_max} deep (TRUESTOP_AGENT_DEPTH_MAX)"
            yield {"field": f"steps.{i}.agents", "message": message}
    if isinstance(definition.trigger, ScheduleTrigger):
        field = "every" if definition.trigger.every is not None else "cron"
        if shortest_gap(definition.trigger).total_seconds() < settings.schedule_min_seconds:
            message = f"slots must be {settings.schedule_min_seconds:g} s apart (TRUESTOP_SCHEDULE_MIN_SECONDS)"
            yield {"field": f"trigger.{field}", "message": message}


def parse_definition(data: Any, settings: Settings) -> Definition:
    """The definition in `data` (parsed JSON). Raises `Problem` 422 `invalid` with an error a field."""
    try:
        definition = Definition.model_validate(data)
    except ValidationError as error:
        raise invalid(validation_errors(error)) from None
    errors = [*_wrong_references(definition), *_over_limits(definition, settings)]
    if errors:
        raise invalid(errors)
    return definition
