"""Runs the orchestrations of an app on this machine.

An instance has news (a message in its inbox) → its owner calls its orchestrator → one transaction records everything
that this changes → activities, timers, children and parents go on. Only SQLite is truth. Wake-ups, in this process or
from others, make things fast; twice a second each process looks into the hub, and finds whatever a wake-up missed: after
a write whose fate is unknown, after a death, after a message whose instance's owner doesn't get round to it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from starlette.routing import Route

from devhost.durable import api, hub, sdk_speed, work
from devhost.durable.activities import ActivityRunner
from devhost.durable.episode import run_episode
from devhost.durable.events import Event, EventType
from devhost.durable.hub import ActivityTask, Instance, Loaded, Message, News, Timer
from devhost.durable.processes import TICK_SECONDS, WEDGED_SECONDS, Processes
from devhost.durable.timers import HORIZON_SECONDS, Timers
from devhost.durable.work import Sight
from devhost.functions import HostedFunction
from shared.errors import Unavailable
from shared.sqlite import Database

logger = logging.getLogger(__name__)

WORKERS = 32
"""Episodes under way at once. They run one after the other; what overlaps is their commits."""
CACHED_INSTANCES = 2_000
LOOK_AGAIN_SECONDS = 0.002
"""Wake-ups from other processes that come within so short a time share a look into the hub."""
LATE_SECONDS = 1.0
"""A timer that its instance's owner hasn't fired by then is anybody's."""
TAKEN_AT_ONCE = 20
STOP_SECONDS = 5.0


