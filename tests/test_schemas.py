"""Schemas of answers: which are taken, and what an answer must be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.schemas import MAX_ANSWER, check_schema, read_answer

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def nested(levels: int) -> dict[str, Any]:
    """A schema nested this deep."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        [],
        {"type": "strange"},
        {"required": "n"},
        {"$ref": "#/$defs/a"},
        {"properties": {"a": {"$ref": "http://x.test/schema"}}},
        {"properties": {"a": {"pattern": "(a+)+$"}}},
        {"patternProperties": {"(a+)+$": {}}},
        {"uniqueItems": True},
        {"description": "x" * 10_001},
        nested(17),
    ],
)
def test_what_is_no_schema_or_could_run_away_is_refused(schema: Any) -> None:
    """Guards the save: what would fail, fetch or hang in a run is an error of its field."""
    with pytest.raises(ValueError, match=r"\w"):
        check_schema(schema)


def test_ordinary_schemas_are_taken() -> None:
    """Guards against refusing what people use; a property may have any name."""
    check_schema(SCHEMA)
    check_schema({"properties": {"pattern": {"type": "string", "format": "date"}}, "anyOf": [{}, SCHEMA]})


@pytest.mark.parametrize("text", ['{"n": 1}', ' \n{"n": 1}\n', '```json\n{"n": 1}\n```', '```\n{"n":\n1}\n```\n'])
def test_an_answer_may_stand_in_a_fence(text: str) -> None:
    """Guards against paying for a correction that only takes the fence away."""
    assert read_answer(text, SCHEMA) == {"n": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("One.", "not JSON"),
        ('Here: {"n": 1}', "not JSON"),
        ('{"n": NaN}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "'n' is a required property"),
        ('{"n": "1"}', "n: '1' is not of type 'integer'"),
        (json.dumps({"n": 1, "x": "y" * MAX_ANSWER}), "characters"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(text: str, told: str) -> None:
    """Guards the correction: the model reads this."""
    with pytest.raises(ValueError, match=r"^[^\n]{1,1100}$") as caught:
        read_answer(text, SCHEMA)
    assert told in str(caught.value)
