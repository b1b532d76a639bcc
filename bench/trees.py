"""How long it takes until every run of a tree has accepted a cancel, and what began after the answer."""

from __future__ import annotations

import asyncio
import json
import time

from bench.host import Client, Json

CHILDREN = 8
DOCUMENTS = 11
"""A tree: the run of an agent with 8 calls of workflows, each of whose runs reads 11 documents with a model."""
NODES = 1 + 2 + 2 * CHILDREN + CHILDREN * (1 + 1 + 2 * DOCUMENTS)
"""Runs and executions of a tree: its top run, step and model call; each call with its child run's execution; the child runs
with their steps, items and model calls."""


async def cancel_trees(client: Client, count: int = 15) -> tuple[list[float], int]:
    """Cancel `count` trees while everything in them streams. Answers the seconds to each answer, and what began later."""
    for i in range(DOCUMENTS):
        await client.session.put(f"/api/user/documents/tree/{i}.txt", data=b"text")
    reading = {"kind": "analyze_documents", "documents": {"prefix": "tree/"}, "parallel": DOCUMENTS}
    children = [await client.workflow({**reading, "prompt": "[[tokens=9000 delay=50ms]] go"}) for _ in range(CHILDREN)]
    ids = [path.rpartition("/")[2] for path in children]
    calls = " ".join(f"tool=run_workflow arguments={json.dumps({'workflow_id': one})}" for one in ids)
    agent: Json = {"kind": "agent", "instructions": "Go.", "input": f"[[{calls}]][[delay=1ms]]Go"}
    top = await client.workflow({**agent, "tools": ["run_workflow"]})
    taken: list[float] = []
    late = 0
    for _ in range(count):
        _, run = await client.call("POST", f"{top}/run")
        before = len(await client.model_log())
        while await _streaming(client) < CHILDREN * DOCUMENTS:
            await asyncio.sleep(0.1)
        began = time.perf_counter()
        status, answer = await client.call("POST", f"{top}/runs/{run['id']}/cancel")
        answered = time.monotonic()
        taken.append(time.perf_counter() - began)
        assert status in (200, 202), answer
        await client.until(f"{top}/runs/{run['id']}", lambda one: one["status"] == "cancelled")
        late += sum(one["t"] > answered for one in (await client.model_log())[before:])
        for child in children:
            await client.until(child, lambda one: one["runtime"]["status"] == "idle")
    return taken, late


async def _streaming(client: Client) -> int:
    return sum(one["how"] == "open" for one in await client.model_log())
