"""How runs and receipts look in a notebook. Everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truestop.models import Receipt, RunState

_COLOURS = {"completed": "#1a7f37", "failed": "#cf222e", "running": "#0969da", "cancelling": "#9a6700"}
_NEUTRAL = "#6e7781"


def run_html(run: RunState) -> str:
    """A run as a small table, with its receipt when it was cancelled."""
    rows = [
        ("run", f"<code>{escape(run.id)}</code>"),
        ("status", _badge(run.status)),
        ("started", _time(run.started_at)),
        ("ended", _time(run.ended_at)),
    ]
    if run.error:
        rows.append(("error", f"{escape(run.error.message)} <code>{escape(run.error.code)}</code>"))
    if run.output_preview:
        rows.append(("output", f'<pre style="white-space:pre-wrap;margin:0">{escape(run.output_preview[:2000])}</pre>'))
    return _table(rows) + (receipt_html(run.cancel) if run.cancel else "")


def receipt_html(receipt: Receipt) -> str:
    """A receipt: asked by whom and why, how it went, what was in flight, and what others can see of the run."""
    by = receipt.requested_by
    rows = [
        ("cancel of", f"<code>{escape(receipt.run_id)}</code> {_badge(receipt.status)}"),
        ("asked by", f"{escape((by and (by.name or by.id)) or 'nobody')} ({escape(receipt.source)})"),
        ("reason", escape(receipt.reason or "none given")),
        (
            "asked, seen, stopped",
            " → ".join(map(_time, (receipt.requested_at, receipt.observed_at, receipt.stopped_at))),
        ),
        ("in flight", _list(f"{one.kind} {one.name}: {one.outcome or 'being stopped'}" for one in receipt.in_flight)),
        (
            "done before",
            _list(f"{one.kind} {one.what}" + ("" if one.done else " (perhaps)") for one in receipt.side_effects),
        ),
    ]
    if receipt.acknowledged is False:
        rows.append(("not acknowledged", "something had to be left behind"))
    return _table(rows)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th><td style="text-align:left">{value}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _badge(status: str) -> str:
    return f'<strong style="color:{_COLOURS.get(status, _NEUTRAL)}">{escape(status)}</strong>'


def _time(moment: datetime | None) -> str:
    return "–" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _list(lines: Iterable[str]) -> str:
    return "<br>".join(map(escape, lines)) or "nothing"
