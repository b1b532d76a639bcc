"""`python -m bench remote`: how fast a cancel stops a stream in another process than the one that accepted it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from contextlib import closing

from bench.host import Client, Json

WORKERS = 2
COUNT = 100
TOKENS = 5
"""A stream that has had so many is well under way."""
POLL_SECONDS = 0.25
"""The watchers' interval; cancels come at any moment of it."""
STREAM: Json = {"kind": "model", "prompt": "[[tokens=20000 delay=5ms]] go"}


async def stops(client: Client) -> tuple[list[float], list[float]]:
    """Seconds from a cancel's answer to the end of its stream: of `COUNT` streams in other processes than the one that
    accepted, and of those that happened to be in that one meanwhile."""
    there: list[float] = []
    here: list[float] = []
    path = await client.workflow(STREAM)
    last = 0
    while len(there) < COUNT:
        _, run = await client.call("POST", f"{path}/run")
        last = await _streaming(client, last)
        streams_here = _process_of(client, run["id"]) == client.pid
        await asyncio.sleep(random.random() * POLL_SECONDS)
        status, receipt = await client.call("POST", f"{path}/runs/{run['id']}/cancel")
        answered = time.monotonic()
        assert status in (200, 202), receipt
        await client.until(f"{path}/runs/{run['id']}", lambda one: one["status"] == "cancelled")
        [exchange] = await client.model_log(last - 1)
        (here if streams_here else there).append(max(0.0, exchange["ended_t"] - answered))
    return there, here


async def _streaming(client: Client, last: int) -> int:
    """The id of the one request to the model after `last`, once it is under way."""
    while True:
        found = await client.model_log(last)
        if found and found[-1]["sent"] >= TOKENS:
            return int(found[-1]["id"])
        await asyncio.sleep(0.01)


def _process_of(client: Client, run_id: str) -> int:
    """The process that works on the run's one activity."""
    with closing(sqlite3.connect(client.data / "truestop.db")) as connection:
        sql = (
            "SELECT p.pid FROM durable_tasks t JOIN durable_processes p ON p.id = t.owner"
            " WHERE t.instance_id = ? || ':pipeline'"
        )
        [(pid,)] = connection.execute(sql, (run_id,)).fetchall()
        return int(pid)
