"""The settings table is the only source: reading, samples and documentation agree with it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from shared.settings import TABLE, Settings, SettingsError, load

ROOT = Path(__file__).parents[1]


def test_every_setting_is_a_field_and_every_field_a_setting() -> None:
    """Guards against a setting that is read nowhere."""
    assert [s.name for s in TABLE] == [f"TRUESTOP_{f.name.upper()}" for f in fields(Settings)]


def test_the_sample_settings_name_settings_that_exist() -> None:
    """Guards the sample file."""
    values = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    unknown = {name for name in values if name.startswith("TRUESTOP_")} - {s.name for s in TABLE}
    assert unknown == set()


def test_the_reference_page_lists_the_table() -> None:
    """Guards `docs/reference/settings.md`."""
    page = (ROOT / "docs/reference/settings.md").read_text()
    rows = re.findall(r"^\| `(TRUESTOP_\w+)` \| (.*?) \| (.*) \|$", page, re.M)
    assert rows == [(s.name, "" if s.default is None else f"`{s.default}`", s.help) for s in TABLE]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUESTOP_POLL_SECONDS", "soon"),
        ("TRUESTOP_POLL_SECONDS", "0"),
        ("TRUESTOP_POLL_SECONDS", "nan"),
        ("TRUESTOP_ITEMS_MAX", "1.5"),
        ("TRUESTOP_FETCH_ALLOW_PRIVATE", "maybe"),
        ("TRUESTOP_STORE", "floppy"),
        ("TRUESTOP_STORAGE", "shelf"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name: str, value: str) -> None:
    """Guards that a typing error stops the app instead of being guessed at."""
    with pytest.raises(SettingsError, match=name):
        load({name: value})


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Guards against mending settings one start at a time."""
    with pytest.raises(SettingsError) as caught:
        load({"TRUESTOP_STORE": "cosmos", "TRUESTOP_POLL_SECONDS": "soon", "TRUESTOP_STORAGE": "shelf"})
    for name in ("TRUESTOP_COSMOS_ENDPOINT", "TRUESTOP_POLL_SECONDS", "TRUESTOP_STORAGE"):
        assert name in str(caught.value)
