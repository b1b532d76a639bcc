"""What the domain asks of Durable Functions: start a run's instance, and wake it. The Durable client is one as it is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from shared import names
from shared.store.port import Document

log = logging.getLogger(__name__)

WAKE_SECONDS = 5.0


class Orchestrations(Protocol):
    """The part of `DurableOrchestrationClient` that is used."""

    async def start_new(self, orchestration_function_name: str, instance_id: str, client_input: Any) -> Any:
        """Start an instance. Raises whatever the client raises, also when one of this id runs."""
        ...

    async def raise_event(self, instance_id: str, event_name: str, event_data: Any) -> Any:
        """Raise an event for an instance."""
        ...


async def start_instance(orchestrations: Orchestrations, run: Document) -> None:
    """Start the instance of a queued run. Raises what the client raises, also when it was started before."""
    reference = {name: run[name] for name in ("scope", "workflow_id", "epoch")} | {"run_id": run["id"]}
    await orchestrations.start_new(names.ORCHESTRATOR_RUN, run["instance_id"], reference)


async def wake(orchestrations: Orchestrations, run: Document) -> None:
    """Raise the cancel event: a mere wake-up, so losing it is logged and no more."""
    facts = {"grace_seconds": run["cancel"]["grace_seconds"]}
    try:
        async with asyncio.timeout(WAKE_SECONDS):
            await orchestrations.raise_event(run["instance_id"], names.EVENT_CANCEL, facts)
    except Exception as error:
        log.debug("the wake-up of run %s was not delivered: %s", run["id"], error)
