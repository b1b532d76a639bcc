"""What bad definitions get: an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from shared.definitions import parse_definition
from shared.errors import Problem

MODEL = {"kind": "model", "name": "m", "prompt": "Hi"}


def errors_of(data: Any) -> dict[str, str]:
    """The errors of a definition, by field."""
    with pytest.raises(Problem) as caught:
        parse_definition(data)
    assert (caught.value.status, caught.value.code) == (422, "invalid")
    return {error["field"]: error["message"] for error in caught.value.errors}


def workflow(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A definition with these steps."""
    return {"name": "W", "steps": list(steps), **more}


def test_the_smallest_definition_gets_the_defaults() -> None:
    """Guards the defaults of the contract."""
    parsed = parse_definition(workflow(MODEL))
    defaults = (parsed.enabled, parsed.grace_seconds, parsed.after_cancel, parsed.trigger.kind)
    assert defaults == (True, 30, "next_slot", "manual")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([], ""),
        ({}, "name"),
        (workflow(), "steps"),
        (workflow(MODEL, colour="red"), "colour"),
        (workflow({**MODEL, "colour": "red"}), "steps.0.colour"),
        (workflow({**MODEL, "kind": "dance"}), "steps.0"),
        (workflow({"name": "x"}), "steps.0"),
        (workflow({**MODEL, "name": "Bad Name"}), "steps.0.name"),
        (workflow(MODEL, MODEL), "steps.1.name"),
        (workflow({**MODEL, "max_tokens": "800"}), "steps.0.max_tokens"),
        (workflow(MODEL, grace_seconds=301), "grace_seconds"),
        (workflow(MODEL, enabled="yes"), "enabled"),
        (workflow(MODEL, trigger={"kind": "moon"}), "trigger.kind"),
        (workflow({**MODEL, "prompt": "{{steps.later.output}}"}), "steps.0.prompt"),
        (workflow({**MODEL, "prompt": "{{steps.m.output}}"}), "steps.0.prompt"),
        (workflow({**MODEL, "prompt": "{{nothing.x}}"}), "steps.0.prompt"),
        (workflow({**MODEL, "prompt": "{{document.text}}"}), "steps.0.prompt"),
        (workflow({**MODEL, "prompt": "{{input.x"}), "steps.0.prompt"),
        (workflow({**MODEL, "retries": {"max": 99}}), "steps.0.retries.max"),
        (workflow({**MODEL, "timeout_seconds": 0}), "steps.0.timeout_seconds"),
        (workflow({"kind": "tool", "name": "t", "tool": "none"}), "steps.0"),
        (
            workflow({"kind": "tool", "name": "t", "tool": "echo", "arguments": {"value": ["{{no.x}}"]}}),
            "steps.0.arguments.value.0",
        ),
        (workflow({"kind": "write_artifact", "name": "a", "path": "../up", "content": "x"}), "steps.0"),
        (workflow({"kind": "fetch_urls", "name": "f", "urls": ["file:///etc/passwd"]}), "steps.0"),
        (workflow({"kind": "analyze_documents", "name": "a", "prompt": "x", "documents": {}}), "steps.0.documents"),
        (workflow(*({**MODEL, "name": f"m{i}"} for i in range(65))), "steps"),
    ],
)
def test_what_is_wrong_is_named(data: Any, field: str) -> None:
    """Guards that each mistake is told at its field, when saved and not in the run."""
    assert field in errors_of(data), errors_of(data)


def test_templates_may_name_the_input_and_earlier_steps() -> None:
    """Guards what is allowed."""
    later = {"kind": "notify", "name": "n", "subject": "{{ input.a.b }}", "message": "{{steps.m.output}} {{input}}"}
    parse_definition(workflow(MODEL, later))
