"""How answers look in a terminal. Statuses are neutral: only a failure is red."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from rich.table import Table
from rich.text import Text

from truestop.models import Receipt, RunState

STYLES = {
    "completed": "green",
    "failed": "red",
    "running": "blue",
    "queued": "blue",
    "cancelling": "yellow",
    "down": "red",
}


def status(word: str) -> Text:
    """A status in its colour."""
    return Text(word, STYLES.get(word, "dim"))


def plain(value: object) -> Text:
    """Anything, as text that is never taken for markup and has no control characters."""
    text = "–" if value is None else value if isinstance(value, str) else str(value)
    return Text("".join(one if one.isprintable() else " " for one in text))


def when(moment: datetime | None) -> str:
    """A time in the reader's zone."""
    return "–" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lasted(begin: datetime | None, end: datetime | None = None) -> str:
    """How long something took, or has taken until now."""
    if begin is None:
        return "–"
    seconds = max(0.0, ((end or datetime.now(timezone.utc)) - begin).total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def table(columns: Sequence[str], rows: Iterable[Sequence[Text | str | None]]) -> Table:
    """A table without a frame. Its first column, an id, and statuses stay whole; the others give way."""
    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, no_wrap=column in (columns[0], "status"), overflow="fold")
    for row in rows:
        found.add_row(*(one if isinstance(one, Text) else plain(one) for one in row))
    return found


def facts(rows: Iterable[tuple[str, Text | str | None]]) -> Table:
    """Names and values, one a line."""
    found = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    found.add_column(no_wrap=True, style="bold")
    found.add_column(overflow="fold")
    for name, value in rows:
        found.add_row(name, value if isinstance(value, Text) else plain(value))
    return found


def run_facts(run: RunState) -> Table:
    """A run."""
    counts = ", ".join(f"{number} {name}" for name, number in (run.counts or {}).items() if number and name != "total")
    rows: list[tuple[str, Text | str | None]] = [
        ("run", run.id),
        ("workflow", run.workflow_id),
        ("status", status(run.status)),
        (
            "started by",
            f"{run.requested_by.name or run.requested_by.id if run.requested_by else '–'} ({_trigger(run)})",
        ),
        ("started", when(run.started_at or run.created_at)),
        ("took", lasted(run.started_at, run.ended_at)),
    ]
    if counts:
        rows.append(("executions", counts))
    if run.error:
        rows.append(("error", f"{run.error.message} ({run.error.code})"))
    if run.output_preview:
        rows.append(("output", Text(_printable(run.output_preview[:4000]))))
    return facts(rows)


def receipt_facts(receipt: Receipt) -> Table:
    """A receipt."""
    by = receipt.requested_by
    rows: list[tuple[str, Text | str | None]] = [
        ("run", receipt.run_id),
        ("status", status(receipt.status)),
        ("asked by", f"{(by and (by.name or by.id)) or 'nobody'} ({receipt.source})"),
        ("reason", receipt.reason),
        ("asked", when(receipt.requested_at)),
        ("seen", when(receipt.observed_at)),
        ("stopped", when(receipt.stopped_at)),
    ]
    rows += [("in flight", f"{one.kind} {one.name}: {one.outcome or 'being stopped'}") for one in receipt.in_flight]
    rows += [
        ("done before", f"{one.kind} {one.what}" + ("" if one.done else " (perhaps)")) for one in receipt.side_effects
    ]
    if receipt.acknowledged is False:
        rows.append(("not acknowledged", "something had to be left behind"))
    return facts(rows)


def _trigger(run: RunState) -> str:
    return str(run.trigger.get("kind", "?")) if isinstance(run.trigger, dict) else "?"


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text)
