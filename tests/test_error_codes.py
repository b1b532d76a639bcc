"""The page of error codes lists what the source can say, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "http_triggers", "event_triggers", "activities", "orchestrators")


def codes_in(tree: ast.AST) -> Iterator[str]:
    """The codes of `Problem(status, code…)`, `StepFailed(code…)` and `{"code": code}` in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            position = {"Problem": 1, "StepFailed": 0}.get(node.func.id)
            if position is not None and len(node.args) > position:
                yield from literals(node.args[position])
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield from literals(value)


def literals(node: ast.AST) -> Iterator[str]:
    """The strings that an expression may be: a literal, or either side of a conditional."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    """Guards a stable contract: a new code without a line here fails, and so does a line without a code."""
    source = {
        code
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for code in codes_in(ast.parse(file.read_text()))
    }
    documented = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/errors.md").read_text(), re.M)
    assert len(documented) == len(set(documented))
    assert set(documented) == source
