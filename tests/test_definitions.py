"""What bad definitions get: an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from shared.definitions import parse_definition
from shared.errors import Problem
from shared.settings import load

SETTINGS = load({})
MODEL = {"kind": "model", "name": "m", "prompt": "Hi"}
AGENT = {"kind": "agent", "name": "a", "instructions": "Do it.", "input": "Go"}
SUB: dict[str, Any] = {"name": "sub", "description": "Helps.", "instructions": "Help."}


def nested(levels: int) -> dict[str, Any]:
    """A sub-agent with others this deep below it."""
    agent = SUB
    for _ in range(levels):
        agent = {**SUB, "agents": [agent]}
    return agent


CRON = {"kind": "schedule", "cron": "0 7 * * 1-5"}


def every(value: Any, unit: str) -> dict[str, Any]:
    """An interval's trigger."""
    return {"kind": "schedule", "every": {"value": value, "unit": unit}}


def errors_of(data: Any) -> dict[str, str]:
    """The errors of a definition, by field."""
    with pytest.raises(Problem) as caught:
        parse_definition(data, SETTINGS)
    assert (caught.value.status, caught.value.code) == (422, "invalid")
    return {error["field"]: error["message"] for error in caught.value.errors}


def workflow(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A definition with these steps."""
    return {"name": "W", "steps": list(steps), **more}


def test_the_smallest_definition_gets_the_defaults() -> None:
    """Guards the defaults of the contract."""
    parsed = parse_definition(workflow(MODEL), SETTINGS)
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
        (workflow(MODEL, trigger={}), "trigger.kind"),
        (workflow(MODEL, trigger={"kind": "manual", "cron": "* * * * *"}), "trigger.cron"),
        (workflow(MODEL, trigger={"kind": "schedule"}), "trigger"),
        (workflow(MODEL, trigger={**CRON, "every": {"value": 1, "unit": "hours"}}), "trigger"),
        (workflow(MODEL, trigger={**CRON, "cron": "0 7 * *"}), "trigger.cron"),
        (workflow(MODEL, trigger={**CRON, "cron": "0 0 31 2 *"}), "trigger.cron"),
        (workflow(MODEL, trigger={**CRON, "cron": 7}), "trigger.cron"),
        (workflow(MODEL, trigger={**CRON, "time_zone": "Europe/Nowhere"}), "trigger.time_zone"),
        (workflow(MODEL, trigger=every(1, "fortnights")), "trigger.every.unit"),
        (workflow(MODEL, trigger=every(0, "hours")), "trigger.every.value"),
        (workflow(MODEL, trigger=every(1.5, "hours")), "trigger.every.value"),
        (workflow(MODEL, trigger=every(True, "hours")), "trigger.every.value"),
        (workflow(MODEL, trigger=every(10**9, "days")), "trigger.every.value"),
        (workflow(MODEL, trigger={**every(1, "hours"), "time_zone": "UTC"}), "trigger"),
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
        (workflow({**AGENT, "tools": ["none"]}), "steps.0"),
        (workflow({**AGENT, "tools": ["echo", "echo"]}), "steps.0"),
        (workflow({**AGENT, "tools": ["echo"], "agents": [{**SUB, "name": "echo"}]}), "steps.0"),
        (workflow({**AGENT, "agents": [{**SUB, "colour": "red"}]}), "steps.0.agents.0.colour"),
        (workflow({**AGENT, "agents": [{**SUB, "name": "Bad Name"}]}), "steps.0.agents.0.name"),
        (workflow({**AGENT, "agents": [{**SUB, "instructions": "{{no.x}}"}]}), "steps.0.agents.0.instructions"),
        (workflow({**AGENT, "agents": [nested(3)]}), "steps.0.agents"),
        (workflow({**AGENT, "max_turns": 100}), "steps.0.max_turns"),
        (workflow({**AGENT, "output_schema": {"type": "strange"}}), "steps.0"),
        (workflow(MODEL, trigger={}), "trigger.kind"),
        (workflow(MODEL, trigger={"kind": "file_sync", "prefix": "/in"}), "trigger.prefix"),
        (workflow(MODEL, trigger={"kind": "file_sync", "prefix": "../"}), "trigger.prefix"),
        (workflow(MODEL, trigger={"kind": "file_sync", "debounce_seconds": 601}), "trigger.debounce_seconds"),
        (workflow(MODEL, trigger={"kind": "file_sync", "run_when": "never"}), "trigger.run_when"),
        (workflow(MODEL, trigger={"kind": "file_sync", "cron": "* * * * *"}), "trigger.cron"),
        (workflow({"kind": "file_sync", "name": "f", "into": "../"}), "steps.0.into"),
        (workflow({"kind": "file_sync", "name": "f", "prefix": "/"}), "steps.0.prefix"),
        (
            workflow(MODEL, {"kind": "compare_documents", "name": "c", "prompt": "x", "documents": {"step": "m"}}),
            "steps.1.documents.step",
        ),
        (
            workflow(
                {"kind": "compare_documents", "name": "c", "prompt": "x", "documents": {"step": "a", "names": ["b"]}}
            ),
            "steps.0.documents",
        ),
        (workflow(*({**MODEL, "name": f"m{i}"} for i in range(65))), "steps"),
    ],
)
def test_what_is_wrong_is_named(data: Any, field: str) -> None:
    """Guards that each mistake is told at its field, when saved and not in the run."""
    assert field in errors_of(data), errors_of(data)


def test_agents_nested_without_end_are_refused() -> None:
    """Guards against a recursion that would be a fault of ours."""
    assert "ecursion" in str(errors_of(workflow({**AGENT, "agents": [nested(400)]})))


def test_templates_may_name_the_input_and_earlier_steps() -> None:
    """Guards what is allowed."""
    later = {"kind": "notify", "name": "n", "subject": "{{ input.a.b }}", "message": "{{steps.m.output}} {{input}}"}
    sub = {**SUB, "instructions": "{{steps.m.output}}"}
    agent = {**AGENT, "instructions": "{{input.how}}", "input": "{{steps.m.output}}", "agents": [sub]}
    parse_definition(workflow(MODEL, later, agent), SETTINGS)
    parse_definition(workflow({**AGENT, "agents": [nested(2)]}), SETTINGS)
