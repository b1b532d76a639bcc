"""Serves the scripted model below `/dev/model/`, and sees at once when a client goes.

A watcher reads each request's ASGI messages while its answer is being made; when the client disconnects it ends the
exchange and cancels the answer. A token counts as sent only if the watcher, given its turn after the sending, has not.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from devhost.scripted_model.directives import BadDirective, Script, parse
from devhost.scripted_model.log import PROMPT_PREFIX, Exchange, ExchangeLog
from devhost.scripted_model.wire import BadRequest, ChatRequest, Json, Writer, error_body, parse_request

PREFIX = "/dev/model/"
MAX_BODY = 32 * 1024 * 1024
MAX_KEYS = 10_000
ARGUMENT_PIECE = 12
"""Characters of a tool call's arguments in one chunk."""
FOREVER = 365 * 86400.0
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_FRESH = (b"cache-control", b"no-store")
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ScriptedModel:
    """The model and its log as one ASGI application."""

    def __init__(self) -> None:
        self._log = ExchangeLog()
        self._seen: OrderedDict[str, int] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (an ASGI `http` scope)."""
        path, method = scope["path"].removeprefix(PREFIX), scope["method"]
        if (method, path) == ("POST", "v1/chat/completions"):
            await self._complete(receive, send)
        elif (method, path) == ("GET", "v1/models"):
            model = {"id": "scripted", "object": "model", "created": 0, "owned_by": "devhost"}
            await _answer(send, 200, json.dumps({"object": "list", "data": [model]}).encode())
        elif (method, path) == ("GET", "log"):
            await self._show_log(scope, send)
        elif (method, path) == ("DELETE", "log"):
            self._log.clear()
            self._seen.clear()
            await _answer(send, 204, b"")
        else:
            await _answer(send, 404, error_body(f"There is no {method} {scope['path']}.", "invalid_request_error"))

    async def _show_log(self, scope: Scope, send: Send) -> None:
        after = parse_qs(scope["query_string"].decode("latin-1")).get("after", ["0"])[-1]
        if not after.isascii() or not after.isdigit():
            await _answer(send, 400, error_body("'after' must be an id", "invalid_request_error", "after"))
            return
        await send({"type": "http.response.start", "status": 200, "headers": [_JSON, _FRESH]})
        for piece in self._log.after(int(after[:18])):
            await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    async def _complete(self, receive: Receive, send: Send) -> None:
        exchange = self._log.open()
        body = await _read(receive)
        if body is None:
            exchange.end("closed")
            return
        try:
            if len(body) > MAX_BODY:
                raise BadRequest(f"The body is over {MAX_BODY} bytes.")
            request = parse_request(body)
            exchange.model, exchange.prompt = request.model, request.prompt[:PROMPT_PREFIX]
            script = parse(request.prompt)
        except (BadRequest, BadDirective) as error:
            exchange.end("error")
            param = error.param if isinstance(error, BadRequest) else "messages"
            await _answer(send, 400, error_body(error.args[0], "invalid_request_error", param))
            return
        exchange.key = script.key
        self._count(script, request)
        performance = _Performance(self._log, exchange, request, script, send)
        await _while_connected(exchange, receive, performance.run)

    def _count(self, script: Script, request: ChatRequest) -> None:
        """Lift the misbehaviour that was for the first `times` requests of a key only."""
        if script.times is None:
            return
        key = script.key if script.key is not None else f"prompt:{request.prompt}"
        self._seen[key] = self._seen.pop(key, 0) + 1
        while len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        if self._seen[key] > script.times:
            script.behave()


class _Performance:
    """Makes one answer."""

    def __init__(self, log: ExchangeLog, exchange: Exchange, request: ChatRequest, script: Script, send: Send) -> None:
        self._log, self._exchange, self._request, self._script, self._send = log, exchange, request, script, send
        self._writer = Writer(exchange.id, request)
        self._began = time.monotonic()

    async def run(self) -> None:
        script = self._script
        if script.hang:
            await asyncio.sleep(FOREVER)
        if script.status is not None:
            await self._refuse(script.status)
        elif self._request.stream:
            await self._stream()
        else:
            await self._whole()

    async def _refuse(self, status: int) -> None:
        headers = []
        if self._script.retry_after is not None:
            headers.append((b"retry-after", f"{self._script.retry_after:g}".encode()))
        self._exchange.end("error")
        kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        await _answer(self._send, status, error_body(f"As the prompt asked: {status}.", kind), headers)

    def _calls(self) -> list[Json]:
        """The tool calls of this turn, if it is to be one."""
        turns, turn = self._script.turns, self._request.turn
        return [
            {
                "id": f"call_dev{self._exchange.id}_{number}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for number, (name, arguments) in enumerate(turns[turn] if turn < len(turns) else [])
        ]

    def _text(self) -> tuple[list[str], str]:
        words, most = self._script.words(), self._request.max_tokens
        return (words, "stop") if most is None or len(words) <= most else (words[:most], "length")

    def _pieces(self) -> tuple[list[str], list[bytes], str]:
        """The answer's tokens, as text or as chunks of tool calls (one of the two is empty), and why it ends."""
        calls = self._calls()
        if not calls:
            words, reason = self._text()
            return words, [], reason
        chunks = []
        for index, call in enumerate(calls):
            arguments = call["function"]["arguments"]
            cut = [arguments[start : start + ARGUMENT_PIECE] for start in range(0, len(arguments), ARGUMENT_PIECE)]
            chunks += [self._writer.call(index, call, piece) for piece in [None, *cut]]
        return [], chunks, "tool_calls"

    async def _wait_until(self, number: int) -> None:
        """Wait for the moment of token `number` (from 0), counted from the beginning so that delays don't add up."""
        first = self._script.delay if self._script.first is None else self._script.first
        due = self._began + first + number * self._script.delay
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _stream(self) -> None:
        script = self._script
        words, chunks, reason = self._pieces()
        total = len(words) or len(chunks)
        await self._wait_until(0)
        await self._send({"type": "http.response.start", "status": 200, "headers": [_EVENTS, _FRESH]})
        await self._push(self._writer.role(not chunks))
        for number in range(total + 1):
            if number == script.hang_after:
                await asyncio.sleep(FOREVER)
            if number == script.cut_after:
                self._exchange.end("cut")
                return  # the server closes a connection whose answer is not complete
            if number == total:
                break
            await self._wait_until(number)
            at = time.monotonic()
            await self._push(chunks[number] if chunks else self._writer.token(words[number]))
            await asyncio.sleep(0)  # the watcher's turn, before this token counts
            self._log.sent(self._exchange, at)
        self._exchange.end("done")
        await self._send({"type": "http.response.body", "body": self._writer.end(reason, total)})

    async def _whole(self) -> None:
        """All at once, when the last token would have come."""
        script = self._script
        words, chunks, reason = self._pieces()
        total = sent = len(words) or len(chunks)
        if script.hang_after is not None and script.hang_after <= total:
            await asyncio.sleep(FOREVER)
        cut = False
        if script.cut_after is not None and script.cut_after <= total:
            cut, sent = True, script.cut_after
        await self._wait_until(max(0, sent - 1))
        text = None if chunks else "".join(words).rstrip()
        body = self._writer.whole(text, self._calls(), reason, total)
        length = (b"content-length", str(len(body)).encode())
        await self._send({"type": "http.response.start", "status": 200, "headers": [_JSON, _FRESH, length]})
        if cut:
            await self._push(body[: len(body) // 2])
            self._exchange.end("cut")
            return
        self._log.sent(self._exchange, time.monotonic(), sent)
        self._exchange.end("done")
        await self._send({"type": "http.response.body", "body": body})

    async def _push(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _while_connected(exchange: Exchange, receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`, and stop it the moment its client has gone."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if exchange.how == "open":
            exchange.end("closed")
            gone = True
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await work()
    except asyncio.CancelledError:
        if not gone or task.uncancel() > 0:
            raise
    finally:
        watcher.cancel()


async def _read(receive: Receive) -> bytes | None:
    """The body (a little over the limit at most), or None when the client went first."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False) or len(body) > MAX_BODY:
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    lines: list[Any] = [_JSON, _FRESH, *(headers or [])]
    if status != 204:
        lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
