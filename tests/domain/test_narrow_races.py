"""Seeded races of narrow cancels: random nodes of agents' trees, at random moments."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from pathlib import Path

from shared.errors import NotFound, Problem
from shared.executions import ancestors
from tests.domain.test_narrow import assert_whole, cancel_at
from tests.domain.test_races import racing_model
from tests.support.agents import agent, sub_agent
from tests.support.journal import CANCELLED, Journal
from tests.support.world import World, open_world

SEEDS = int(os.environ.get("TRUESTOP_TEST_RACES", "100"))
AT_ONCE = 25
TOOLS = ["echo", "sleep"]
STEP = agent(tools=TOOLS, agents=[sub_agent("helper", tools=TOOLS, agents=[sub_agent("helper", tools=TOOLS)])])


async def race(world: World, seed: int) -> int:
    """One agent's run, random nodes of which are cancelled. Answers how many were."""
    random_ = random.Random(seed)
    store = Journal(world.store, random_)
    racing = World(replace(world.services, store=store), world.model)
    ref = await racing.start(await racing.workflow(STEP))
    driving = asyncio.create_task(racing.drive(ref))
    for _ in range(random_.randint(1, 3)):
        await asyncio.sleep(random_.random() * 0.05)
        unfinished = [p for p, one in (await world.executions(ref)).items() if one["status"] in ("pending", "running")]
        if unfinished:
            try:
                await cancel_at(racing, ref, random_.choice(unfinished))
            except (NotFound, Problem):
                pass  # it has just ended
    assert await driving == "completed"
    tree = await assert_whole(world, ref, "completed")
    cancelled: set[str] = set()
    for what, _, path in store.facts:
        assert path is not None
        if what == CANCELLED:
            cancelled.add(path)
        else:
            assert cancelled.isdisjoint(ancestors(path)), f"{path} began below {cancelled}"
    for path in cancelled:
        assert tree[path]["status"] in ("cancelled", "completed", "failed")  # the latter two: it ended first
    return len(cancelled)


async def test_nothing_begins_below_a_cancelled_node_and_the_rest_is_unharmed(tmp_path: Path) -> None:
    """Guards narrow cancels in agents' trees, three deep. TRUESTOP_TEST_RACES asks for more of them."""
    done = 0
    async with open_world(tmp_path, racing_model) as world:
        for first in range(0, SEEDS, AT_ONCE):
            seeds = range(first, min(first + AT_ONCE, SEEDS))
            ends = await asyncio.gather(*(race(world, seed) for seed in seeds), return_exceptions=True)
            for seed, end in zip(seeds, ends, strict=True):
                if isinstance(end, BaseException):
                    print(f"seed {seed} failed")
                    raise end
                done += end
    assert done > SEEDS / 2
