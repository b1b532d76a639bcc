"""How often one caller may start and cancel runs. Each process counts for itself, in bounded memory.

Cancels have a bucket of their own, and a generous one: no number of starts keeps anyone from stopping something.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from shared.errors import Problem
from shared.identity import Caller
from shared.permissions import Rule

MAX_CALLERS = 10_000
"""Callers that are remembered; of more, those who asked longest ago begin anew."""


class Bucket:
    """A token bucket a caller: `per_minute` at once, and as many again each minute."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._rate, self._clock = max(1.0, per_minute), per_minute / 60, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float:
        """Take one for `who`. Answers 0, or in how many seconds there will be one."""
        moment = self._clock()
        left, at = self._left.pop(who, (self._size, moment))
        left = min(self._size, left + (moment - at) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._left[who] = (left if wait else left - 1, moment)
        if len(self._left) > MAX_CALLERS:
            self._left.popitem(last=False)
        return wait


class RateLimits:
    """The buckets of one process."""

    def __init__(
        self, starts_per_minute: float, cancels_per_minute: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets = {
            Rule.WORKFLOW_RUN: Bucket(starts_per_minute, clock),
            Rule.WORKFLOW_CANCEL: Bucket(cancels_per_minute, clock),
        }

    def refuse(self, rule: Rule, caller: Caller) -> None:
        """Count a request under this rule. Raises `Problem` 429 `rate_limited` with `retry_after`, in seconds.

        A key counts apart from its maker: a machine that runs wild leaves its person free.
        """
        bucket = self._buckets.get(rule)
        wait = bucket.take(caller.id if caller.key is None else f"key:{caller.key.id}") if bucket is not None else 0.0
        if wait:
            after = math.ceil(wait)
            raise Problem(
                429, "rate_limited", f"too many such requests: try again in {after} s", extra={"retry_after": after}
            )
