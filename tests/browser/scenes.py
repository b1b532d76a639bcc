"""Workflows that the browser tests watch and stop, and how a page of one is addressed."""

from __future__ import annotations

from typing import Any

from tests.support.api import Api, Run, Workflow


def writing(api: Api, tokens: int = 4000, **settings: Any) -> Workflow:
    """A workflow that streams a long text."""
    steps = (
        {"kind": "model", "name": "write", "prompt": f"[[tokens={tokens} delay=20ms]] Write"},
        {"kind": "write_artifact", "name": "save", "path": "text.md", "content": "{{steps.write.output}}"},
    )
    return api.workflow(*steps, **{"name": "Long text", **settings})


def stubborn(api: Api, seconds: float, **settings: Any) -> Workflow:
    """A workflow whose tool takes so long, and nothing can interrupt it."""
    step = {"kind": "tool", "name": "wait", "tool": "sleep", "arguments": {"seconds": seconds, "blocking": True}}
    return api.workflow(step, **{"name": "Stubborn", **settings})


def address(workflow: Workflow, run: Run | None = None, *more: str) -> str:
    """Where the page shows it."""
    parts = ["/app/user/workflows", workflow.id, *(["runs", run.id] if run else []), *more]
    return "/".join(parts)
