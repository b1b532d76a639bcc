"""JSON schemas that an agent's answer must match: checked when they are saved, applied to what a model wrote.

A schema comes from a user and an answer from a model, so neither may cost more than it is worth. References can unfold
without end, patterns and `uniqueItems` can hold the interpreter for minutes, and nothing could interrupt that: refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

from shared.jsontext import parsed

MAX_SCHEMA = 10_000
"""Characters of a schema, as JSON."""
MAX_DEPTH = 16
MAX_ANSWER = 100_000
"""Characters of an answer that must match one."""
MAX_MESSAGE = 1000

_REFUSED = ("$ref", "$dynamicRef", "$recursiveRef", "pattern", "patternProperties", "uniqueItems")
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n?```", re.S)


def check_schema(schema: Any) -> None:
    """Raise `ValueError` unless `schema` is a JSON schema (2020-12) that can be applied safely."""
    from jsonschema import Draft202012Validator, SchemaError

    if not isinstance(schema, dict):
        raise ValueError("a JSON schema is an object")
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise ValueError(f"a schema has at most {MAX_SCHEMA} characters")
    _check_within(schema, 0)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path)
        raise ValueError(f"not a JSON schema: {where}: {error.message}"[:MAX_MESSAGE]) from None


def _check_within(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"a schema is nested at most {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _REFUSED and not (isinstance(inner, dict) and key == "pattern"):
                raise ValueError(f"{key!r} can't be used in an answer's schema")
            _check_within(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_within(inner, depth + 1)


def read_answer(text: str, schema: dict[str, Any]) -> Any:
    """The JSON value that `text` holds, alone or as one fenced block, if it matches. CPU-bound: call it in a thread.

    Raises `ValueError`, whose message tells the model what to mend.
    """
    from jsonschema import Draft202012Validator

    if len(text) > MAX_ANSWER:
        raise ValueError(f"the answer has over {MAX_ANSWER} characters")
    fenced = _FENCED.fullmatch(text.strip())
    try:
        value = parsed(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON: {error}") from None
    problems = [
        f"{'/'.join(str(part) for part in error.absolute_path) or 'the answer'}: {error.message}"
        for _, error in zip(range(5), Draft202012Validator(schema).iter_errors(value), strict=False)
    ]
    if problems:
        raise ValueError("; ".join(problems)[:MAX_MESSAGE])
    return value
