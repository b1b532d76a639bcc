"""The README's first screen; its sessions are run with those of the other pages."""

from __future__ import annotations

import re

from shared.steps import STEP_KINDS
from tests.support.pages import ROOT, text_of


def test_the_first_screen_names_the_two_commands() -> None:
    """Guards that they stay where a reader looks first, and that the Makefile has them."""
    top = "\n".join(text_of("README.md").splitlines()[:12])
    makefile = (ROOT / "Makefile").read_text()
    for command in ("run", "test"):
        assert f"make {command} " in top
        assert re.search(rf"^{command}: ", makefile, re.M)


def test_links_of_the_readme_lead_somewhere() -> None:
    """Guards its links; those of the other pages are checked when the site is built."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of("README.md")):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_the_readme_lists_every_kind_of_step() -> None:
    """Guards against a kind that nobody finds."""
    listed = re.findall(r"^\| `(\w+)` \|", text_of("README.md"), re.M)
    assert len(listed) == len(STEP_KINDS)
    assert set(listed) == STEP_KINDS
