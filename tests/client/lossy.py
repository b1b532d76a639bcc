"""A transport that loses what a test wants lost: requests on the way there, or answers on the way back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx

Rule = Callable[[httpx.Request], str | None]
"""What happens to a request: "unsent", "unanswered", or None for nothing."""


class Lossy(httpx.BaseTransport):
    """Real connections, on which `rule` decides."""

    def __init__(self, rule: Rule) -> None:
        self._inner, self._rule, self._lock = httpx.HTTPTransport(), rule, threading.Lock()
        self.lost: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            fate = self._rule(request)
            if fate is not None:
                self.lost.append((request.method, fate))
        if fate == "unsent":
            raise httpx.ConnectError("lost before it was sent", request=request)
        answer = self._inner.handle_request(request)
        if fate == "unanswered":
            answer.read()
            answer.close()
            raise httpx.ReadError("the answer was lost", request=request)
        return answer

    def close(self) -> None:
        self._inner.close()


def first(count: int, fate: str, method: str, tail: str = "") -> Rule:
    """Lose the first `count` requests of a method whose path ends with `tail`."""
    left = [count]

    def rule(request: httpx.Request) -> str | None:
        if request.method != method or not request.url.path.endswith(tail) or not left[0]:
            return None
        left[0] -= 1
        return fate

    return rule
