"""Users who start and cancel runs of every kind over HTTP, ask again until they are answered, and note the answers."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from shared.store.port import Partition
from tests.chaos.proof import Told
from tests.support.api import DOCUMENTS, USER_HEADER, WORKFLOWS

ASK_AGAIN_SECONDS = 0.15
PATIENCE_SECONDS = 90.0
"""Longer than any outage that the mischief makes."""
FILES = 5
TOO_LATE = "run_already_finished"


class NoAnswer(AssertionError):
    """A request got no answer in all that time."""


@dataclass(slots=True)
class Asked:
    """A workflow, and what was asked of its runs."""

    user: str
    workflow_id: str
    endless: bool
    """Its runs end by a cancel only."""
    runs: dict[str, Told] = field(default_factory=dict)

    @property
    def partition(self) -> Partition:
        return Partition(f"user:{self.user}", self.workflow_id)

    def path(self, run_id: str) -> str:
        return f"{WORKFLOWS}/{self.workflow_id}/runs/{run_id}"


class Load:
    """All users on one host, and everything that they asked."""

    def __init__(self, base_url: str, seed: int) -> None:
        limits = httpx.Limits(max_connections=100)
        self._client = httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False, limits=limits)
        self._seed, self._page = seed, f"{base_url}/api/health"
        self.asked: list[Asked] = []
        self.wrong: list[str] = []
        """Answers that no client should ever get."""
        self.unanswered = 0

    async def close(self) -> None:
        await self._client.aclose()

    async def run(self, users: int, stop: asyncio.Event) -> None:
        """Let `users` work until `stop`."""
        await asyncio.gather(*(self._user(number, stop) for number in range(users)))

    async def request(self, user: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask until there is an answer that is one. Raises `NoAnswer`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        while loop.time() < until:
            try:
                answer = await self._client.request(method, path, headers={USER_HEADER: user}, **more)
                if answer.status_code < 500:
                    return answer
                if answer.status_code != 503:
                    self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            except httpx.TransportError:
                pass  # nobody is there, or who was there is gone
            self.unanswered += 1
            await asyncio.sleep(ASK_AGAIN_SECONDS)
        raise NoAnswer(f"{method} {path}")

    async def _user(self, number: int, stop: asyncio.Event) -> None:
        random_, user = random.Random(f"{self._seed}/{number}"), f"chaos-{number}"
        for file in range(FILES):
            await self.request(user, "PUT", f"{DOCUMENTS}/{file}.txt", content=b"A few words.")
        children = [await self._workflow(user, random_, [], endless) for endless in (False, True)]
        mine: list[Asked] = []
        while not stop.is_set():
            if len(mine) < 2 or random_.random() < 0.1:
                mine.append(await self._workflow(user, random_, children, random_.random() < 0.3))
            await self._one(random_, random_.choice(mine[-4:]))

    async def _workflow(self, user: str, random_: random.Random, children: list[Asked], endless: bool) -> Asked:
        steps = random_steps(random_, self._page, endless)
        if children and random_.random() < 0.3:
            # Two parents at once find their child's workflow busy, which is a failure like any other.
            child = {"kind": "child_run", "workflow_id": children[endless].workflow_id, "name": "child"}
            steps.insert(random_.randrange(len(steps)), child)
        body = {"name": "Chaos", "grace_seconds": random_.choice([0, 1, 30, 30, 30]), "steps": steps}
        answer = await self.request(user, "POST", WORKFLOWS, json=body)
        if answer.status_code != 201:
            raise AssertionError(answer.text)
        self.asked.append(Asked(user, answer.json()["id"], endless))
        return self.asked[-1]

    async def _one(self, random_: random.Random, workflow: Asked) -> None:
        """Start a run, and perhaps cancel it, perhaps twice, perhaps while it is being started."""
        run_id = f"r{len(workflow.runs)}"
        told = workflow.runs[run_id] = Told()
        starting = asyncio.create_task(self._start(workflow, run_id, told))
        moment = random_.random() ** 2 * 3
        if workflow.endless or random_.random() < 0.6:
            if random_.random() < 0.8:
                await starting
            await asyncio.sleep(moment)  # not waiting for anything: the cancel is to hit any moment
            body: dict[str, Any] = {"force": True} if random_.random() < 0.1 else {}
            if random_.random() < 0.2:
                body["grace_seconds"] = random_.choice([0, 0.5, 60])
            twice = 1 + (random_.random() < 0.2)
            await asyncio.gather(*(self.cancel(workflow, run_id, body) for _ in range(twice)), starting)
        else:
            await starting
            await asyncio.sleep(moment / 4)

    async def _start(self, workflow: Asked, run_id: str, told: Told) -> None:
        path = f"{WORKFLOWS}/{workflow.workflow_id}/run"
        told.start = (await self.request(workflow.user, "POST", path, json={"run_id": run_id})).status_code

    async def cancel(self, workflow: Asked, run_id: str, body: dict[str, Any]) -> None:
        """Cancel a run. It may not have been started yet: that answer says nothing."""
        told = workflow.runs[run_id]
        told.cancel_asked = True
        answer = await self.request(workflow.user, "POST", f"{workflow.path(run_id)}/cancel", json=body)
        if answer.status_code != 404:
            told.cancels.append(answer.status_code)

    async def come_to_rest(self) -> None:
        """Cancel what would never end, and wait for the end of everything."""
        await asyncio.gather(*(self._rest(one) for one in self.asked))

    async def _rest(self, workflow: Asked) -> None:
        path = f"{WORKFLOWS}/{workflow.workflow_id}"
        while active := (await self.request(workflow.user, "GET", path)).json()["runtime"]["active_run_id"]:
            # The runs of children are not ours to start, but they too may be cancelled.
            if workflow.endless and not workflow.runs.setdefault(active, Told()).cancels:
                await self.cancel(workflow, active, {})
            await asyncio.sleep(0.1)


def random_steps(random_: random.Random, page: str, endless: bool) -> list[dict[str, Any]]:
    """Two to five steps of all kinds; `endless`: one of them ends by a cancel only."""

    def say(tokens: int) -> str:
        return f"[[tokens={tokens} delay=10ms]]Go"

    everything = {"prefix": ""}
    kinds: list[dict[str, Any]] = [
        {"kind": "model", "prompt": say(random_.randint(1, 150))},
        {"kind": "analyze_documents", "documents": everything, "prompt": say(random_.randint(1, 40)), "parallel": 3},
        {"kind": "compare_documents", "documents": everything, "prompt": say(20)},
        {"kind": "fetch_urls", "urls": [page, page, page], "parallel": 2},
        random_agent(random_),
        {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}},
        {"kind": "tool", "tool": "sleep", "arguments": {"seconds": random_.random()}},
        {"kind": "tool", "tool": "sleep", "arguments": {"seconds": random_.random(), "blocking": True}},
        {"kind": "write_artifact", "path": "a.md", "content": "x"},
        {"kind": "notify", "subject": "Hello", "message": "x"},
    ]
    steps = random_.sample(kinds, random_.randint(2, 4))
    if endless:
        hanging = random_.choice([{"kind": "model", "prompt": "[[hang_after=5]]Go"}, _slept(3600)])
        steps.insert(random_.randrange(len(steps)), hanging)
    retries = {"max": 3, "backoff_seconds": 0.2}
    return [
        {**step, "name": f"s{number}", "retries": retries, "on_error": random_.choice(["stop", "continue"])}
        for number, step in enumerate(steps)
    ]


def random_agent(random_: random.Random) -> dict[str, Any]:
    """An agent whose first turn calls a tool and a sub-agent, which calls a tool as well."""
    call = '[[tool=sleep arguments={"seconds": 0.2}]]'
    inner = f"{call}[[tokens={random_.randint(1, 30)} delay=10ms]]Go"
    asked = f'[[tool=echo arguments={{"value": 1}} tool=helper arguments={json.dumps({"input": inner})}]]'
    helper = {"name": "helper", "description": "Helps.", "instructions": "Help.", "tools": ["sleep"]}
    prompt = f"{asked}[[tokens={random_.randint(1, 60)} delay=10ms]]Go"
    return {"kind": "agent", "instructions": "Work.", "input": prompt, "tools": ["echo"], "agents": [helper]}


def _slept(seconds: float) -> dict[str, Any]:
    return {"kind": "tool", "tool": "sleep", "arguments": {"seconds": seconds}}
