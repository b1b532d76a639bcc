"""The live view: everyone who watches a partition in this process is served from one reading of its feed.

    write here ── wake ──┐
    every poll_seconds ──┴── poll: `changes` from the head ── log, bounded ── windows, one a request
                                                                │
    a token that the log doesn't know ── `changes` from it ─────┘

A *window* is what one request is answered: all that is new after a token, as server-sent events, or, after a while without
news, just the token that continues. Tokens are the store's, so a client may go on with any process. Whom the log has outrun
reads the store once and is back. Nothing waits for a slow reader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

from shared.errors import NotFound, StoreError
from shared.live_log import Budget, Entry, FeedLog
from shared.live_views import server_sent, shown
from shared.names import WORKFLOW_ID, DocumentType
from shared.states import TERMINAL_RUN
from shared.store.port import Changes, Document, Partition

if TYPE_CHECKING:
    from shared.services import Services

log = logging.getLogger(__name__)

PAGE = 50
"""Documents of one reading: a token within a page may have to remember each."""
WINDOW_BYTES = 256 * 1024
"""A window ends with the event that passes this."""
WINDOW_PAGES = 20
"""Pages with nothing to show that one window reads for a token that the log doesn't know."""
RUNS_KNOWN = 1000
BODIES_KEPT = 16
BREATH_SECONDS = 0.02
"""At least so long between two polls: what is written meanwhile comes together."""
LINGER_SECONDS = 5.0
"""How long a feed is followed after its last window: windows are short, and the next one comes soon."""
MAX_AWAY_SECONDS = 5.0
"""Longest pause between polls of a store that is away."""
RETRY_MILLISECONDS = 200
"""How long a client waits before its next window, at least."""
WINDOWS_A_SECOND = 300
"""So many a process answers at ease: of more clients each waits longer."""
MAX_WATCHERS = 1000
"""More than this a process doesn't let wait: they are answered at once, and told to come back later."""
CROWDED_MILLISECONDS = 5000


class _Run(Enum):
    """What is known of a run that somebody follows."""

    GOES_ON = auto()
    ENDED = auto()
    """But the log may lack some of its last changes."""
    TOLD = auto()
    """The feed was read to its end since."""


