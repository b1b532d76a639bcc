"""What a page shows matches what comes, and nothing else: the tests of all pages depend on it."""

from __future__ import annotations

import pytest

from tests.support.shell_sessions import matches

ID, OTHER = "01m7z5qn0ywe1m1q0fqzwc0aqm", "01m7z66fvg8dp67eq8vw94d66j"


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ("up", "up\n"),
        (f"{ID} and {ID}", f"{OTHER} and {OTHER}"),
        ("at 2026-11-21T09:30:00.123Z", "at 2027-01-02T10:00:00.000Z"),
        ("took  6.0 s  why", "took   10.1 s  why"),
        ("a\n…\nb", "a\n1\n2\nb"),
        ("a\n…", "a"),
        ("a\n…", "a\nb"),
        ('"text": "…",', '"text": "what came",'),
    ],
)
def test_what_differs_from_run_to_run_is_taken_as_shown(shown: str, came: str) -> None:
    """Guards against pages that fail by chance."""
    assert matches(shown, came, {})


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ("cancelled", "cancelling"),
        ("a", "a\nb"),
        ("a\n…", "ab"),
        (f"{ID} and {ID}", f"{OTHER} and {ID}"),
        ("at 2026-11-21T09:30:00.123Z", "at noon"),
        ('"text": "…",', '"text": "what\ncame",'),
        ("a.c", "abc"),
        ("", "an error"),
    ],
)
def test_anything_else_is_not(shown: str, came: str) -> None:
    """Guards against pages that can't fail."""
    assert not matches(shown, came, {})


def test_an_id_is_the_same_one_on_the_whole_page() -> None:
    """Guards against a page that shows one run and talks of another."""
    ids: dict[str, str] = {}
    assert matches(f"run {ID}", f"run {OTHER}", ids)
    assert matches(f"again {ID}", f"again {OTHER}", ids)
    assert not matches(f"again {ID}", f"again {ID}", ids)
