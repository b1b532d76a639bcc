"""The pages of the documentation, and the code blocks on them.

A block is run or checked by what it is (`tests/docs`). One that can't be is marked, on the line before it, with a reason:
`<!-- not run: needs an Azure subscription -->`. Backticks with a title (`python title="my_tools.py"`) are a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
_TITLE = re.compile(r' title="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page."""

    page: str
    line: int
    language: str
    title: str | None
    """The file that it is, if it is one."""
    reason: str | None
    """Why it can't be run, if it can't."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page, by its path in the tree."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md"))]


def text_of(page: str) -> str:
    """What is written on a page."""
    return (ROOT / page).read_text("utf-8")


def blocks(page: str) -> list[Block]:
    """The page's code blocks, in order."""
    text = text_of(page)
    found = []
    for match in _FENCE.finditer(text):
        language, _, more = match["info"].partition(" ")
        title = _TITLE.fullmatch(f" {more}") if more else None
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, title and title[1], match["reason"], match["text"]))
    return found


def all_blocks() -> list[Block]:
    """Every page's."""
    return [block for page in pages() for block in blocks(page)]


def fences(page: str) -> int:
    """How many lines of a page open or close a block, wherever they stand."""
    return len(re.findall(r"^[ >]*(?:```|~~~)", text_of(page), re.M))
