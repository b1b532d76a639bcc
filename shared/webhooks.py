"""One attempt at a delivery: guarded, signed, sent, and its outcome recorded.

1. A message names a delivery and its turn. When the delivery has moved on (delivered, given up, at a later turn) the message
   is stale.
2. The attempt begins with a transaction. For a `notify` step it is guarded by *neither the run nor a branch above the step
   was cancelled*: after the accept of a cancel, no attempt begins.
3. The request is signed as Standard Webhooks says, goes to checked addresses only, follows no redirect, and is bounded in
   time. Of the answer only the status and `Retry-After` are read.
4. A failure moves the delivery to its next turn and sends a message for that, delayed. After `MAX_ATTEMPTS`, or when trying
   again can't help, the delivery is `failed` and keeps the reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from datetime import UTC, datetime, timedelta
from typing import Literal

import httpcore
import httpx
from pydantic import Field
from standardwebhooks import Webhook as Signer

from shared import workflows
from shared.deliveries import EVENT_NOTIFY, DeliveryStatus, partition_of, wake
from shared.errors import ConditionFailed, NotFound, Problem, StepFailed
from shared.executions import ancestors
from shared.ids import now, to_text
from shared.names import QUEUE_NOTIFICATIONS
from shared.queue_intake import read_message, reject
from shared.queues import MAX_DELAY
from shared.services import Services
from shared.states import RunStatus
from shared.steps import Strict
from shared.store.port import Check, Document, FieldIn, HoldsNone, Op, Partition, Patch
from shared.web import CheckedClient, ForbiddenAddress, retry_after_seconds, shown_url

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 9
"""With the default pause and its fourfold growth: over about 30 hours."""
TIMEOUT_SECONDS = 20.0
ATTEMPT_SECONDS = 60.0
"""How long an attempt has its delivery to itself before it counts as overdue."""
JITTER = 0.2
GONE = 410
UNCANCELLED = (RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED)
_TRANSPORT_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpx.HTTPError, OSError)

Outcome = Literal["stale", "cancelled", "delivered", "retry", "failed"]


class WakeUp(Strict):
    """A message of the queue of notifications: see `deliveries.wake`."""

    scope: str = Field(min_length=1, max_length=200)
    workflow_id: str = Field(pattern=r"^[a-z0-9]{26}$")
    delivery: str = Field(pattern=r"^delivery:[^/\\#?]{1,240}$")
    turn: int = Field(ge=0)


async def handle(services: Services, text: str) -> Outcome | Literal["rejected"]:
    """Work on one message of the queue. Raises `Throttled`, `Unavailable`: it then comes again."""
    try:
        message = read_message(text, WakeUp)
    except Problem as problem:
        await reject(services, QUEUE_NOTIFICATIONS, text, problem)
        return "rejected"
    return await attempt(services, message)


async def attempt(services: Services, message: WakeUp) -> Outcome:
    """Try the delivery that a message names. Answers what came of it; raises `Throttled`, `Unavailable`."""
    try:
        delivery = await services.store.get(Partition(message.scope, message.workflow_id), message.delivery)
    except NotFound:
        return "stale"  # its workflow was deleted
    if delivery["status"] != DeliveryStatus.PENDING or delivery["turn"] != message.turn:
        return "stale"
    try:
        url, secret = await _receiver(services, delivery)
        begun = await _begin(services, delivery)
        if not isinstance(begun, dict):
            return begun
        delivery = begun
        await send(url, secret, delivery, allow_private=services.settings.webhook_allow_private)
    except StepFailed as error:
        return await _failed(services, delivery, error)
    await _move(services, delivery, status=DeliveryStatus.DELIVERED, ended_at=now(), error=None)
    return "delivered"


async def _receiver(services: Services, delivery: Document) -> tuple[str, str]:
    """Address and secret, as the workflow has them now. Raises `StepFailed` `webhook_removed`."""
    partition = partition_of(delivery)
    removed = StepFailed("webhook_removed", f"the workflow has no webhook {delivery['webhook']!r} any more")
    try:
        definition = (await workflows.get(services, partition))["definition"]
    except Problem:
        raise removed from None
    secrets = await workflows.secrets_of(services, partition)
    for webhook in definition.get("notifications", ()):
        if webhook["name"] == delivery["webhook"] and secrets and webhook["name"] in secrets["webhooks"]:
            return webhook["url"], secrets["webhooks"][webhook["name"]]
    raise removed


async def _begin(services: Services, delivery: Document) -> Document | Literal["stale", "cancelled"]:
    """Begin an attempt, if the delivery is as it was read and the run's cancel allows it."""
    if delivery["attempts"] >= MAX_ATTEMPTS:
        raise StepFailed("webhook_failed", "the last attempt broke off before its outcome was known")
    due_at = to_text(datetime.now(UTC) + timedelta(seconds=ATTEMPT_SECONDS))
    ops: list[Op] = [
        Patch(delivery["id"], set={"due_at": due_at}, increment={"attempts": 1}, when=_unchanged(delivery))
    ]
    if delivery["event"] == EVENT_NOTIFY:
        path = delivery["execution_id"].removeprefix(f"{delivery['run_id']}:")
        uncancelled = (FieldIn("status", UNCANCELLED), HoldsNone("cancelled_executions", ancestors(path)))
        ops.append(Check(delivery["run_id"], when=uncancelled))
    try:
        return (await services.store.transact(partition_of(delivery), ops))[0] or delivery
    except (ConditionFailed, NotFound) as refused:
        if refused.document_id != delivery["run_id"]:
            return "stale"
    why = {"code": "run_cancelled", "message": "the run was cancelled before this went out"}
    await _move(services, delivery, status=DeliveryStatus.CANCELLED, ended_at=now(), error=why)
    return "cancelled"


