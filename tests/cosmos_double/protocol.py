"""The REST protocol: a request and what the account answers, without the network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tests.cosmos_double.faults import Trouble
from tests.cosmos_double.routing import effective_key
from tests.cosmos_double.sql import BadQuery, Select, follow, parse_query, sort_key
from tests.cosmos_double.storage import MAX_BATCH, MAX_BYTES, Body, Container, Item, Key, Result

KEY = base64.b64encode(b"a key of the test double, 64 bytes.." * 2).decode()
MAX_SKEW_SECONDS = 900
_SESSION_NOT_AVAILABLE = 1002
_OWNER_NOT_FOUND = 1003


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` in lower case, `path` as sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def names(self) -> list[str]:
        """The parts of the path."""
        return [urllib.parse.unquote(part) for part in self.path.split("?")[0].split("/") if part]

    @property
    def kind(self) -> str:
        """As faults and counters know it."""
        names = self.names
        if not names:
            return "account"
        if len(names) < 5 or names[4] != "docs":
            return "ranges" if names[-1] == "pkranges" else "container"
        if self.headers.get("x-ms-cosmos-is-batch-request") == "True":
            return "batch"
        if self.headers.get("x-ms-documentdb-isquery") == "true":
            return "query"
        if len(names) == 5:
            return "feed" if self.method == "GET" else "write"
        return "read" if self.method == "GET" else "write"


@dataclass(slots=True)
class Response:
    """`body` None: none."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, message: str, sub_status: int = 0) -> Response:
    """An error, as the service writes it."""
    return Response(status, {"code": str(status), "message": message}, {"x-ms-substatus": str(sub_status)})


