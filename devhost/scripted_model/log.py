"""What the scripted model was asked and did, to the moment of each token.

`t` and `ended_t` are readings of the machine's monotonic clock, in seconds, so that a test may compare them with its own.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

from shared.ids import now

How = Literal["open", "done", "closed", "error", "cut"]

MAX_EXCHANGES = 20_000
MAX_TIMES = 2_000_000
PROMPT_PREFIX = 200


class Exchange:
    """One request: open until it is `done`, `closed` (by the client), an `error`, or `cut` (by a directive)."""

    __slots__ = ("began_at", "ended_at", "ended_t", "how", "id", "key", "model", "prompt", "t", "tokens")

    def __init__(self, exchange_id: int) -> None:
        self.id = exchange_id
        self.began_at, self.t = now(), time.monotonic()
        self.model: str | None = None
        self.prompt = ""
        self.key: str | None = None
        self.tokens = array("d")
        self.ended_at: str | None = None
        self.ended_t: float | None = None
        self.how: How = "open"

    def end(self, how: How) -> None:
        """Note how it ended; the first time counts."""
        if self.how == "open":
            self.how, self.ended_at, self.ended_t = how, now(), time.monotonic()

    def as_dict(self) -> dict[str, Any]:
        """For the log page. `tokens`: seconds from the beginning to each token sent."""
        return {
            "id": self.id,
            "began_at": self.began_at,
            "t": self.t,
            "model": self.model,
            "prompt": self.prompt,
            "key": self.key,
            "tokens": [round(moment, 6) for moment in self.tokens],
            "sent": len(self.tokens),
            "ended_at": self.ended_at,
            "ended_t": self.ended_t,
            "how": self.how,
        }


class ExchangeLog:
    """The last exchanges, bounded in number and in token times; the oldest go first."""

    def __init__(self, max_exchanges: int = MAX_EXCHANGES, max_times: int = MAX_TIMES) -> None:
        self._max_exchanges, self._max_times = max_exchanges, max_times
        self._exchanges: deque[Exchange] = deque()
        self._times = 0
        self._last_id = 0

    def open(self) -> Exchange:
        """Note that a request begins."""
        self._last_id += 1
        exchange = Exchange(self._last_id)
        self._exchanges.append(exchange)
        self._trim()
        return exchange

    def sent(self, exchange: Exchange, at: float, count: int = 1) -> None:
        """Note that `count` tokens were sent at `at` (monotonic). None is, after the client has gone."""
        if exchange.how != "open":
            return
        exchange.tokens.extend([at - exchange.t] * count)
        if self._exchanges and exchange.id >= self._exchanges[0].id:
            self._times += count
            self._trim()

    def after(self, exchange_id: int) -> Iterator[str]:
        """The exchanges after that id as pieces of one JSON array, so that a long log can be sent bit by bit."""
        yield "["
        separator = ""
        for exchange in [one for one in self._exchanges if one.id > exchange_id]:
            yield separator + json.dumps(exchange.as_dict(), separators=(",", ":"))
            separator = ","
        yield "]"

    def clear(self) -> None:
        """Forget everything; ids go on."""
        self._exchanges.clear()
        self._times = 0

    def _trim(self) -> None:
        while len(self._exchanges) > self._max_exchanges or (
            self._times > self._max_times and len(self._exchanges) > 1
        ):
            self._times -= len(self._exchanges.popleft().tokens)
