"""The guide's snippet for receivers accepts what is really sent, and nothing that was tampered with."""

from __future__ import annotations

from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from shared.webhooks import send
from tests.support.pages import blocks
from tests.support.receiver import SECRET, headers_of, receiving


async def test_the_receivers_snippet_verifies_a_real_message() -> None:
    """Guards the snippet that people copy."""
    (code,) = (block.text for block in blocks("docs/webhooks.md") if block.language == "python")
    namespace: dict[str, Any] = {}
    exec(compile(code, "webhooks.md", "exec"), namespace)
    receive = namespace["receive"]
    delivery = {"message_id": "msg_1", "payload": {"type": "run.completed", "data": {"name": "Ünïcode"}}}
    async with receiving() as receiver:
        await send(receiver.url, SECRET, delivery, allow_private=True)
        (request,) = receiver.requests
    headers = headers_of(request)
    assert receive(SECRET, headers, request.body) == "msg_1 run.completed"
    other_secret = SECRET.replace("QUJD", "QUJE")
    for secret, given, body in (
        (SECRET, headers, request.body.replace(b"completed", b"cancelled")),
        (SECRET, {**headers, "webhook-id": "msg_2"}, request.body),
        (SECRET, {**headers, "webhook-timestamp": "1700000000"}, request.body),
        (other_secret, headers, request.body),
    ):
        with pytest.raises(WebhookVerificationError):
            receive(secret, given, body)
