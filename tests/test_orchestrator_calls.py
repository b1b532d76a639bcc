"""Calling an activity until it has an outcome: an outage is waited out, what is broken is given up; pauses are durable."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrators.calls import BROKEN_TRIES, call_until_done
from shared import names

AWAY = {"status": names.OUTCOME_STORE_AWAY}
DONE = {"status": "completed"}
START = datetime(2026, 11, 21, tzinfo=UTC)


class Context:
    """As much of the Durable context as is used, with a clock that its timers move."""

    def __init__(self) -> None:
        self.current_utc_datetime = START
        self.pauses: list[float] = []
        self.calls = 0

    def call_activity(self, name: str, payload: Any) -> str:
        self.calls += 1
        return "activity"

    def create_timer(self, moment: datetime) -> str:
        self.pauses.append((moment - self.current_utc_datetime).total_seconds())
        self.current_utc_datetime = moment
        return "timer"


def drive(context: Context, answer: Callable[[int], Any]) -> dict[str, Any]:
    """Run the loop; `answer` says what the nth call (from 1) answers, or raises."""
    steps = call_until_done(context, "a", {})  # type: ignore[arg-type]
    task = next(steps)
    try:
        while True:
            if task == "timer":
                task = steps.send(None)
                continue
            try:
                said = answer(context.calls)
            except RuntimeError as error:
                task = steps.throw(error)
            else:
                task = steps.send(said)
    except StopIteration as end:
        outcome: dict[str, Any] = end.value
        return outcome


def test_a_store_that_is_away_is_waited_for_however_long() -> None:
    """Guards against giving up: that would leave an operation on record as working, and the run could not end."""
    context = Context()
    assert drive(context, lambda call: AWAY if call <= 200 else DONE) == DONE
    assert context.pauses[:4] == [5, 10, 15, 15]
    assert max(context.pauses) == 15


def test_an_activity_that_keeps_raising_is_given_up_with_its_reason() -> None:
    """Guards the end of a run whose activity is broken: it fails, and says why; an outage in between doesn't count."""

    def answer(call: int) -> Any:
        if call % 2:
            return AWAY
        raise RuntimeError("no such thing\nand a long story")

    context = Context()
    outcome = drive(context, answer)
    assert outcome == {
        "status": "failed",
        "error": {"code": "activity_failed", "message": "no such thing"},
        "given_up": True,
    }
    assert context.calls == 2 * BROKEN_TRIES
    assert context.current_utc_datetime - START < timedelta(minutes=5)
