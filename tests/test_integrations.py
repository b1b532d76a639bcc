"""What bad webhooks and senders get: an error that names the field, without the secret."""

from __future__ import annotations

from typing import Any

import pytest

from shared.definitions import parse_definition
from shared.errors import Problem
from shared.integrations import may_ask, secrets_after
from shared.settings import load
from tests.support.receiver import SECRET

SETTINGS = load({})
STEP = {"kind": "tool", "name": "t", "tool": "echo", "arguments": {"value": 1}}
HOOK = {"name": "ops", "url": "https://example.org/hook", "events": ["run.failed"], "secret": SECRET}
SENDER = {"sender": "billing", "token": "t" * 32}


def errors_of(known: dict[str, Any] | None = None, **integrations: Any) -> dict[str, str]:
    """The errors of a definition, by field."""
    try:
        definition = parse_definition({"name": "W", "steps": [STEP], **integrations}, SETTINGS)
    except Problem as problem:
        return {error["field"]: error["message"] for error in problem.errors}
    _, errors = secrets_after(definition, known, plain_http=False)
    return {error["field"]: error["message"] for error in errors}


@pytest.mark.parametrize(
    ("hooks", "field"),
    [
        ([{**HOOK, "name": "Ops!"}], "notifications.0.name"),
        ([{**HOOK, "url": "ftp://example.org"}], "notifications.0.url"),
        ([{**HOOK, "url": "https://"}], "notifications.0.url"),
        ([{**HOOK, "url": "https://[1"}], "notifications.0.url"),
        ([{**HOOK, "url": "https://me:it@example.org"}], "notifications.0.url"),
        ([{**HOOK, "url": "http://example.org"}], "notifications.0.url"),
        ([{**HOOK, "url": "https://example.org/" + "x" * 2000}], "notifications.0.url"),
        ([{**HOOK, "events": []}], "notifications.0.events"),
        ([{**HOOK, "events": ["run.begun"]}], "notifications.0.events.0"),
        ([{**HOOK, "secret": "guess me"}], "notifications.0.secret"),
        ([{**HOOK, "secret": "whsec_c2hvcnQ="}], "notifications.0.secret"),
        ([{**HOOK, "secret": "whsec_" + "é" * 40}], "notifications.0.secret"),
        ([{**HOOK, "secret": None}], "notifications.0.secret"),
        ([{**HOOK, "colour": "red"}], "notifications.0.colour"),
        ([HOOK, HOOK], "notifications.1.name"),
        ([{**HOOK, "name": f"n{i}"} for i in range(11)], "notifications"),
    ],
)
def test_a_bad_webhook_is_an_error_of_its_field(hooks: list[Any], field: str) -> None:
    """Guards that mistakes are told when the workflow is saved, and that secrets aren't told at all."""
    errors = errors_of(notifications=hooks)
    assert list(errors) == [field]
    assert "guess me" not in str(errors)


@pytest.mark.parametrize(
    ("senders", "field"),
    [
        ([{**SENDER, "sender": "Billing"}], "run_requests.0.sender"),
        ([{**SENDER, "token": "short"}], "run_requests.0.token"),
        ([{**SENDER, "token": "é" * 40}], "run_requests.0.token"),
        ([{"sender": "billing"}], "run_requests.0.token"),
        ([SENDER, SENDER], "run_requests.1.sender"),
    ],
)
def test_a_bad_sender_is_an_error_of_its_field(senders: list[Any], field: str) -> None:
    """Guards that no sender is let in by mistake."""
    assert list(errors_of(run_requests=senders)) == [field]


def test_secrets_are_kept_by_name_and_dropped_with_their_owner() -> None:
    """Guards that saving a definition again, as it was read, loses no secret, and that a removed sender can't come back."""
    both = parse_definition({"name": "W", "steps": [STEP], "notifications": [HOOK], "run_requests": [SENDER]}, SETTINGS)
    known, errors = secrets_after(both, None, plain_http=False)
    assert errors == []
    assert known is not None
    assert may_ask(known, "billing", "t" * 32)
    assert not may_ask(known, "billing", "u" * 32)
    assert not may_ask(known, "sales", "t" * 32)
    assert not may_ask(None, "billing", "t" * 32)
    again = parse_definition(
        {"name": "W", "steps": [STEP], **both.model_dump(include={"notifications", "run_requests"})}, SETTINGS
    )
    assert again.notifications[0].secret is None
    assert secrets_after(again, known, plain_http=False)[0] == known
    none, _ = secrets_after(parse_definition({"name": "W", "steps": [STEP]}, SETTINGS), known, plain_http=False)
    assert none is not None
    assert not may_ask(none, "billing", "t" * 32)
    assert list(errors_of(none, run_requests=[{"sender": "billing"}])) == ["run_requests.0.token"]