class Account:
    """A database account in memory."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.trouble = Trouble()
        self.endpoint = ""
        self.databases: dict[str, dict[str, Container]] = {}
        self._made = 0

    def answer(self, request: Request) -> Response:
        """What the service would say."""
        refused = self._unauthorized(request)
        response = refused or self._route(request)
        response.headers.setdefault("x-ms-request-charge", "0")
        response.headers.setdefault("x-ms-activity-id", "00000000-0000-0000-0000-000000000000")
        return response

    def _unauthorized(self, request: Request) -> Response | None:
        sent, date = request.headers.get("authorization", ""), request.headers.get("x-ms-date", "")
        names = request.names
        whole = len(names) % 2 == 0
        resource = (names[-2] if whole else names[-1]) if names else ""
        link = "/".join(names if whole else names[:-1])
        text = f"{request.method.lower()}\n{resource}\n{link}\n{date.lower()}\n\n"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
        if urllib.parse.unquote(sent) != f"type=master&ver=1.0&sig={signature}":
            return refusal(401, "The input authorization token can't serve the request. The wrong key is being used.")
        now = datetime.fromtimestamp(self.clock() + self.trouble.clock_offset, UTC)
        if abs((parsedate_to_datetime(date) - now).total_seconds()) > MAX_SKEW_SECONDS:
            return refusal(403, "The authorization token is not valid at the current time.")
        return None

    def _route(self, request: Request) -> Response:
        names = request.names
        if not names:
            return Response(200, self._about())
        if names[0] != "dbs":
            return refusal(400, f"unknown path {request.path}")
        if len(names) == 1:
            return self._create_database(request)
        database = self.databases.get(names[1])
        if database is None:
            return refusal(404, "Owner resource does not exist", _OWNER_NOT_FOUND if len(names) > 2 else 0)
        if len(names) == 2:
            return self._database(request, names[1])
        if len(names) == 3:
            return self._create_container(request, database)
        container = database.get(names[3])
        if container is None:
            return refusal(404, "Owner resource does not exist", _OWNER_NOT_FOUND if len(names) > 4 else 0)
        if len(names) == 4:
            return Response(200, container.definition) if request.method == "GET" else refusal(400, "not done here")
        if names[4] == "pkranges":
            return self._ranges(request, container)
        if names[4] == "docs" and len(names) <= 6:
            answered = Documents(self, container, request).answer()
            owner = "/".join(urllib.parse.quote(name) for name in names[:4])
            answered.headers |= {"x-ms-alt-content-path": owner, "x-ms-documentdb-partitionkeyrangeid": "0"}
            return answered
        return refusal(400, f"unknown path {request.path}")

    def _about(self) -> Body:
        here = [{"name": "Test", "databaseAccountEndpoint": self.endpoint}]
        return {
            "id": "double",
            "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            "writableLocations": here,
            "readableLocations": here,
            "enableMultipleWriteLocations": False,
        }

    def _create_database(self, request: Request) -> Response:
        name = json.loads(request.body)["id"]
        if name in self.databases:
            return refusal(409, "Resource with specified id or name already exists.")
        self.databases[name] = {}
        return Response(201, {"id": name, "_rid": self._rid()})

    def _database(self, request: Request, name: str) -> Response:
        if request.method == "DELETE":
            del self.databases[name]
            return Response(204)
        return Response(200, {"id": name}) if request.method == "GET" else refusal(400, "not done here")

    def _create_container(self, request: Request, database: dict[str, Container]) -> Response:
        definition: Body = json.loads(request.body)
        if definition["id"] in database:
            return refusal(409, "Resource with specified id or name already exists.")
        return Response(201, self._made_container(definition, database))

    def make(self, database: str, definition: Body) -> None:
        """Make a database with a container, as somebody else may have."""
        self._made_container(definition, self.databases.setdefault(database, {}))

    def _made_container(self, definition: Body, database: dict[str, Container]) -> Body:
        rid = self._rid()
        definition |= {"_rid": rid, "_self": f"dbs/db/colls/{rid}/"}
        database[definition["id"]] = Container(definition, rid, self.clock)
        return definition

    def _rid(self) -> str:
        self._made += 1
        return base64.b64encode(self._made.to_bytes(8, "big")).decode()

    def _ranges(self, request: Request, container: Container) -> Response:
        headers = {"etag": '"ranges"'}
        if request.headers.get("if-none-match") == '"ranges"':
            return Response(304, headers=headers)
        whole = {"id": "0", "minInclusive": "", "maxExclusive": "FF", "status": "online", "parents": []}
        return Response(200, {"_rid": container.rid, "PartitionKeyRanges": [whole], "_count": 1}, headers)


class Documents:
    """One request about documents."""

    def __init__(self, account: Account, container: Container, request: Request) -> None:
        self.account, self.container, self.request = account, container, request
        self.headers, self.trouble = request.headers, account.trouble

    def answer(self) -> Response:
        body = self.request.body
        key = self._key()
        if len(body) > MAX_BYTES + 65536:  # the limit is of documents; a batch has a little around them
            return refusal(413, "Request size is too large")
        needed = self._session_lsn()
        if needed > self.container.lsn:
            return refusal(
                404, "The read session is not available for the input session token.", _SESSION_NOT_AVAILABLE
            )
        handlers = {"batch": self._batch, "query": self._query, "feed": self._feed}
        kind = self.request.kind
        if kind in handlers:
            response = handlers[kind](key, needed if self.trouble.stale else self.container.lsn)
        elif key is None or len(key) != len(self.container.fields):
            response = refusal(400, "a whole partition key is needed")
        elif kind == "read":
            response = self._read(key, needed if self.trouble.stale else self.container.lsn)
        else:
            response = self._write(key)
        response.headers["x-ms-session-token"] = f"0:1#{self._seen_lsn(kind, needed)}"
        response.headers["x-ms-request-charge"] = charge = f"{self._charge(kind, response):.2f}"
        self.trouble.charges[kind] += round(float(charge) * 100)
        return response

    def _seen_lsn(self, kind: str, needed: int) -> int:
        stale = self.trouble.stale and kind in ("read", "query", "feed")
        return needed if stale else self.container.lsn

    def _key(self) -> Key | None:
        text = self.headers.get("x-ms-documentdb-partitionkey")
        return None if text is None else tuple(json.loads(text))

    def _session_lsn(self) -> int:
        token = self.headers.get("x-ms-session-token")
        return 0 if not token else max(int(re.split("[:#]", part)[2]) for part in token.split(","))

    def _charge(self, kind: str, response: Response) -> float:
        """An estimate in request units, from the documented prices of 1 KB: read 1, create 5.5, change 10, query 2.3."""
        size = max(1.0, len(json.dumps(response.body or "")) / 1024)
        if kind == "batch":
            prices = {"Create": 5.5, "Read": 1.0, "Delete": 5.5}
            return sum(prices.get(one["operationType"], 10.0) for one in json.loads(self.request.body))
        return {"read": size, "query": 2.3 + 0.2 * size, "feed": size, "write": 10.0}[kind]

    def _read(self, key: Key, lsn: int) -> Response:
        found = self.container.read(key, self.request.names[5], lsn)
        if found is None:
            return refusal(404, "Entity with the specified id does not exist in the system.")
        if self.headers.get("if-none-match") == found["_etag"]:
            return Response(304, headers={"etag": found["_etag"]})
        return Response(200, found, {"etag": found["_etag"]})

    def _write(self, key: Key) -> Response:
        names, method = self.request.names, self.request.method
        upsert = self.headers.get("x-ms-documentdb-is-upsert", "").lower() == "true"
        kinds = {"POST": "Upsert" if upsert else "Create", "PUT": "Replace", "PATCH": "Patch", "DELETE": "Delete"}
        operation: dict[str, Any] = {"operationType": kinds[method], "ifMatch": self.headers.get("if-match")}
        if len(names) == 6:
            operation["id"] = names[5]
        if self.request.body:
            operation["resourceBody"] = json.loads(self.request.body)
        [result] = self.container.apply(key, [operation])
        if result.status >= 400:
            return refusal(result.status, result.message)
        return Response(result.status, result.body, {"etag": result.body["_etag"]} if result.body else {})

    def _batch(self, key: Key | None, _lsn: int) -> Response:
        operations = json.loads(self.request.body)
        if key is None or len(key) != len(self.container.fields):
            return refusal(400, "a batch needs a whole partition key")
        if len(operations) > MAX_BATCH:
            return refusal(400, f"Batch request has more operations than what is supported: {MAX_BATCH}.")
        if self.headers.get("x-ms-cosmos-batch-atomic") != "True":
            return refusal(400, "not done here")
        results = self.container.apply(key, operations)
        failed = any(result.status >= 400 for result in results)
        return Response(207 if failed else 200, [_entry(result) for result in results])

    def _where(self, key: Key | None) -> Callable[[Key], bool]:
        """Which partitions the request is about."""
        if key is not None:
            return lambda other: other[: len(key)] == key
        if self.headers.get("x-ms-read-key-type") == "EffectivePartitionKeyRange":
            start, end = self.headers["x-ms-start-epk"], self.headers["x-ms-end-epk"]
            return lambda other: start <= effective_key(other) < end
        return lambda _: True

    def _query(self, key: Key | None, lsn: int) -> Response:
        given = json.loads(self.request.body)
        ranged = "x-ms-start-epk" in self.headers
        if key is None and not ranged and self.headers.get("x-ms-documentdb-query-enablecrosspartition") != "True":
            return refusal(400, "Cross partition query is required but disabled.")
        try:
            select = parse_query(given["query"], {one["name"]: one["value"] for one in given.get("parameters") or []})
            after = _read_place(self.headers.get("x-ms-continuation"))
        except BadQuery as error:
            return refusal(400, str(error))
        found = self.container.documents(lsn, self._where(key))
        rows = [(item, body) for item, body in found if select.matches(body)]
        page, place = self._page(select, _in_order(select, rows), after)
        headers = {} if place is None else {"x-ms-continuation": place}
        documents = [select.project(body) for _, body in page]
        return Response(200, {"_rid": self.container.rid, "Documents": documents, "_count": len(documents)}, headers)

    def _page(
        self, select: Select, rows: list[tuple[Item, Body]], after: list[Any] | None
    ) -> tuple[list[tuple[Item, Body]], str | None]:
        start = select.offset or 0
        if select.limit is not None or select.top is not None:
            rows = rows[start : start + (select.limit if select.limit is not None else select.top or 0)]
        size = int(self.headers.get("x-ms-max-item-count") or -1)
        size = len(rows) if size < 0 else size
        if self.trouble.page_size is not None:
            size = 0 if after is None else min(size, self.trouble.page_size)
        if after:
            descending = select.order is not None and select.order.descending
            rows = [one for one in rows if _beyond(_place(select, one), after, descending)]
        page = rows[:size]
        if len(page) == len(rows):
            return page, None
        place = _place(select, page[-1]) if page else after or []
        return page, base64.b64encode(json.dumps(place).encode()).decode()

    def _feed(self, key: Key | None, lsn: int) -> Response:
        if self.headers.get("a-im") != "Incremental Feed":
            return refusal(400, "only the change feed is done here")
        since = self.headers.get("if-none-match", "").strip('"')
        if since == "*":
            return Response(304, headers={"etag": f'"{lsn}"'})
        if since and not since.isdigit():
            return refusal(400, "bad continuation")
        news = self.container.changed(lsn, int(since or 0), self._where(key))
        size = int(self.headers.get("x-ms-max-item-count") or 100)
        page = news[:size]
        while len(page) < len(news) and news[len(page)][0].order[0] == page[-1][0].order[0]:
            page.append(news[len(page)])  # a transaction is never cut in two
        seen = page[-1][0].order[0] if len(page) < len(news) else lsn
        headers = {"etag": f'"{seen}"'}
        if not page:
            return Response(304, headers=headers)
        documents = [{**body, "_lsn": item.order[0]} for item, body in page]
        return Response(200, {"_rid": self.container.rid, "Documents": documents, "_count": len(documents)}, headers)


def _entry(result: Result) -> Body:
    entry: Body = {"statusCode": result.status, "requestCharge": 0.0}
    if result.body is not None:
        entry |= {"eTag": result.body["_etag"], "resourceBody": result.body}
    return entry


def _in_order(select: Select, rows: list[tuple[Item, Body]]) -> list[tuple[Item, Body]]:
    order = select.order
    if order is None:
        return rows
    return sorted(rows, key=lambda one: sort_key(follow(one[1], order.path)), reverse=order.descending)


def _place(select: Select, row: tuple[Item, Body]) -> list[Any]:
    """Where a row is in the result: ties are in the order of creation, whatever the direction."""
    value = sort_key(follow(row[1], select.order.path)) if select.order else (0, 0)
    return [list(value), row[0].rid]


def _beyond(place: list[Any], after: list[Any], descending: bool) -> bool:
    if place[0] == after[0]:
        return bool(place[1] > after[1])
    return bool((tuple(place[0]) < tuple(after[0])) if descending else (tuple(place[0]) > tuple(after[0])))


def _read_place(text: str | None) -> list[Any] | None:
    if text is None:
        return None
    try:
        place: list[Any] = json.loads(base64.b64decode(text, validate=True))
    except ValueError:
        raise BadQuery("Invalid Continuation Token") from None
    return place
