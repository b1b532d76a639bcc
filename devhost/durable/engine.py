"""Runs the orchestrations of an app on this machine.

An instance has news (a message in its inbox) → one worker calls its orchestrator → one transaction records everything
that this changes → activities, timers, children and parents go on. Only SQLite is truth; wake-ups, timers and cached
histories are in memory, and are made anew from it at the start and after a write whose fate is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar
from uuid import uuid4

from starlette.routing import Route

from devhost.durable import api, hub, sdk_speed
from devhost.durable.activities import ActivityRunner
from devhost.durable.episode import run_episode
from devhost.durable.events import Event, EventType
from devhost.durable.hub import ActivityTask, Instance, Loaded, Message, Timer
from devhost.durable.timers import Timers
from devhost.functions import HostedFunction
from shared.errors import Unavailable
from shared.sqlite import Database

T = TypeVar("T")
logger = logging.getLogger(__name__)

WORKERS = 32
"""Episodes under way at once. They run one after the other; what overlaps is their commits."""
CACHED_INSTANCES = 2_000
RECOVER_SECONDS = 1.0
STOP_SECONDS = 5.0


class DurableEngine:
    """The orchestrations and activities among `functions`, on the task hub in `database`. Use on one event loop.

    `hub` is the task hub's name in URLs. At most `max_activities` run at once.
    """

    def __init__(
        self, database: Database, functions: Sequence[HostedFunction], hub: str, *, max_activities: int = 100
    ) -> None:
        self._database, self.hub = database, hub
        self._orchestrators = {f.name: f for f in functions if f.kind == "orchestrationTrigger"}
        self._owner = uuid4().hex
        self._last_time = 0.0
        self._activities = ActivityRunner(
            database,
            {f.name: f for f in functions if f.kind == "activityTrigger"},
            self._owner,
            limit=max_activities,
            wake=self._wake,
            clock=self._now,
        )
        self._timers = Timers(database, wake=self._wake, clock=self._now)
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._cache: OrderedDict[str, Loaded] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()
        self._recovery: asyncio.TimerHandle | None = None
        self._stopped = False

    # Life

    async def start(self) -> None:
        """Take over everything unfinished in the hub and work on it."""
        sdk_speed.install()
        await self._database.create(hub.SCHEMA)
        await self._database.write(partial(hub.take_over, owner=self._owner))
        self._background = {asyncio.create_task(self._work(), name=f"durable worker {n}") for n in range(WORKERS)}
        self._background.add(asyncio.create_task(self._timers.run(), name="durable timers"))
        self._recover()

    async def stop(self) -> None:
        """Stop at most a few seconds from now. What runs is cancelled; the hub keeps it for the next start."""
        self._stopped = True
        if self._recovery is not None:
            self._recovery.cancel()
        await self._activities.stop(STOP_SECONDS)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background.clear()

    def client_binding(self, base_url: str) -> str:
        """The JSON that a `durableClient` parameter receives, for a host at `base_url` (no slash at its end)."""
        return api.client_binding(base_url, self.hub)

    def routes(self) -> list[Route]:
        """The management API, and the same under the path that the SDK's client calls."""
        return api.routes(self)

    # What clients ask

    async def start_instance(self, name: str, instance_id: str | None, input_json: str | None) -> str:
        """Start an orchestration; answers its id. Raises `InstanceExists` while one of that id has not ended."""
        chosen = instance_id or uuid4().hex

        def change(connection: sqlite3.Connection) -> list[str]:
            hub.start(connection, self._owner, self._now(), instance_id=chosen, name=name, input_json=input_json)
            return [chosen]

        await self._change(change)
        return chosen

    async def send(self, instance_id: str, make: Callable[[float], Event]) -> None:
        """Put the event that `make(time)` makes into an inbox. Raises `UnknownInstance`, `InstanceEnded`."""

        def change(connection: sqlite3.Connection) -> list[str]:
            hub.post(connection, instance_id, make(self._now()))
            return [instance_id]

        await self._change(change)

    async def purge(self, instance_ids: Iterable[str]) -> None:
        """Forget instances that have ended, all or none. Raises `UnknownInstance`, `InstanceExists`."""
        doomed = list(instance_ids)

        def change(connection: sqlite3.Connection) -> list[str]:
            for instance_id in doomed:
                hub.purge(connection, instance_id)
            return []

        await self._change(change)

    def instance(self, instance_id: str) -> Instance:
        """Raises `UnknownInstance`."""
        return self._database.read_now(partial(hub.instance, instance_id=instance_id))

    async def instances(self) -> list[Instance]:
        """All instances, oldest first."""
        return await self._database.read(hub.instances)

    async def history(self, instance_id: str) -> list[Event]:
        """Raises `UnknownInstance`."""
        return (await self._database.read(partial(hub.load, instance_id=instance_id))).history

    async def _change(self, fn: Callable[[sqlite3.Connection], list[str]]) -> None:
        # A caller that goes away between the commit and the wake-up must not lose the latter.
        await asyncio.shield(asyncio.ensure_future(self._write_and_wake(fn)))

    async def _write_and_wake(self, fn: Callable[[sqlite3.Connection], list[str]]) -> None:
        try:
            self._wake(await self._database.write(fn))
        except Unavailable:
            self._recover_soon()
            raise

    # Episodes

    def _wake(self, instance_ids: Iterable[str]) -> None:
        """Look into these inboxes. Too often does no harm; an instance is with one worker at a time."""
        for instance_id in instance_ids:
            if instance_id in self._busy:
                self._again.add(instance_id)
            else:
                self._busy.add(instance_id)
                self._ready.put_nowait(instance_id)

    async def _work(self) -> None:
        while True:
            instance_id = await self._ready.get()
            try:
                await self._episode(instance_id)
            except hub.LostInstance:
                logger.info("instance %s is another host's", instance_id)
            except Exception:
                self._cache.pop(instance_id, None)
                logger.exception("instance %s could not go on; trying again", instance_id)
                self._recover_soon()
            self._busy.discard(instance_id)
            if instance_id in self._again:
                self._again.discard(instance_id)
                self._wake([instance_id])

    async def _episode(self, instance_id: str) -> None:
        messages = self._database.read_now(partial(hub.inbox, instance_id=instance_id))
        if not messages:
            return
        loaded = self._load(instance_id, messages)
        if loaded.instance.ended:
            return
        episode, news = run_episode(loaded, messages, self._orchestrators, self._now())
        self._cache.pop(instance_id, None)  # until the changes are known to have landed
        woken = await self._database.write(partial(hub.commit_episode, owner=self._owner, episode=episode))
        if episode.status not in hub.ENDED:
            loaded.append(episode.events_text, news)
            loaded.instance.status, loaded.instance.custom_status_json = episode.status, episode.custom_status_json
            self._remember(loaded)
        self._set_going(episode)
        self._wake(woken)

    def _set_going(self, episode: hub.Episode) -> None:
        row = episode.instance
        self._activities.submit(
            ActivityTask(row.id, row.execution_id, work.task_id, work.name, work.input_json)
            for work in episode.work
            if work.kind == EventType.TASK_SCHEDULED
        )
        self._timers.add(
            Timer(work.fire_at, row.execution_id, work.task_id, row.id)
            for work in episode.work
            if work.kind == EventType.TIMER_CREATED and work.task_id not in episode.cancelled_timers
        )

    def _load(self, instance_id: str, messages: Sequence[Message]) -> Loaded:
        loaded = self._cache.get(instance_id)
        if loaded is None or loaded.instance.execution_id != messages[0].execution_id:
            loaded = self._database.read_now(partial(hub.load, instance_id=instance_id))
        return loaded

    def _remember(self, loaded: Loaded) -> None:
        self._cache[loaded.instance.id] = loaded
        while len(self._cache) > CACHED_INSTANCES:
            self._cache.popitem(last=False)

    def _now(self) -> float:
        """Unix seconds that never go back: orchestrators compare the times of their events."""
        self._last_time = max(self._last_time, time.time())
        return self._last_time

    # Recovery

    def _recover(self) -> None:
        """Set going whatever the hub says is ours and unfinished; what is going already stays as it is."""
        try:
            tasks, timers, ready = self._database.read_now(partial(hub.unfinished, owner=self._owner))
        except Unavailable:
            logger.warning("the task hub can't be read", exc_info=True)
            self._recover_soon()
            return
        self._activities.submit(tasks)
        self._timers.add(timers)
        self._wake(ready)

    def _recover_soon(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
        if not self._stopped:
            self._recovery = asyncio.get_running_loop().call_later(RECOVER_SECONDS, self._recover)
