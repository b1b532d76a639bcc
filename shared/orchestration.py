"""What the domain asks of Durable Functions: start, wake, look at a run's instance. The Durable client is one as it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from shared import names
from shared.errors import Unavailable
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

    async def get_status(self, instance_id: str) -> Any:
        """The status of an instance: an object that is false when there is none."""
        ...

    async def purge_instance_history_by(
        self, created_time_from: datetime, created_time_to: datetime, runtime_status: Sequence[Any]
    ) -> Any:
        """Forget the instances that were created between two moments and are in one of these states.

        Answers an object whose `instances_deleted` says how many.
        """
        ...


class InstanceState(StrEnum):
    """Where an instance is, as far as a run is concerned."""

    ALIVE = "alive"
    """It works, waits or is suspended: it will go on by itself, or when someone resumes it."""
    TERMINATED = "terminated"
    """Someone ended it by hand."""
    FAILED = "failed"
    """Its orchestrator raised."""
    ENDED = "ended"
    """Its orchestrator returned."""
    MISSING = "missing"
    """There is none of this id."""


_STATES = {
    "Terminated": InstanceState.TERMINATED,
    "Failed": InstanceState.FAILED,
    "Completed": InstanceState.ENDED,
    "Canceled": InstanceState.ENDED,
}


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as it was seen. `said`: what it left, such as the reason it was terminated for."""

    state: InstanceState
    said: str | None = None


MAX_SAID = 500


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


async def instance_of(orchestrations: Orchestrations, run: Document) -> Instance:
    """The instance of `run`. Raises `Unavailable` when Durable Functions doesn't say."""
    try:
        status = await orchestrations.get_status(run["instance_id"])
    except Exception as error:
        raise Unavailable(f"Durable Functions doesn't say how instance {run['instance_id']} is: {error}") from error
    if not status:
        # The client makes such an object of any answer without an instance. A 404 says nothing; a failure of the
        # extension says something, and must not be read as "there is none".
        said = [value for name, value in vars(status).items() if not name.startswith("_") and value]
        if said:
            raise Unavailable(f"Durable Functions doesn't say how instance {run['instance_id']} is: {said[0]!s:.200}")
        return Instance(InstanceState.MISSING)
    output = status.output
    state = _STATES.get(status.runtime_status.value, InstanceState.ALIVE)
    return Instance(state, output[:MAX_SAID] if isinstance(output, str) and output else None)