def _unchanged(delivery: Document) -> tuple[FieldIn, ...]:
    return tuple(FieldIn(name, (delivery[name],)) for name in ("status", "turn", "attempts"))


async def send(url: str, secret: str, delivery: Document, *, allow_private: bool) -> None:
    """Sign and POST a delivery's payload.

    Raises `StepFailed`: `webhook_status`, `webhook_failed`, `webhook_timeout` (retryable), `webhook_gone`,
    `webhook_forbidden_address`.
    """
    body = json.dumps(delivery["payload"], ensure_ascii=False, separators=(",", ":"))
    moment = datetime.now(UTC)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": delivery["message_id"],
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Signer(secret).sign(delivery["message_id"], moment, body),
    }
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), CheckedClient(allow_private=allow_private) as client:
            posting = client.stream("POST", url, content=body.encode(), headers=headers, timeout=TIMEOUT_SECONDS)
            async with posting as response:
                _check_status(response, url)
    except TimeoutError:
        raise StepFailed("webhook_timeout", f"{shown_url(url)} took over {TIMEOUT_SECONDS:g} s", True) from None
    except ForbiddenAddress as error:
        raise StepFailed("webhook_forbidden_address", f"{shown_url(url)}: {error}") from None
    except (*_TRANSPORT_ERRORS, httpx.InvalidURL) as error:
        raise StepFailed("webhook_failed", f"{shown_url(url)}: {error or type(error).__name__}", True) from error


def _check_status(response: httpx.Response, url: str) -> None:
    """A receiver has the message when it answers 2xx, and wants no more of them when it answers 410."""
    status = response.status_code
    if 200 <= status < 300:
        return
    if status == GONE:
        raise StepFailed("webhook_gone", f"{shown_url(url)} answered {status}: it wants no more")
    wait = retry_after_seconds(response.headers.get("Retry-After"))
    raise StepFailed("webhook_status", f"{shown_url(url)} answered {status}", True, wait)


async def _failed(services: Services, delivery: Document, error: StepFailed) -> Outcome:
    """Record a failed attempt: the delivery goes to its next turn, or is given up."""
    why = error.facts()
    if not error.retryable or delivery["attempts"] >= MAX_ATTEMPTS:
        log.warning("delivery %s is given up: %s", delivery["id"], error)
        await _move(services, delivery, status=DeliveryStatus.FAILED, ended_at=now(), error=why)
        return "failed"
    pause = _pause(services.settings.webhook_backoff_seconds, delivery["attempts"], error.retry_after)
    due_at = to_text(datetime.now(UTC) + timedelta(seconds=pause))
    turn = delivery["turn"] + 1
    # The record first: if the message is never sent, the delivery is overdue and `sweep` finds it.
    if await _move(services, delivery, turn=turn, due_at=due_at, error=why):
        await wake(services, [{**delivery, "turn": turn}], pause)
    return "retry"


def _pause(backoff: float, attempts: int, asked: float | None) -> int:
    """Whole seconds until the next attempt."""
    pause: float = backoff * 4.0 ** (attempts - 1) * (1 + random.uniform(-JITTER, JITTER))  # noqa: S311 - it spreads load
    return min(round(max(pause, asked or 0.0)), MAX_DELAY)


async def _move(services: Services, delivery: Document, **changes: object) -> bool:
    """Write an attempt's outcome, unless another attempt has begun or ended it meanwhile."""
    patch = Patch(delivery["id"], set=changes, when=_unchanged(delivery))
    try:
        await services.store.transact(partition_of(delivery), [patch])
    except (ConditionFailed, NotFound):
        log.info("delivery %s moved on meanwhile", delivery["id"])
        return False
    return True
