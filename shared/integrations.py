"""What a workflow agrees with other systems: the webhooks that it sends, and who may ask for runs over the queue.

Their secrets can be written and never read: the definition, and so every snapshot of it, is kept without them. They are in a
document of their own, which changes only in the transaction that changes the definition. Of a sender's token only the
hash is kept, since it is compared and never used.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from shared.names import SECRETS_ID, DocumentType
from shared.steps import Strict
from shared.store.port import Document

if TYPE_CHECKING:
    from shared.definitions import Definition

MAX_PER_WORKFLOW = 10
Name = r"^[a-z][a-z0-9_]{0,31}$"
SECRET_PREFIX = "whsec_"  # noqa: S105 - what Standard Webhooks begins every secret with
TOKEN = re.compile(r"[A-Za-z0-9_-]{32,200}")


class Webhook(Strict):
    """Where a workflow's notifications go, signed as Standard Webhooks says. `secret` absent: the one it had."""

    name: str = Field(pattern=Name)
    url: str = Field(max_length=2000)
    events: list[Literal["run.completed", "run.failed", "run.cancelled", "notify"]] = Field(min_length=1, max_length=4)
    secret: str | None = Field(default=None, exclude=True, repr=False)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.fragment:
            raise ValueError("must be an https address without credentials and fragment")
        return url

    @field_validator("secret")
    @classmethod
    def _is_a_secret(cls, secret: str | None) -> str | None:
        if secret is not None and not (secret.startswith(SECRET_PREFIX) and 24 <= _length(secret) <= 64):
            raise ValueError(f"must be {SECRET_PREFIX} and the base64 of 24 to 64 random bytes")
        return secret


class Sender(Strict):
    """Who may ask for runs over the queue. `token` absent: the one it had."""

    sender: str = Field(pattern=Name)
    token: str | None = Field(default=None, exclude=True, repr=False)

    @field_validator("token")
    @classmethod
    def _is_a_token(cls, token: str | None) -> str | None:
        if token is not None and not TOKEN.fullmatch(token):
            raise ValueError("must be 32 to 200 random letters, digits, '_' or '-'")
        return token


def _length(secret: str) -> int:
    """How many bytes a secret has; -1 if it isn't base64."""
    try:
        return len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True))
    except ValueError:
        return -1


def secrets_after(
    definition: Definition, known: Mapping[str, Any] | None, *, plain_http: bool
) -> tuple[Document | None, list[dict[str, str]]]:
    """The secrets of a definition that is saved, given those known before; and what is wrong, by field.

    None when there were and are none. `plain_http`: webhooks may go to http addresses.
    """
    webhooks, senders = (dict(known[part]) if known else {} for part in ("webhooks", "senders"))
    for webhook in definition.notifications:
        if webhook.secret is not None:
            webhooks[webhook.name] = webhook.secret
    for sender in definition.run_requests:
        if sender.token is not None:
            senders[sender.sender] = _hashed(sender.token)
    errors = list(_wrong(definition, webhooks, senders, plain_http))
    if errors or not (known or webhooks or senders):
        return None, errors
    kept = {
        "webhooks": {webhook.name: webhooks[webhook.name] for webhook in definition.notifications},
        "senders": {sender.sender: senders[sender.sender] for sender in definition.run_requests},
    }
    return {"id": SECRETS_ID, "type": DocumentType.SECRETS, **kept}, []


def _wrong(
    definition: Definition, webhooks: Mapping[str, str], senders: Mapping[str, str], plain_http: bool
) -> Iterator[dict[str, str]]:
    for i, webhook in enumerate(definition.notifications):
        if webhook.name not in webhooks:
            yield {"field": f"notifications.{i}.secret", "message": "is needed for a new webhook"}
        if webhook.name in [other.name for other in definition.notifications[:i]]:
            yield {"field": f"notifications.{i}.name", "message": f"another webhook is named {webhook.name!r}"}
        if not plain_http and urlsplit(webhook.url).scheme != "https":
            yield {"field": f"notifications.{i}.url", "message": "must be an https address"}
    for i, sender in enumerate(definition.run_requests):
        if sender.sender not in senders:
            yield {"field": f"run_requests.{i}.token", "message": "is needed for a new sender"}
        if sender.sender in [other.sender for other in definition.run_requests[:i]]:
            yield {"field": f"run_requests.{i}.sender", "message": f"another sender is named {sender.sender!r}"}


def may_ask(secrets: Mapping[str, Any] | None, sender: str, token: str) -> bool:
    """Whether `token` is the one that `sender` was given."""
    expected = secrets["senders"].get(sender) if secrets else None
    return expected is not None and hmac.compare_digest(expected, _hashed(token))


def _hashed(token: str) -> str:
    # A fast hash will do: a token is random and long, so it can't be guessed from it.
    return hashlib.sha256(token.encode()).hexdigest()
