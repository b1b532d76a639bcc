"""Log lines say which run and execution they are about.

The Functions worker hands on a log line's message and nothing else, so the ids go into the message.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_about: contextvars.ContextVar[str] = contextvars.ContextVar("truestop_log_about", default="")


@contextmanager
def about(run_id: str, execution_id: str | None = None) -> Iterator[None]:
    """What is logged inside is about this run, and this execution of it."""
    text = f" [run={run_id}]" if execution_id is None else f" [run={run_id} execution={execution_id}]"
    token = _about.set(text)
    try:
        yield
    finally:
        _about.reset(token)


def install() -> None:
    """Make every log record of this process say what it is about. Idempotent."""
    before = logging.getLogRecordFactory()
    if getattr(before, "says_about", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        if text := _about.get():
            record.msg = f"{record.getMessage()}{text}"
            record.args = ()
        return record

    factory.says_about = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
