"""The document store on Azure Cosmos DB: one container, a transaction is one transactional batch.

How a transaction becomes a batch, and why its conditions are patches, is in `cosmos_batch`; the SQL in `cosmos_sql`.

**A lost answer.** A batch may be applied although its answer never came (the connection broke, a gateway gave up). Sending
it again could apply it twice; saying that it failed could be a lie. Every write is stamped with its transaction's marker,
so (1) the documents are read back: a marker there says that it was applied, and the answer is made from what was read.
No marker says little: it may have been overwritten since, the request may still be under way, and a session's reads may
lag behind a write whose token was never received. So (2) only a *write* decides. A batch that creates a document can
be applied at most once, as the second time the create conflicts; it is sent again. If that is refused, and the document
it creates doesn't exist, the first attempt wasn't applied either and the refusal is the answer. (3) In all other cases
nobody can tell, and the caller gets `Unavailable`, which says just that. What (2) relies on: nobody deletes a document
within the seconds in which its creation is in doubt. Nearly every transaction of the domain creates an event, which goes
only with its whole workflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from azure.core.exceptions import AzureError, ServiceRequestError
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError, CosmosResourceNotFoundError

from shared.errors import NotFound, StoreError, Throttled, Unavailable
from shared.store.cosmos_batch import Batch, expand, shown
from shared.store.cosmos_client import ENDPOINT, AnswerLost, Connection, CosmosAccount, retry_after, store_error
from shared.store.cosmos_feed import FeedToken, digest, read_token
from shared.store.cosmos_sql import Segment, Statement, ordered, page_token, segments, tied
from shared.store.limits import PARTITION_FIELDS, check_id, check_partition, check_transaction
from shared.store.port import MAX_PAGE, Changes, Document, Op, Page, Partition, Query

T = TypeVar("T")

ATTEMPTS = 5
"""How often one request is sent, at most."""
PAUSE_SECONDS = 0.05
"""Before the second attempt; it doubles with each, and is shortened at random so that rivals don't meet again."""
CALL_SECONDS = 20.0
"""How long one call of the port may take. Without it a service that accepts and says nothing would hold up a caller for
minutes: each of several requests for its own time."""
MAX_THROTTLE_SECONDS = 5.0
"""A longer wait than this is the caller's to decide on."""
_NOT_APPLIED = frozenset({429, 449})
"""Answers that say that the service did nothing: too much at once, or a conflict with a write at the same moment."""
_FEED_PAGES = 10


