"""Durable Functions as the domain sees it, in memory: instances are names and states; a test says what becomes of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from azure.durable_functions.models.DurableOrchestrationStatus import DurableOrchestrationStatus
from azure.durable_functions.models.PurgeHistoryResult import PurgeHistoryResult

from shared.executions import RunRef

ENDED = ("Completed", "Failed", "Terminated")
LONG_AGO = "2026-01-01T00:00:00Z"


class FakeOrchestrations:
    """The client's part that is used, with its way to answer: a false object for none, bare exceptions."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.outputs: dict[str, str | None] = {}
        self.started: list[str] = []
        self.events: list[str] = []
        self.purged: list[tuple[datetime, datetime]] = []
        self.fails: Exception | None = None
        self.before_answer: Callable[[], Awaitable[None]] | None = None
        """What happens between the question for an instance and its answer."""
        self.answers: dict[str, Any] | None = None
        """What the extension answers to a look when it fails."""

    def put(self, ref: RunRef, state: str, output: str | None = None) -> None:
        """The instance of a run is in this state."""
        self.states[ref.run_id], self.outputs[ref.run_id] = state, output

    def forget(self, ref: RunRef) -> None:
        """There is no instance of this run."""
        self.states.pop(ref.run_id, None)

    async def start_new(self, orchestration_function_name: str, instance_id: str, client_input: Any) -> str:
        if self.fails is not None:
            raise self.fails
        if self.states.get(instance_id, "Completed") not in ENDED:
            raise Exception(f"instance {instance_id} exists already")
        self.started.append(instance_id)
        self.states[instance_id], self.outputs[instance_id] = "Pending", None
        return instance_id

    async def raise_event(self, instance_id: str, event_name: str, event_data: Any) -> None:
        self.events.append(instance_id)

    async def get_status(self, instance_id: str) -> DurableOrchestrationStatus:
        if self.fails is not None:
            raise self.fails
        if self.answers is not None:
            return DurableOrchestrationStatus.from_json(self.answers)
        if self.before_answer is not None:
            await self.before_answer()
        if instance_id not in self.states:
            return DurableOrchestrationStatus.from_json("")
        return DurableOrchestrationStatus(
            name="run",
            instanceId=instance_id,
            createdTime=LONG_AGO,
            lastUpdatedTime=LONG_AGO,
            runtimeStatus=self.states[instance_id],  # type: ignore[arg-type]
            output=self.outputs.get(instance_id),
        )

    async def purge_instance_history_by(
        self, created_time_from: datetime, created_time_to: datetime, runtime_status: Sequence[Any]
    ) -> PurgeHistoryResult:
        if self.fails is not None:
            raise self.fails
        self.purged.append((created_time_from, created_time_to))
        return PurgeHistoryResult(1)
