"""Truestop over HTTP, as a test uses it: one user, their workflows and runs, and what the scripted model was asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

import httpx

from tests.support.waiting import eventually_sync

WORKFLOWS = "/api/user/workflows"
DOCUMENTS = "/api/user/documents"
USER_HEADER = "X-Truestop-Dev-User"
ENDED = ("completed", "failed", "cancelled")
Json = Any


class Api:
    """The API as one user sees it. Safe to use from several threads."""

    def __init__(self, client: httpx.Client, user: str | None = None) -> None:
        self.client = client
        self.user = user or f"u-{uuid4().hex[:12]}"

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
        """A request of this user."""
        return self.client.request(method, path, headers={USER_HEADER: self.user, **(headers or {})}, **more)

    def ok(self, method: str, path: str, status: int | tuple[int, ...] = 200, **more: Any) -> Json:
        """The body of a request that is answered `status`, or one of them."""
        answer = self.request(method, path, **more)
        wanted = (status,) if isinstance(status, int) else status
        assert answer.status_code in wanted, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def all(self, path: str, limit: int = 200, **query: str) -> list[Json]:
        """Every entry of a list that `query` filters, over all of its pages."""
        found: list[Json] = []
        after: str | None = None
        while True:
            page = self.ok("GET", path, params={"limit": str(limit), **query} | ({"after": after} if after else {}))
            assert len(page["items"]) <= limit
            found += page["items"]
            after = page["next"]
            if after is None:
                return found

    def upload(self, name: str, data: bytes, status: int = 200) -> Json:
        """Put a document; `name` is percent-encoded where needed."""
        return self.ok("PUT", f"{DOCUMENTS}/{name}", status, content=data)

    def workflow(self, *steps: dict[str, Any], **settings: Any) -> Workflow:
        """Create a workflow; steps without a name are called `s1`, `s2` and so on."""
        named = [{"name": f"s{number}", **step} for number, step in enumerate(steps, start=1)]
        created = self.ok("POST", WORKFLOWS, 201, json={"name": "Test", **settings, "steps": named})
        return Workflow(self, created["id"])


class Workflow:
    """One workflow."""

    def __init__(self, api: Api, workflow_id: str) -> None:
        self.api, self.id, self.path = api, workflow_id, f"{WORKFLOWS}/{workflow_id}"

    def get(self) -> Json:
        """The workflow as it is now."""
        return self.api.ok("GET", self.path)

    def start(self, status: int = 202, **body: Any) -> Run:
        """Start a run."""
        return Run(self, self.api.ok("POST", f"{self.path}/run", status, json=body)["id"])

    def run(self, **body: Any) -> Run:
        """Start a run and wait for its end."""
        run = self.start(**body, wait=20)
        run.wait()
        return run


class Run:
    """One run."""

    def __init__(self, workflow: Workflow, run_id: str) -> None:
        self.api, self.workflow, self.id = workflow.api, workflow, run_id
        self.path = f"{workflow.path}/runs/{run_id}"
        self.ended_by: float | None = None
        """When `wait` saw it ended, on the clock of the model's log."""

    def get(self) -> Json:
        """The run as it is now."""
        return self.api.ok("GET", self.path)

    def wait(self, *statuses: str, seconds: float = 20) -> Json:
        """The run, once it has one of `statuses` (default: once it has ended)."""
        what = f"{self.path} of {self.api.user} is {' or '.join(statuses or ENDED)}"
        try:
            run = eventually_sync(
                lambda: run if (run := self.get())["status"] in (statuses or ENDED) else None, seconds, what
            )
        except AssertionError as error:
            tree = {path: (one["status"], one["attempt"]) for path, one in self.executions().items()}
            raise AssertionError(f"{error}\nit is {self.get()}\nits tree: {tree}\nevents: {self.types()}") from None
        if run["status"] in ENDED:
            self.ended_by = self.ended_by or time.monotonic()
        return run

    def cancel(self, **body: Any) -> httpx.Response:
        """Ask for the cancel."""
        return self.api.request("POST", f"{self.path}/cancel", json=body)

    def receipt(self) -> Json:
        """The receipt of its cancel."""
        return self.api.ok("GET", f"{self.path}/cancellation")

    def executions(self) -> dict[str, Json]:
        """Its tree, by path."""
        return {one["path"]: one for one in self.api.all(f"{self.path}/executions")}

    def items(self) -> list[Json]:
        """Its items."""
        return self.api.all(f"{self.path}/items")

    def events(self) -> list[Json]:
        """Its events, in order."""
        return self.api.all(f"{self.path}/events")

    def types(self) -> list[str]:
        """The types of its events, in order."""
        return [event["type"] for event in self.events()]


class ModelLog:
    """What the scripted model noted of the requests whose prompt has `[[key=…]]` of `key`.

    Moments are readings of the monotonic clock, which all processes of a machine share: host and tests are on one machine.
    """

    _ends: ClassVar[dict[str, int]] = {}

    def __init__(self, client: httpx.Client, key: str, processes: int = 1) -> None:
        """`processes`: how many share the work; of several, only one learns of a cancel at once."""
        self._client, self.key, self.processes = client, key, processes
        # The log of a whole session is long: each look goes on from the last one's end.
        known = self._ends.get(str(client.base_url), 0)
        self._before = max((one["id"] for one in self._read(known)), default=known)
        self._ends[str(client.base_url)] = self._before

    def _read(self, after: int) -> list[Json]:
        answer = self._client.get("/dev/model/log", params={"after": str(after)})
        answer.raise_for_status()
        return list(answer.json())

    def entries(self) -> list[Json]:
        """The requests, oldest first."""
        return [one for one in self._read(self._before) if one["key"] == self.key]

    def streaming(self, count: int = 1, tokens: int = 1) -> list[Json]:
        """Wait until `count` requests are being answered and have had `tokens` tokens each; answer those."""

        def probe() -> list[Json] | None:
            found = [one for one in self.entries() if one["how"] == "open" and one["sent"] >= tokens]
            return found if len(found) >= count else None

        found: list[Json] = eventually_sync(probe, 20, f"{count} requests of {self.key} have {tokens} tokens")
        return found

    def idle(self) -> list[Json]:
        """Wait until no request is being answered; answer all of them."""
        eventually_sync(
            lambda: all(one["how"] != "open" for one in self.entries()), 10, f"{self.key} has no open stream"
        )
        return self.entries()


def tokens_after(entry: Json, moment: float) -> int:
    """How many tokens of a log entry were sent later than `moment` (of `time.monotonic()`)."""
    return sum(entry["t"] + offset > moment for offset in entry["tokens"])
