"""Chaos: users start and cancel runs on several processes that are killed at random, on a store that fails at random.

Then the store alone must show that every promise was kept (`proof.py`). `make chaos` does it for minutes; a failure prints
its seed, and TRUESTOP_TEST_SEED sets it: the load and the mischief are then the same, though not their moments.
"""

# ruff: noqa: F811 - fixtures are imported, and their names are parameters

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from shared.names import DocumentType
from shared.sqlite import Database
from shared.states import RunStatus
from shared.store.cosmos import CosmosStore
from shared.store.port import DocumentStore
from shared.store.sqlite import SqliteStore
from tests.chaos.load import Asked, Load
from tests.chaos.mischief import BadRequests, Killer, LockedFile
from tests.chaos.proof import documents_of, findings
from tests.cosmos_double.fixtures import account_of, cosmos_server, double  # noqa: F401 - fixtures
from tests.cosmos_double.server import Double
from tests.support.host import Host

SECONDS = float(os.environ.get("TRUESTOP_TEST_CHAOS_SECONDS", "6"))
SEED = int(os.environ.get("TRUESTOP_TEST_SEED") or random.randrange(10**6))
WORKERS = 2
"""Beside the host: three processes."""
USERS = 12
REST_SECONDS = 150.0
"""Longer than the reconciler, once a minute and looking twice, takes to mend what nobody else can."""
SHOWN = 40
LOCKED_SECONDS = 12.0 if SECONDS > 60 else 2.0
"""The longest that the file is locked: longer than a write waits, where there is the time for it."""
SETTINGS = {"TRUESTOP_FENCE_SECONDS": "2", "TRUESTOP_FETCH_ALLOW_PRIVATE": "true"}


async def test_on_sqlite(tmp_path: Path) -> None:
    """Guards every place between two commits, on a file that another program locks."""
    host = Host(tmp_path / "data", SETTINGS, workers=WORKERS)
    file = host.data / "truestop.db"
    asked = await chaos(host, LockedFile(file, LOCKED_SECONDS))
    database = Database.open(file)
    try:
        await prove(SqliteStore(database), asked)
    finally:
        await database.close()


async def test_on_cosmos(double: Double, tmp_path: Path) -> None:
    """Guards the same where a write may land although its answer is lost, and where store and hub fail apart."""
    cosmos = {"STORE": "cosmos", "COSMOS_ENDPOINT": double.endpoint, "COSMOS_KEY": double.key}
    settings = SETTINGS | {f"TRUESTOP_{name}": value for name, value in cosmos.items()}
    asked = await chaos(Host(tmp_path / "data", settings, workers=WORKERS), BadRequests(double))
    store = CosmosStore(account_of(double))
    try:
        await prove(store, asked)
    finally:
        await store.close()


async def chaos(host: Host, faults: LockedFile | BadRequests) -> list[Asked]:
    """Load and mischief for `SECONDS`, then rest; then the host is stopped. Answers what was asked and told."""
    print(f"\nTRUESTOP_TEST_SEED={SEED}")
    await asyncio.to_thread(host.start)
    load, killer, stop = Load(host.base_url, SEED), Killer(host), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(USERS, stop))
            group.create_task(killer(random.Random(f"{SEED}/kills"), stop))
            group.create_task(faults(random.Random(f"{SEED}/faults"), stop))
            await asyncio.sleep(SECONDS)
            stop.set()
        began = time.monotonic()
        rested = await come_to_rest(load, host)
    finally:
        await asyncio.to_thread(host.stop)
        await load.close()
    print(f"killed {dict(killer.killed)}; {faults.outages} outages; {load.unanswered} requests not answered at first")
    print(f"{'at rest' if rested else 'NOT AT REST'} after {time.monotonic() - began:.1f} s")
    assert load.wrong == []
    return load.asked


async def come_to_rest(load: Load, host: Host) -> bool:
    """Wait for the end of all that was asked. What has not ended by then, the proof will find."""
    try:
        async with asyncio.timeout(REST_SECONDS):
            await load.come_to_rest()
            while left_over(host.data / "truestop.db"):
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def left_over(file: Path) -> int:
    """How many activities have not ended."""
    with closing(sqlite3.connect(file)) as connection:
        count: int = connection.execute("SELECT count(*) FROM durable_tasks").fetchone()[0]
        return count


async def prove(store: DocumentStore, asked: list[Asked]) -> None:
    """Nothing is wrong in any workflow, and the chaos was one: runs ended in each way."""
    wrong = [one for workflow in asked for one in await findings(store, workflow.partition, workflow.runs)]
    ends: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for workflow in asked:
        for document in await documents_of(store, workflow.partition):
            if document["type"] == DocumentType.RUN:
                ends[document["status"]] += 1
            elif document["type"] == DocumentType.EXECUTION and document["cancel_outcome"] is not None:
                outcomes[document["cancel_outcome"]] += 1
    print(f"runs: {dict(ends)}; operations in flight at a cancel: {dict(outcomes)}")
    assert not wrong, f"{len(wrong)} findings, TRUESTOP_TEST_SEED={SEED}:\n" + "\n".join(wrong[:SHOWN])
    assert ends[RunStatus.CANCELLED] and ends[RunStatus.COMPLETED]
