"""Prompts that direct the scripted model of devhost through an agent's turns."""

from __future__ import annotations

import json
from typing import Any


def call(tool: str, /, **arguments: Any) -> str:
    """What directs the model to call a tool or a sub-agent."""
    return f"tool={tool} arguments={json.dumps(arguments)}"


def turn(*calls: str) -> str:
    """A turn of these calls."""
    return f"[[{' '.join(calls)}]]"


def agent_step(key: str, *turns: str, say: str = "All done", **options: Any) -> dict[str, Any]:
    """An agent step that takes these turns and then says something; `key` stands in the model's log."""
    prompt = f"{''.join(turns)}[[key={key} delay=1ms say={say}]]Go"
    return {"kind": "agent", "instructions": "Work.", "input": prompt, **options}


def sub_agent(name: str, **options: Any) -> dict[str, Any]:
    """A sub-agent, which does what the input that it is called with directs."""
    return {"name": name, "description": f"Does {name}.", "instructions": f"Do {name}.", **options}
