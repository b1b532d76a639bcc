"""The protocol without its I/O: what is sent, when it is sent again, and how an answer is read.

Both clients use it, so none of it is written twice. Everything that changes something may be sent again after a lost answer
(a start carries the id of its run, a cancel is idempotent), except what makes a new thing under an id of the server's.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from truestop.errors import ServerFault, UnexpectedAnswer, Unreachable, problem_class
from truestop.models import Change, Event, Execution, RunState, View

DEFAULT_SERVER = "http://127.0.0.1:7071"
PATIENCE = 30.0
"""Seconds for which a request that gets no answer is tried again."""
MAX_ATTEMPTS = 12
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
TIMEOUT = httpx.Timeout(60.0, connect=5.0, pool=5.0)
"""A window of the live view lasts 20 s; a server that is silent for longer than 60 s is away."""
PAGE = "200"
WAIT_FIRST, WAIT_LONGEST = 0.05, 1.0
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PASSES = frozenset({429, 502, 503, 504})
"""Statuses that may be gone in a moment: too many requests, a proxy that reaches nobody, a store that is away."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Connection:
    """Which server, as whom, and whose workflows. What isn't given is taken from the environment."""

    server: str
    headers: Mapping[str, str] = field(repr=False)
    group: str | None = None

    @classmethod
    def of(cls, server: str | None, token: str | None, user: str | None, group: str | None, source: str) -> Connection:
        """Raises `ValueError` for a server that is no http address, and for values that can't be sent."""
        server = (server or os.environ.get("TRUESTOP_SERVER") or DEFAULT_SERVER).rstrip("/")
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"the server must be an address such as {DEFAULT_SERVER}, not {server!r}")
        headers = {"User-Agent": _user_agent(), "Accept": "application/json", "X-Truestop-Source": source}
        if token := token or os.environ.get("TRUESTOP_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        if user := user or os.environ.get("TRUESTOP_USER"):
            headers["X-Truestop-Dev-User"] = user
        for value in headers.values():
            if not value.isascii() or not value.isprintable():
                raise ValueError("the token and the user must be printable ASCII text")
        return cls(server, headers, group or os.environ.get("TRUESTOP_GROUP") or None)

    @property
    def params(self) -> Mapping[str, str]:
        """What names the group in each request."""
        return {"group_id": self.group} if self.group else {}

    def path(self, *parts: str) -> str:
        """A path below the person's or the group's scope."""
        return path("group" if self.group else "user", *parts)


def path(*parts: str) -> str:
    """A path of the API, each part escaped."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def named(name: str) -> tuple[str, ...]:
    """The parts of a name that is itself a path. Raises `ValueError` for one that a URL can't hold."""
    parts = tuple(name.split("/"))
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a name: {name!r}")
    return parts


def _user_agent() -> str:
    return f"truestop-python/{version('truestop')} python/{sys.version_info[0]}.{sys.version_info[1]}"


def new_run_id() -> str:
    """The id of a run that is about to be started: with it a start can be sent again and starts nothing twice.

    A ULID, as the service's own ids are: the time in milliseconds, then 80 random bits.
    """
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True)
class Request:
    """One request. `repeatable`: sending it twice does what sending it once does."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    def arguments(self, connection: Connection) -> dict[str, Any]:
        """For httpx."""
        more: dict[str, Any] = {}
        if self.json is not None:
            more["json"] = self.json
        if self.content is not None:
            more["content"] = self.content
        return {
            "method": self.method,
            "url": connection.server + self.path,
            "params": {**connection.params, **self.params},
            "headers": {**connection.headers, **self.headers},
            **more,
        }


class Attempts:
    """The attempts of one request: whether another follows, and after how long."""

    def __init__(
        self, request: Request, server: str, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.request, self.server, self.patience, self._clock = request, server, patience, clock
        self.count = 0
        self._began = clock()
        self._perhaps_done = False

    def pause(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """How long to wait before the request is sent again; None when `outcome` is what it comes to."""
        self.count += 1
        left = self.patience - (self._clock() - self._began)
        if self.count >= MAX_ATTEMPTS or left <= 0:
            return None
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in _PASSES or _code(outcome) == "start_failed":
                return None
            refused = outcome.status_code == 429
        else:
            refused = isinstance(outcome, _NEVER_SENT)
        if not refused:
            self._perhaps_done = True
            if not self.request.repeatable:
                return None
        own = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.count - 1)) * random.uniform(0.5, 1)  # noqa: S311 - a jitter
        asked = retry_after(outcome) if isinstance(outcome, httpx.Response) else None
        pause = own if asked is None else max(own, asked)
        return pause if pause <= left else None

    def finish(self, outcome: httpx.Response | httpx.TransportError) -> httpx.Response:
        """The answer. Raises `Problem`, `UnexpectedAnswer`, `Unreachable`."""
        if not isinstance(outcome, httpx.Response):
            detail = str(outcome) or type(outcome).__name__
            raise Unreachable(self.server, self.count, self._clock() - self._began, detail) from outcome
        if outcome.status_code == 404 and self.request.method == "DELETE" and self._perhaps_done:
            return httpx.Response(204)  # the attempt whose answer was lost had deleted it
        if not outcome.is_success:
            raise problem_of(outcome)
        return outcome


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that `Retry-After` asks for, as a number or as a date."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _code(response: httpx.Response) -> str | None:
    try:
        return str(response.json()["code"])
    except (ValueError, TypeError, KeyError):
        return None


def problem_of(response: httpx.Response) -> Exception:
    """What an answer that is no success is raised as."""
    status = response.status_code
    try:
        body = response.json()
        code, detail = str(body.pop("code")), str(body.pop("detail"))
    except (ValueError, TypeError, KeyError, AttributeError):
        if status >= 500:
            return ServerFault(status, "no_problem_details", f"HTTP {status} without a reason")
        return UnexpectedAnswer(status, f"{response.request.method} {response.request.url.copy_with(query=None)}")
    errors = [error for error in body.pop("errors", ()) if isinstance(error, dict)]
    extra = {key: value for key, value in body.items() if key not in ("type", "title", "status", "instance")}
    return problem_class(status, code)(status, code, detail, errors, extra, retry_after(response))


def body_of(response: httpx.Response) -> Any:
    """The JSON of an answer. Raises `UnexpectedAnswer`."""
    try:
        return response.json()
    except ValueError:
        raise UnexpectedAnswer(response.status_code, "the body is not JSON") from None


def given(**values: Any) -> dict[str, Any]:
    """The values that were given (are not None)."""
    return {name: value for name, value in values.items() if value is not None}


def if_match(etag: str | None) -> dict[str, str]:
    """The header that makes a change conditional."""
    return {} if etag is None else {"If-Match": etag}


class Feed:
    """What of a run a caller was told already: whatever is read, again or late, each news is told once."""

    KINDS: Mapping[str, type[View]] = {"run": RunState, "execution": Execution, "event": Event}

    def __init__(self, run_id: str, seen: str | None = None) -> None:
        """`seen`: the id of the last event that the caller has."""
        self._run_id, self._seen = run_id, seen
        self._told: dict[tuple[str, str], Any] = {}

    def news(self, kind: str, data: Any) -> Iterator[Change]:
        """The change that `data` is, if it is one."""
        view = self.KINDS.get(kind)
        if view is None:
            return
        value = view.of(data)
        assert isinstance(value, RunState | Execution | Event)
        if isinstance(value, Event) and self._seen is not None and value.id <= self._seen:
            return
        if self._stale(kind, value) or self._told.get((kind, value.id)) == data:
            return
        self._told[kind, value.id] = data
        yield Change(kind, value)  # type: ignore[arg-type]

    def _stale(self, kind: str, value: RunState | Execution | Event) -> bool:
        """Whether something newer was told: a snapshot may be older than what a stream already brought."""
        known = self._told.get((kind, value.id))
        if known is None or isinstance(value, Event):
            return known is not None
        return known.get("ended_at") is not None and value.ended_at is None


@dataclass
class Window:
    """What one answer of the live view holds: what is new, where to go on, and when (in seconds)."""

    news: list[tuple[str, Any]] = field(default_factory=list)
    token: str | None = None
    pause: float = 0.0

    @classmethod
    def of(cls, response: httpx.Response) -> Window:
        """Read server-sent events. One without data only says where to go on. Raises `UnexpectedAnswer`."""
        window = cls()
        for block in response.text.split("\n\n"):
            kind, data = "message", None
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "id":
                    window.token = value
                elif name == "retry" and value.isascii() and value.isdigit():
                    window.pause = min(float(value[:6]) / 1000, LONGEST_PAUSE)
                elif name == "event":
                    kind = value
                elif name == "data":
                    data = value
            if data is not None:
                try:
                    window.news.append((kind, json.loads(data)))
                except ValueError:
                    raise UnexpectedAnswer(response.status_code, "an event's data is not JSON") from None
        return window
