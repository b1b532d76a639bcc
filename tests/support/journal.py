"""A store that notes, in commit order, what began and what was cancelled: the promise is checked against it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from shared.names import EventType
from shared.states import RunStatus
from shared.store.port import Create, Op, Patch

BEGAN, CANCELLED = "began", "cancelled"
ANSWERED = "answered"
"""For tests to note that a cancel's answer was there."""


class Fact(NamedTuple):
    """`path` None: of the run as a whole."""

    what: str
    run_id: str
    path: str | None


class Journal:
    """Passes everything on to a store, some writes a moment late."""

    def __init__(self, inner: Any, random_: random.Random) -> None:
        self._inner, self._random = inner, random_
        self.facts: list[Fact] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def transact(self, partition: Any, ops: Sequence[Op]) -> Any:
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.random() * 0.004)
        result = await self._inner.transact(partition, ops)
        self.facts.extend(fact for op in ops if (fact := _fact(op)) is not None)
        return result


def _fact(op: Op) -> Fact | None:
    if isinstance(op, Create) and op.document.get("event_type") == EventType.EXECUTION_STARTED:
        run_id, _, path = op.document["execution_id"].partition(":")
        return Fact(BEGAN, run_id, path)
    if isinstance(op, Patch) and "cancelled_executions" in op.append:
        return Fact(CANCELLED, op.id, str(op.append["cancelled_executions"]))
    if isinstance(op, Patch) and op.set.get("status") == RunStatus.CANCELLING:
        return Fact(CANCELLED, op.id, None)
    return None