class LiveFeeds:
    """The feeds that somebody in this process watches. All methods belong to one event loop."""

    def __init__(self, poll_seconds: float) -> None:
        self.poll_seconds = poll_seconds
        self.watchers = 0
        self.budget = Budget()
        self._feeds: dict[Partition, _Feed] = {}

    def wake(self, partition: Partition) -> None:
        """This process wrote to `partition`."""
        if feed := self._feeds.get(partition):
            feed.woken.set()

    async def window(
        self, services: Services, partition: Partition, token: str | None, run_id: str | None, seconds: float
    ) -> bytes | None:
        """What changed after `token`, as soon as something has; without news, after `seconds`, where to go on.

        `token` None: from now on, which is answered at once. `run_id`: only what is of that run; None is answered once it
        has ended and all of it was told. Raises `NotFound` for `run_id` or the workflow, `ValueError` for a token that
        isn't one, `Throttled` and `Unavailable`.
        """
        feed = self._feeds.get(partition)
        if feed is None:
            feed = self._feeds[partition] = _Feed(self, services, partition)
        with self._watching(feed):
            return await feed.window(token, run_id, 0.0 if self.crowded else seconds)

    @contextmanager
    def _watching(self, feed: _Feed) -> Iterator[None]:
        self.watchers += 1
        feed.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1
            feed.watchers -= 1
            if feed.task is None and not feed.watchers:
                self.forget(feed)  # it could not even be opened

    def forget(self, feed: _Feed) -> None:
        """Nobody watches it any more."""
        if self._feeds.get(feed.partition) is feed:
            del self._feeds[feed.partition]
        feed.log.clear()

    @property
    def crowded(self) -> bool:
        """Whether there are more watchers than a process lets wait."""
        return self.watchers > MAX_WATCHERS

    @property
    def retry(self) -> bytes:
        """When clients are to come back, as server-sent events say it."""
        pause = max(RETRY_MILLISECONDS, 1000 * self.watchers // WINDOWS_A_SECOND)
        return b"retry: %d\n" % (CROWDED_MILLISECONDS if self.crowded else pause)

    async def close(self) -> None:
        """Stop following."""
        tasks = [feed.task for feed in self._feeds.values() if feed.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Feed:
    """One partition's feed, read once for all who watch it."""

    def __init__(self, hub: LiveFeeds, services: Services, partition: Partition) -> None:
        self.hub, self.services, self.partition = hub, services, partition
        self.watchers = 0
        self.woken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.log = FeedLog("", hub.budget)
        self._opening = asyncio.Lock()
        self._runs: dict[str, _Run] = {}
        self._gone = False
        self._news = asyncio.Event()
        self._asked: list[asyncio.Future[int]] = []
        self._reading: dict[tuple[str, int | None], asyncio.Task[tuple[list[Entry], str]]] = {}
        self._bodies: dict[tuple[int, str | None], bytes] = {}

    async def window(self, token: str | None, run_id: str | None, seconds: float) -> bytes | None:
        clock = asyncio.get_running_loop().time
        until, pages = clock() + seconds, WINDOW_PAGES
        await self._open()
        if run_id is not None:
            await self._know(run_id)
        if token is None:
            return self._nothing(self.log.head)
        number = self.log.number_of(token)
        while True:
            if number is None or (entries := self.log.since(number)) is None:
                entries, token, number = await self._catch_up(token, until)
                if body := self._body(entries, run_id):
                    return body
                pages -= 1
                if number is None and (pages <= 0 or clock() >= until):
                    return self._nothing(token)
                continue
            if body := self._shared_body(number, entries, run_id):
                return body
            number, token = self.log.end, self.log.head
            if self._gone:
                raise NotFound(WORKFLOW_ID)
            if run_id is not None and self._runs.get(run_id) is _Run.TOLD:
                return None
            try:
                await asyncio.wait_for(self._news.wait(), until - clock())
            except TimeoutError:
                return self._nothing(token)

    async def _open(self) -> None:
        """Begin to read it, once. Raises `NotFound` for a workflow that isn't there."""
        async with self._opening:
            if self.task is None:
                await self.services.store.get(self.partition, WORKFLOW_ID)
                self.log = FeedLog(await self.services.store.position(self.partition), self.hub.budget)
                self.task = asyncio.get_running_loop().create_task(self._follow(), name="live")

    async def _know(self, run_id: str) -> None:
        """Know whether the run goes on. Raises `NotFound`."""
        if run_id not in self._runs:
            run = await self.services.store.get(self.partition, run_id)
            if run["type"] != DocumentType.RUN:
                raise NotFound(run_id)
            self._note(run)

    def _note(self, run: Document) -> None:
        """What `run`, as read at some time, says: that it has ended is never taken back."""
        known = self._runs.pop(run["id"], _Run.GOES_ON)
        if known is _Run.GOES_ON and run["status"] in TERMINAL_RUN:
            known = _Run.ENDED
            self.woken.set()
        self._runs[run["id"]] = known
        if len(self._runs) > RUNS_KNOWN:
            del self._runs[next(iter(self._runs))]

    async def _follow(self) -> None:
        """Poll while somebody watches, and a little longer."""
        clock = asyncio.get_running_loop().time
        watched_at, pause = clock(), self.hub.poll_seconds
        try:
            while self.watchers or (clock() - watched_at < LINGER_SECONDS and not self.hub.crowded):
                watched_at = clock() if self.watchers else watched_at
                self.woken.clear()
                try:
                    again = await self._poll()
                    pause = self.hub.poll_seconds
                except StoreError as error:
                    log.warning("can't read the feed of %s: %s", self.partition.workflow_id, error)
                    again, pause = False, min(pause * 2, MAX_AWAY_SECONDS)
                await asyncio.sleep(0 if again else BREATH_SECONDS)
                if not again:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.woken.wait(), pause)
        except Exception:
            # Its windows end without news, and the next ones begin anew.
            log.exception("the feed of %s can't be followed", self.partition.workflow_id)
        finally:
            self.hub.forget(self)

    async def _poll(self) -> bool:
        """Read one page. Answers whether to read on at once."""
        asked, self._asked = self._asked, []
        ended = [run_id for run_id, known in self._runs.items() if known is _Run.ENDED]
        try:
            page = await self.services.store.changes(self.partition, self.log.head, PAGE)
            entries = await self._entries(page)
        except BaseException:
            self._asked += asked
            raise
        for document in page.items:
            if document["type"] == DocumentType.RUN:
                self._note(document)
            self._gone = self._gone or document["type"] == DocumentType.TOMBSTONE
        self.log.append(entries, page.token)
        if entries:
            self._asked += asked
            self._tell()
            return len(entries) == PAGE or bool(self._asked) or _Run.ENDED in self._runs.values()
        self._at_end(asked, ended)
        return bool(self._asked)

    def _at_end(self, asked: list[asyncio.Future[int]], ended: list[str]) -> None:
        """Nothing is left: tell those who asked for that, and who follows a run that had ended before."""
        for one in asked:
            if not one.done():
                one.set_result(self.log.end)
        for run_id in ended:
            if run_id in self._runs:
                self._runs[run_id] = _Run.TOLD
        if ended:
            self._tell()

    def _tell(self) -> None:
        self._bodies.clear()
        self._news.set()
        self._news = asyncio.Event()

    async def _entries(self, page: Changes) -> list[Entry]:
        entries = []
        for document, token in zip(page.items, page.tokens, strict=True):
            what = await shown(self.services, document)
            run_id, text = (None, b"") if what is None else (what.run_id, server_sent(what, token))
            entries.append(Entry(token, document["id"], run_id, text))
        return entries

    async def _catch_up(self, token: str, until: float) -> tuple[list[Entry], str, int | None]:
        """What comes after a token that the log doesn't know, where to go on, and the number of that, if it has one."""
        entries, after = await self._read(token, None)
        if entries:
            return entries, after, self.log.number_of(after)
        # So the token is at the feed's end, or was. The log is read to an end that is no earlier; if even then nothing
        # follows the token, that end is where it stands, and what the log has from there on is new to its reader.
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[int] = loop.create_future()
        self._asked.append(asked)
        self.woken.set()
        try:
            number = await asyncio.wait_for(asked, max(0.0, until - loop.time()))
        except TimeoutError:
            return [], token, None
        entries, after = await self._read(token, number)
        return entries, after, self.log.number_of(after) if entries else number

    async def _read(self, token: str, number: int | None) -> tuple[list[Entry], str]:
        """One page after `token`; those who ask at the same time share it.

        `number`: it must not have begun before the log's end was there.
        """
        key = (token, number)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read_page(token))
            task.add_done_callback(lambda _: self._reading.pop(key))
        return await asyncio.shield(task)

    async def _read_page(self, token: str) -> tuple[list[Entry], str]:
        page = await self.services.store.changes(self.partition, token, PAGE)
        return await self._entries(page), page.token

    def _nothing(self, token: str) -> bytes:
        """A window without news. An event without data is not dispatched, but its id is remembered."""
        return b"%b: nothing new\nid: %b\n\n" % (self.hub.retry, token.encode())

    def _shared_body(self, number: int, entries: list[Entry], run_id: str | None) -> bytes | None:
        """The window of the log's entries from `number` on, made once for all who are there."""
        key = (number, run_id)
        if key in self._bodies:
            return self._bodies[key]
        body = self._body(entries, run_id)
        if body is not None and len(self._bodies) < BODIES_KEPT:
            self._bodies[key] = body
        return body

    def _body(self, entries: list[Entry], run_id: str | None) -> bytes | None:
        """Entries as one window: of each document only its last state, in the order of those; None without any."""
        latest: dict[str, Entry] = {}
        for entry in entries:
            latest.pop(entry.document_id, None)
            if entry.text and run_id in (None, entry.run_id):
                latest[entry.document_id] = entry
        parts, size = [self.hub.retry], 0
        for entry in latest.values():
            parts.append(entry.text)
            size += len(entry.text)
            if size >= WINDOW_BYTES:
                break
        return b"".join(parts) if latest else None