class CosmosStore:
    """`DocumentStore` on Cosmos DB; see the port for what each method does. One a process."""

    def __init__(self, account: CosmosAccount) -> None:
        self._connection = Connection(account)

    async def get(self, partition: Partition, document_id: str) -> Document:
        check_partition(partition)
        check_id(document_id)

        async def read() -> Document:
            container = await self._connection.container()
            try:
                found = await container.read_item(document_id, list(partition), **self._session())
            except CosmosResourceNotFoundError as error:
                if error.sub_status:  # the session, or the container
                    raise
                self._connection.session.note(error.headers)
                raise NotFound(document_id) from None
            self._connection.session.note(found.get_response_headers())
            return shown(found)

        async with self._bounded():
            return await self._repeatedly(read)

    async def query(self, query: Query) -> Page:
        rows: list[Document] = []
        async with self._bounded():
            for segment in segments(query):
                rows += await self._rows(segment, query, query.limit + 1 - len(rows))
                if len(rows) > query.limit:
                    break
        items = [shown(row) for row in rows[: query.limit]]
        return Page(items, page_token(query, items[-1]) if len(rows) > query.limit else None)

    async def changes(self, partition: Partition, token: str | None = None, limit: int = 100) -> Changes:
        check_partition(partition)
        start = read_token(token)
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit is 1 to {MAX_PAGE}, not {limit}")
        async with self._bounded():
            return await self._news(partition, token, start, limit)

    async def _news(self, partition: Partition, token: str | None, start: FeedToken, limit: int) -> Changes:
        place = start
        for _ in range(_FEED_PAGES):
            documents, continuation = await self._feed_page(partition, place, limit)
            if continuation is None:
                break
            # The token comes from outside and the SDK would follow it to other partitions.
            own = [one for one in documents if tuple(one.get(name) for name in PARTITION_FIELDS) == partition]
            news = [one for one in own if digest(one) not in place.seen]
            keep = len(own) + len(place.seen)
            # Within a page a token comes back to the same page, and leaves out what was seen of it.
            tokens = [place.after(news[: i + 1], place.continuation, keep).text() for i in range(min(len(news), limit))]
            if len(news) <= limit:  # else a transaction was over the limit, as one is never cut in two
                place = place.after(news, continuation)
                tokens[-1:] = [place.text()] if news else []
            if news:
                return Changes([shown(one) for one in news[:limit]], tokens[-1], tokens)
        return Changes([], token if token is not None and place == start else place.text(), [])

    async def position(self, partition: Partition) -> str:
        check_partition(partition)
        answered: Mapping[str, str] = {}

        def note(headers: Mapping[str, str], result: object = None) -> None:
            nonlocal answered
            answered = headers
            self._connection.session.note(headers, result)

        async def read() -> str:
            container = await self._connection.container()
            feed = container.query_items_change_feed(
                start_time="Now", partition_key=list(partition), response_hook=note, **self._session()
            )
            async for _ in feed.by_page():  # there is none: what counts is where the SDK says to go on
                break
            return FeedToken(answered["etag"]).text()

        async with self._bounded():
            return await self._repeatedly(read)

    async def transact(self, partition: Partition, ops: Sequence[Op]) -> list[Document | None]:
        texts = check_transaction(partition, ops)
        if not ops:
            return []
        batch = expand(ops, texts, uuid.uuid4().hex)
        async with self._bounded():
            return await _Attempt(self, partition, batch).run()

    async def close(self) -> None:
        await self._connection.close()

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                yield
        except TimeoutError as error:
            where = f"Cosmos DB at {self._connection.account.endpoint} ({ENDPOINT})"
            raise Unavailable(f"{where} gave no answer within {CALL_SECONDS:g} s", (ENDPOINT,)) from error

    def _session(self) -> dict[str, Any]:
        token = self._connection.session.text
        return {} if token is None else {"session_token": token}

    async def _repeatedly(self, read: Callable[[], Awaitable[T]]) -> T:
        """Do a read, again while the store can't. Raises the port's errors."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await read()
            except (AzureError, OSError) as error:
                meant = store_error(error, self._connection.account)
                passing = not isinstance(error, CosmosHttpResponseError) or (error.status_code or 0) in _PASSING
                if not (isinstance(meant, Unavailable) and passing and attempt < ATTEMPTS):
                    raise meant from error
            await _pause(attempt)

    async def _rows(self, segment: Segment, query: Query, need: int) -> list[Document]:
        """The first `need` rows of a segment, or a few more; fewer if there are no more."""
        columns = segment.columns

        def enough(rows: list[Document]) -> bool:
            return len(rows) >= need and (
                len(columns) == 1 or (len(rows) > need and not _tie_open(rows, columns, need))
            )

        size = need if len(columns) == 1 else need + 1
        rows = await self._select(segment.statement, query.within, size, enough)
        return ordered(rows, columns, query.descending)[:need]

    async def _select(
        self,
        statement: Statement,
        within: Partition | str | None,
        size: int,
        enough: Callable[[list[Document]], bool] = lambda _: False,
    ) -> list[Document]:
        """All rows of a query, or as many whole pages as are enough. A page may be short, or empty, and not the last."""
        key: dict[str, Any] = {}
        if within is not None:
            key = {"partition_key": [within] if isinstance(within, str) else list(within)}

        async def read() -> list[Document]:
            container = await self._connection.container()
            rows: list[Document] = []
            pages = container.query_items(
                statement.query,
                parameters=statement.parameters,
                max_item_count=size,
                response_hook=self._connection.session.note,
                **key,
                **self._session(),
            ).by_page()
            async for page in pages:
                rows += [row async for row in page]
                if enough(rows):
                    break
            return rows

        return await self._repeatedly(read)

    async def _feed_page(self, partition: Partition, place: FeedToken, limit: int) -> tuple[list[Document], str | None]:
        """A page of the feed and where it goes on, None where there is nothing new."""
        start: dict[str, Any] = {"partition_key": list(partition), "start_time": "Beginning"}
        if place.continuation is not None:
            start = {"continuation": place.continuation}

        async def read() -> tuple[list[Document], str | None]:
            container = await self._connection.container()
            feed = container.query_items_change_feed(
                max_item_count=limit, response_hook=self._connection.session.note, **start, **self._session()
            )
            pages = feed.by_page()
            try:
                documents = [document async for document in await anext(pages)]
            except StopAsyncIteration:
                return [], None
            except (ValueError, KeyError, TypeError, AttributeError):
                if place.continuation is None:
                    raise
                raise ValueError("not a token of this store's feed") from None
            return documents, pages.continuation_token

        return await self._repeatedly(read)


class _Attempt:
    """One transaction's way to the store. `doubt`: an earlier sending of it may have been applied."""

    def __init__(self, store: CosmosStore, partition: Partition, batch: Batch) -> None:
        self.store, self.partition, self.batch = store, partition, batch
        self.connection = store._connection
        self.doubt: AnswerLost | None = None

    async def run(self) -> list[Document | None]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.batch.answers(await self._send())
            except AnswerLost as lost:
                self.doubt = lost
                if (found := await self._applied()) is not None:
                    return found
                if not (self.batch.births or self.batch.read_only):
                    break
                await _pause(attempt)
            except CosmosBatchOperationError as error:
                self.connection.session.note(error.headers)
                if (error.status_code or 0) not in _NOT_APPLIED:
                    return await self._refused(error)
                await self._wait(error.headers, attempt)
            except CosmosHttpResponseError as error:
                if error.status_code != 449:  # 429: the SDK has waited already
                    raise self._failed(error) from error
                await self._wait(error.headers, attempt)
            except (ServiceRequestError, OSError) as error:  # never sent
                if attempt == ATTEMPTS:
                    raise self._failed(error) from error
                await _pause(attempt)
        raise Unavailable(f"it isn't known whether a write was applied: {self.doubt}")

    async def _send(self) -> list[Mapping[str, Any]]:
        container = await self.connection.container()
        try:
            results = await container.execute_item_batch(
                self.batch.operations(), list(self.partition), **self.store._session()
            )
        except (CosmosHttpResponseError, CosmosBatchOperationError, ServiceRequestError):
            raise
        except AzureError as error:  # an answer that can't be read
            raise AnswerLost(str(error)) from error
        self.connection.session.note(results.get_response_headers())
        return list(results)

    def _failed(self, error: Exception) -> StoreError:
        meant = store_error(error, self.connection.account)
        if self.doubt is None or isinstance(meant, Unavailable):
            return meant
        return Unavailable(f"it isn't known whether a write was applied: {self.doubt}; then: {meant}")

    async def _wait(self, headers: Mapping[str, str], attempt: int) -> None:
        """Before the service is asked again; if it asked for too much patience, that is the answer."""
        asked = retry_after(headers) if "x-ms-retry-after-ms" in headers else 0.0
        if attempt == ATTEMPTS or asked > MAX_THROTTLE_SECONDS:
            if self.doubt is not None:
                raise Unavailable(f"it isn't known whether a write was applied: {self.doubt}")
            raise Throttled(asked or PAUSE_SECONDS * 2**attempt)
        await asyncio.sleep(asked)
        await _pause(attempt)

    async def _refused(self, error: CosmosBatchOperationError) -> list[Document | None]:
        """The batch was refused: now, but was it before?"""
        if self.doubt is None or self.batch.read_only:
            self.batch.refuse(error.operation_responses)
        found = await self._read_back()
        if (answer := self._answer_from(found)) is not None:
            return answer
        if self.batch.births & found.keys():
            raise Unavailable(f"it isn't known whether a write was applied: {self.doubt}")
        return self.batch.refuse(error.operation_responses)

    async def _applied(self) -> list[Document | None] | None:
        """The batch's answer, if there is proof that it was applied."""
        if self.batch.read_only:
            return None
        try:
            return self._answer_from(await self._read_back())
        except Throttled:
            return None  # no proof; sending it again, where that is safe, finds out

    async def _read_back(self) -> dict[str, Document]:
        ids = self.batch.ids
        names = [f"@p{index}" for index in range(len(ids))]
        statement = Statement(
            f'SELECT * FROM c WHERE c["id"] IN ({", ".join(names)})',  # noqa: S608 - names of parameters
            [{"name": name, "value": value} for name, value in zip(names, ids, strict=True)],
        )
        return {row["id"]: row for row in await self.store._select(statement, self.partition, len(ids))}

    def _answer_from(self, found: Mapping[str, Document]) -> list[Document | None] | None:
        return self.batch.answers_from(found) if any(map(self.batch.wrote, found.values())) else None


_PASSING = frozenset({408, 410, 449, 500, 502, 503, 504})
"""Answers to a read after which another try may do better."""


def _tie_open(rows: list[Document], columns: Sequence[str], need: int) -> bool:
    """Whether more rows may tie with the last one that is needed."""
    return tied(columns, rows[need - 1], rows[-1])


async def _pause(attempt: int) -> None:
    await asyncio.sleep(PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