class DurableEngine:
    """The orchestrations and activities among `functions`, on the task hub in `database`. Use on one event loop.

    `hub` is the task hub's name in URLs. At most `max_activities` run at once. Any number of engines, in any processes of
    this machine, may share one hub; `directory` is where they keep their lock files. One whose heart hasn't beaten for
    `wedged_seconds` counts as dead.
    """

    def __init__(
        self,
        database: Database,
        functions: Sequence[HostedFunction],
        hub: str,
        directory: Path,
        *,
        max_activities: int = 100,
        wedged_seconds: float = WEDGED_SECONDS,
    ) -> None:
        self._database, self.hub = database, hub
        self._orchestrators = {f.name: f for f in functions if f.kind == "orchestrationTrigger"}
        self._last_time = 0.0
        self._processes = Processes(directory, self._nudged, wedged_seconds)
        self._activities = ActivityRunner(
            database,
            {f.name: f for f in functions if f.kind == "activityTrigger"},
            self._processes,
            limit=max_activities,
            tell=self._tell,
            clock=self._now,
        )
        self._timers = Timers(database, tell=self._tell, clock=self._now)
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._taking: set[str] = set()
        self._cache: OrderedDict[str, Loaded] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()
        self._look_soon: asyncio.TimerHandle | None = None
        self._last_message = 0
        self._started = 0
        self._stopped = False

    # Life

    async def start(self) -> None:
        """Join those that work on the hub, and take over what nobody works on. Raises `Unavailable`, OSError."""
        sdk_speed.install()
        await self._database.create(f"{hub.SCHEMA};{work.SCHEMA}")
        await self._join()
        await self._tick()
        self._background = {asyncio.create_task(self._work(), name=f"durable worker {n}") for n in range(WORKERS)}
        self._background.add(asyncio.create_task(self._timers.run(), name="durable timers"))
        self._background.add(asyncio.create_task(self._keep_ticking(), name="durable tick"))

    async def stop(self) -> None:
        """Stop at most a few seconds from now. What runs is cancelled; the hub keeps it for the next start."""
        self._stopped = True
        await self._activities.stop(STOP_SECONDS)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background.clear()
        if self._look_soon is not None:
            self._look_soon.cancel()
        if not self._processes.id:
            return  # it never started
        try:
            await self._database.write(partial(work.bury, dead=[self._processes.id]))
        except Unavailable:
            logger.warning("the hub can't be told that this process leaves", exc_info=True)
        self._processes.nudge_all()
        self._processes.leave()

    @property
    def process_id(self) -> str:
        """This process's id in the hub: a new one each time that it was declared dead. Empty before `start`."""
        return self._processes.id

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

        def change(connection: sqlite3.Connection) -> list[News]:
            owner = self._next_owner(connection)
            hub.start(connection, owner, self._now(), instance_id=chosen, name=name, input_json=input_json)
            return [(chosen, owner)]

        await self._change(change)
        return chosen

    async def send(self, instance_id: str, make: Callable[[float], Event]) -> None:
        """Put the event that `make(time)` makes into an inbox. Raises `UnknownInstance`, `InstanceEnded`."""

        def change(connection: sqlite3.Connection) -> list[News]:
            return [hub.post(connection, instance_id, make(self._now()))]

        await self._change(change)

    async def purge(self, instance_ids: Iterable[str]) -> None:
        """Forget instances that have ended, all or none. Raises `UnknownInstance`, `InstanceExists`."""
        doomed = list(instance_ids)

        def change(connection: sqlite3.Connection) -> list[News]:
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

    async def _change(self, fn: Callable[[sqlite3.Connection], list[News]]) -> None:
        # A caller that goes away between the commit and the wake-up must not lose the latter.
        await asyncio.shield(asyncio.ensure_future(self._write_and_tell(fn)))

    async def _write_and_tell(self, fn: Callable[[sqlite3.Connection], list[News]]) -> None:
        self._tell(await self._database.write(fn))

    # Who does what

    def _next_owner(self, connection: sqlite3.Connection) -> str:
        """The owner of a new instance: each process in turn. Its children stay with it."""
        if self._processes.alone:
            return self._processes.id
        self._started += 1
        living = sorted(work.loads(connection)) or [self._processes.id]
        return living[self._started % len(living)]

    def _who_runs(self, connection: sqlite3.Connection, count: int) -> list[str]:
        loads = {self._processes.id: len(self._activities.known)}
        if not self._processes.alone:
            loads = work.loads(connection)
        return work.share_out(self._processes.id, loads, count, self._activities.limit)

    def _tell(self, news: Iterable[News]) -> None:
        """Wake the instances that have news, here or where their owners are."""
        elsewhere = []
        for instance_id, owner in news:
            if owner == self._processes.id:
                self._wake([instance_id])
            else:
                elsewhere.append(owner)
        self._processes.nudge(elsewhere)

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
                logger.info("instance %s is another process's", instance_id)
            except Exception:
                self._cache.pop(instance_id, None)
                logger.exception("instance %s could not go on; trying again", instance_id)
            self._taking.discard(instance_id)
            self._busy.discard(instance_id)
            if instance_id in self._again:
                self._again.discard(instance_id)
                self._wake([instance_id])

    async def _episode(self, instance_id: str) -> None:
        messages = self._database.read_now(partial(hub.inbox, instance_id=instance_id))
        if not messages:
            return
        loaded = self._load(instance_id, messages)
        instance, me = loaded.instance, self._processes.id
        if instance.ended or (instance.owner != me and instance_id not in self._taking):
            return
        episode, news = run_episode(loaded, messages, self._orchestrators, max(self._now(), instance.updated_at))
        self._cache.pop(instance_id, None)  # until the changes are known to have landed
        landed = await self._database.write(
            partial(hub.commit_episode, owner=me, episode=episode, who_runs=self._who_runs)
        )
        if episode.status not in hub.ENDED:
            loaded.append(episode.events_text, news)
            instance.status, instance.custom_status_json = episode.status, episode.custom_status_json
            instance.owner, instance.updated_at = me, episode.at
            self._remember(loaded)
        self._set_going(episode, landed.runners)
        self._tell(landed.news)

    def _set_going(self, episode: hub.Episode, runners: Mapping[int, str]) -> None:
        row = episode.instance
        self._activities.submit(
            ActivityTask(row.id, row.execution_id, one.task_id, one.name, one.input_json)
            for one in episode.work
            if runners.get(one.task_id) == self._processes.id and one.kind == EventType.TASK_SCHEDULED
        )
        self._timers.add(
            Timer(one.fire_at, row.execution_id, one.task_id, row.id)
            for one in episode.work
            if one.kind == EventType.TIMER_CREATED and one.task_id not in episode.cancelled_timers
        )
        others = set(runners.values()) - {self._processes.id}
        if work.NOBODY in others:
            self._activities.offer(1)
            self._processes.nudge_all()
        else:
            self._processes.nudge(others)

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

    # Looking into the hub

    async def _join(self) -> Sight:
        process = await self._processes.enter()
        await self._database.write(partial(work.join, process=process))
        sight = self._look()
        self._processes.nudge_all()
        return sight

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._tick()
            except Unavailable:
                logger.warning("the task hub can't be reached; trying again", exc_info=True)
            except Exception:
                logger.exception("looking into the task hub failed; trying again")

    async def _tick(self) -> None:
        """Show that we are alive, see who is not, and look for work that no wake-up told of."""
        self._processes.beat()
        sight = self._look()
        if all(process.id != self._processes.id for process in sight.processes):
            logger.warning("this process was declared dead; what it was doing has gone to others")
            sight = await self._join()
        dead = self._processes.dead()
        if dead:
            await self._database.write(partial(work.bury, dead=dead))
            sight = self._look()
            self._processes.nudge_all()
            self._processes.sweep()
        self._take_neglected(sight)

    def _look(self) -> Sight:
        """Set going whatever the hub says is ours; what is going already stays as it is."""
        sight = self._database.read_now(
            partial(
                work.look,
                owner=self._processes.id,
                known=self._activities.known,
                now=self._now(),
                horizon=HORIZON_SECONDS,
                late=LATE_SECONDS,
            )
        )
        self._processes.update(sight.processes)
        self._activities.submit(sight.tasks)
        self._activities.offer(sight.free)
        self._timers.add(sight.timers)
        self._wake(sight.mine)
        return sight

    def _take_neglected(self, sight: Sight) -> None:
        """Run instances of others whose news were there at the last tick already, unless we are behind ourselves.

        Two processes may do it at once: an orchestrator's call has no effect but its commit, and one commit lands.
        """
        last, self._last_message = self._last_message, sight.last_message
        if self._ready.empty():
            for instance_id, oldest_message in sight.foreign[:TAKEN_AT_ONCE]:
                if oldest_message <= last:
                    self._taking.add(instance_id)
                    self._wake([instance_id])

    def _nudged(self) -> None:
        if self._look_soon is None and not self._stopped:
            self._look_soon = asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS, self._look_now)

    def _look_now(self) -> None:
        self._look_soon = None
        try:
            self._look()
        except Unavailable:
            logger.warning("the task hub can't be read; the next tick looks again", exc_info=True)
