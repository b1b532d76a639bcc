"""The site builds strictly, and needs nobody else's server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.support.pages import DOCS, ROOT, pages, text_of

CONFIGURATION = ROOT / "mkdocs.yml"

FETCHED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
}


class Fetches(HTMLParser):
    """What a browser fetches when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the address that this element loads."""
        given = dict(attrs)
        if tag in FETCHED and (address := given.get(FETCHED[tag])) and given.get("rel") != "canonical":
            self.found.append(address)


def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Guards against a link or an anchor that leads nowhere, and against a reader whom somebody counts."""
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(CONFIGURATION, tmp_path)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--config-file", CONFIGURATION.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = list((tmp_path / "site").rglob("*.html"))
    assert len(shown) > 30
    for page in shown:
        parser = Fetches()
        parser.feed(page.read_text("utf-8"))
        elsewhere = [address for address in parser.found if urlsplit(address).netloc]
        assert parser.found
        assert not elsewhere, (page.name, elsewhere)
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text("utf-8")), sheet.name


def entries(nav: list[Any]) -> Iterator[str]:
    """The pages of a table of contents."""
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from entries(value)
        else:
            yield value


def test_every_page_can_be_found() -> None:
    """Guards against a page that is in no table of contents; decisions have a table of their own."""
    listed = list(entries(yaml.safe_load(CONFIGURATION.read_text())["nav"]))
    decisions = [f"decisions/{name}" for name in re.findall(r"\]\(([\w-]+\.md)\)", text_of("docs/decisions/README.md"))]
    found = sorted([*listed, *decisions])
    assert found == sorted(page.removeprefix("docs/") for page in pages() if page.startswith("docs/"))
