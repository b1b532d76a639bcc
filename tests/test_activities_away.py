"""Every activity, while the store is away: it asks to be called again, and neither fails nor claims anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activities import blueprint
from devhost.functions import HostedFunction, load_app
from shared import persistence
from shared.errors import Throttled, Unavailable
from shared.names import OUTCOME_STORE_AWAY
from tests.support.world import open_world

ROOT = Path(__file__).parents[1]
PAYLOAD = {"scope": "user:alice", "workflow_id": "w", "run_id": "r", "epoch": 1, "path": "s01", "turn": 1}
ACTIVITIES = {one.name: one for one in load_app(ROOT) if one.kind == "activityTrigger"}


class Away:
    """A store all of whose calls fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: Any, **__: Any) -> Any:
            raise self.error

        return fail


@pytest.fixture(params=[Unavailable("pulled the plug"), Throttled(0.01)], ids=["unavailable", "throttled"])
async def no_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """Services whose store is away, and no patience."""
    monkeypatch.setattr(persistence, "PATIENCE_SECONDS", 0.0)
    async with open_world(tmp_path) as world:
        services = replace(world.services, store=Away(request.param))
        monkeypatch.setattr(blueprint, "get_services", lambda: services)
        yield


@pytest.mark.usefixtures("no_store")
@pytest.mark.parametrize("activity", ACTIVITIES.values(), ids=ACTIVITIES)
async def test_an_activity_without_its_store_asks_to_be_called_again(activity: HostedFunction) -> None:
    """Guards an activity added later: one that raises is given up after a few tries, which may leave its run stuck."""
    payload = {**PAYLOAD, "outcome": {"status": "completed"}}
    assert await activity.call(**{activity.parameter: payload}) == {"status": OUTCOME_STORE_AWAY}
