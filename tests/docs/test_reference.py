"""The reference pages say what the source says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from shared.names import EventType
from tests.docs import tables
from tests.support.pages import ROOT, pages, text_of

EVENTS = "docs/reference/events.md"
WRITERS = {"event": 1, "terminal_event": 1, "repair_event": 1}
"""What writes an event of a run, and where its type is among the arguments."""


@pytest.mark.parametrize("page", [page for page in pages() if tables.MARKED.search(text_of(page))])
def test_tables_are_what_the_source_writes(page: str) -> None:
    """Guards reference tables; `python -m tests.docs.tables` brings them up to date."""
    assert tables.up_to_date(text_of(page)) == text_of(page)


def test_every_table_is_shown_once() -> None:
    """Guards against a table that no page has."""
    shown = [name for page in pages() for _, name, _ in tables.MARKED.findall(text_of(page))]
    assert sorted(shown) == sorted(tables.TABLES)


def test_the_page_of_events_lists_every_type() -> None:
    """Guards `docs/reference/events.md`, both ways."""
    assert set(re.findall(r"`([a-z]+\.[a-z_]+)`", text_of(EVENTS))) == {str(one) for one in EventType}


def test_the_page_of_events_names_their_data() -> None:
    """Guards the names that a reader of events relies on, as far as the source spells them out where it writes one."""
    rows = dict(re.findall(r"^\| `([a-z.]+)` \| .*? \| (.*)\|$", text_of(EVENTS), re.M))
    written = list(data_written())
    assert len(written) > 10
    for event, name in written:
        assert f"`{name}`" in rows[event], (event, name)


def data_written() -> Iterator[tuple[str, str]]:
    """Each event's type with a name of its data."""
    for package in ("shared", "activities"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WRITERS:
                    kind = node.args[WRITERS[node.func.id]]
                    if isinstance(kind, ast.Attribute) and isinstance(kind.value, ast.Name):
                        assert kind.value.id == "EventType"
                        for keyword in node.keywords:
                            if keyword.arg is not None:
                                yield str(EventType[kind.attr]), keyword.arg
