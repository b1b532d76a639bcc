"""The guide to writing tools; its tool and its test are run with the sessions of the other pages."""

from __future__ import annotations

import re

from shared.tools import registry
from tests.support.pages import text_of


def test_the_guide_names_the_built_in_tools() -> None:
    """Guards against a tool that nobody finds."""
    (listed,) = re.findall(r"^Built in: (.*?)\n\n", text_of("docs/tools.md"), re.M | re.S)
    assert sorted(re.findall(r"`(\w+)`", listed)) == list(registry.names())
