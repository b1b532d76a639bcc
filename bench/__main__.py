"""`python -m bench [start] [throughput] [cancel] [races] [remote] [trees] [watchers] [cost]`: without a name all of them.

Prints one table.
These machines are noisy: compare figures of one call with one another, not with another day's.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from bench.cost import cost
from bench.host import Client, Json, running_host
from bench.remote import WORKERS, stops
from bench.trees import NODES, cancel_trees
from bench.watchers import over_http, readings

ECHO: Json = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
STREAM: Json = {"kind": "model", "prompt": "[[tokens=20000 delay=5ms]] go"}
Row = tuple[str, str, str, str]
"""What, median, p95, target."""


def row(what: str, seconds: list[float], target: str) -> Row:
    """A row of milliseconds."""
    ordered = sorted(seconds)
    p95 = ordered[max(0, round(len(ordered) * 0.95) - 1)]
    return what, f"{statistics.median(ordered) * 1e3:.1f} ms", f"{p95 * 1e3:.1f} ms", target


async def start(client: Client, count: int = 200) -> list[Row]:
    """How long `POST …/run` takes, one at a time."""
    taken = []
    for i in range(count + 20):
        path = await client.workflow(ECHO)
        began = time.perf_counter()
        status, run = await client.call("POST", f"{path}/run")
        if i >= 20:  # the first ones warm up
            taken.append(time.perf_counter() - began)
        assert status == 202, run
        await client.until(f"{path}/runs/{run['id']}", lambda one: one["status"] == "completed")
    return [row("start a run (HTTP)", taken, "p50 <= 10 ms")]


async def throughput(client: Client, in_flight: int = 50, seconds: float = 10.0) -> list[Row]:
    """Runs of three trivial steps a second, with so many in flight."""
    paths = [await client.workflow(ECHO, ECHO, ECHO) for _ in range(in_flight)]
    ended: list[float] = []
    taken: list[float] = []
    until = time.perf_counter() + seconds + 2

    async def lane(path: str) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            status, run = await client.call("POST", f"{path}/run", {"wait": 20})
            assert (status, run["status"]) == (202, "completed"), run
            ended.append(time.perf_counter())
            taken.append(ended[-1] - began)

    await asyncio.gather(*(lane(path) for path in paths))
    window = [moment for moment in ended if until - seconds <= moment < until]
    rate = f"{len(window) / seconds:.0f} runs/s"
    return [(f"3 steps, {in_flight} in flight", rate, "", ">= 66 runs/s"), row("  one such run", taken, "")]


async def cancel(client: Client, count: int = 60) -> list[Row]:
    """From the answer of a cancel to the stream's end, and from there to the run's `cancelled`."""
    stops, settles, answers = [], [], []
    for _ in range(count):
        path = await client.workflow(STREAM)
        _, run = await client.call("POST", f"{path}/run")
        own = f"{path}/runs/{run['id']}"
        await client.until(own + "/executions", lambda tree: any(one["output_preview"] for one in tree["items"]), 0.02)
        began = time.perf_counter()
        status, receipt = await client.call("POST", own + "/cancel")
        answered, wall = time.perf_counter(), time.time()
        assert status in (200, 202), receipt
        answers.append(answered - began)
        done = await client.until(own, lambda one: one["status"] == "cancelled")
        stopped = _moment((await client.model_log())[-1]["ended_at"])
        stops.append(max(0.0, stopped - wall))
        settles.append(max(0.0, _moment(done["ended_at"]) - stopped))
    return [
        row("cancel a stream: the answer", answers, ""),
        row("  answer to stream closed", stops, "p50 <= 20 ms"),
        row("  stream closed to cancelled", settles, "<= 50 ms"),
    ]


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def races(client: Client, count: int = 200) -> list[Row]:
    """Cancels at random moments of runs of several kinds: what began after the answer."""
    seed = random.randrange(10**6)
    random_ = random.Random(seed)
    for i in range(8):
        await client.session.put(f"/api/user/documents/race/{i}.txt", data=b"some text to read")
    prompt = "{{input}} [[tokens=10 delay=2ms]] go"
    model: Json = {"kind": "model", "prompt": prompt}
    items: Json = {"kind": "analyze_documents", "documents": {"prefix": "race/"}, "prompt": prompt, "parallel": 4}
    late = {"model calls": 0, "items": 0, "tokens": 0}
    completed = 0
    calls: list[int] = []

    async def one() -> None:
        nonlocal completed
        path = await client.workflow(*random_.choices([ECHO, model, items], k=4))
        tag = f"race-{path.rpartition('/')[2]}"
        _, run = await client.call("POST", f"{path}/run", {"input": tag})
        own = f"{path}/runs/{run['id']}"
        await asyncio.sleep(random_.random() * 0.8)
        status, _ = await client.call("POST", own + "/cancel")
        answered = time.time()
        if status == 409:
            completed += 1
            return
        await client.until(own, lambda one: one["status"] == "cancelled")
        _, tree = await client.call("GET", own + "/executions?limit=200")
        for execution in tree["items"]:
            if execution["started_at"] and _moment(execution["started_at"]) > answered:
                late["items"] += 1
        asked = [entry for entry in await client.model_log() if entry["prompt"].startswith(tag)]
        calls.append(len(asked))
        late["model calls"] += sum(_moment(entry["began_at"]) > answered for entry in asked)
        late["tokens"] += sum(_tokens_after(entry, answered) for entry in asked)

    for _ in range(count // 10):
        await asyncio.gather(*(one() for _ in range(10)))
    figures = ", ".join(f"{count_} {what}" for what, count_ in late.items())
    what = f"{count} random cancels (seed {seed}; {completed} had completed; {sum(calls)} model calls)"
    return [(what, figures, "", "0 begun after")]


async def remote(client: Client) -> list[Row]:
    """From the answer of a cancel to the stream's end, where another process streams than the one that accepted."""
    there, here = await stops(client)
    return [
        row(f"cancel accepted by another process: answer to stream closed ({len(there)})", there, "p95 <= 300 ms"),
        row(f"  by the process that streams, in the same minute ({len(here)})", here, ""),
    ]


async def trees(client: Client) -> list[Row]:
    """A cancel of a whole tree of runs: until all of it has accepted."""
    taken, late = await cancel_trees(client)
    return [
        row(f"cancel a tree of {NODES} nodes: all has accepted ({len(taken)})", taken, "p50 <= 100 ms"),
        ("  model calls begun after the answer", str(late), "", "0"),
    ]


async def watchers(client: Client) -> list[Row]:
    """200 clients that follow one run: how late they are told, and what that takes."""
    return [*await over_http(client, row), *await readings()]


def _tokens_after(entry: Json, answered: float) -> int:
    began = _moment(entry["began_at"])
    return sum(began + at > answered for at in entry["tokens"])


BENCHES: dict[str, Callable[[Client], Awaitable[list[Row]]]] = {
    "start": start,
    "throughput": throughput,
    "cancel": cancel,
    "races": races,
    "remote": remote,
    "trees": trees,
    "watchers": watchers,
}


async def main(names: list[str]) -> None:
    """Run the named benchmarks, each on a host of its own."""
    rows: list[Row] = [("", "median", "p95", "target")]
    for name in names or [*BENCHES, "cost"]:
        if name == "cost":
            rows.extend(await cost())
            continue
        async with running_host(WORKERS if name == "remote" else 0) as client:
            rows.extend(await BENCHES[name](client))
    widths = [max(len(one[i]) for one in rows) for i in range(4)]
    for one in rows:
        print("  ".join(text.ljust(width) for text, width in zip(one, widths, strict=True)).rstrip())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
