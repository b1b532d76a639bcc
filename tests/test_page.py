"""How the page is served: one document, files that are kept, and a policy that allows nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from http_triggers import page
from http_triggers.page import WEB, load

ROOT = Path(__file__).parents[1]
MAX_WEIGHT = 200 * 1024
MAX_LINES = 250


def test_the_page_weighs_less_than_two_hundred_kilobytes() -> None:
    """Guards the quickness of the page: all of it, uncompressed."""
    assert sum(path.stat().st_size for path in WEB.iterdir()) < MAX_WEIGHT


def test_modules_are_small_and_ask_nobody_else() -> None:
    """Guards against a module that nobody can read, markup made of text, and requests to third parties."""
    for path in WEB.glob("*.js"):
        source = path.read_text("utf-8")
        assert source.count("\n") <= MAX_LINES, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source), (
            path.name
        )
    for path in WEB.iterdir():
        found = re.findall(r"https?://[^\s\"'`)]+", path.read_text("utf-8"))
        assert [one for one in found if not one.startswith(("http://www.w3.org/", "https://example.org"))] == [], (
            path.name
        )


def test_every_module_that_is_loaded_exists_and_is_loaded_by_one() -> None:
    """Guards against an import of nothing, and a file that is shipped for nothing."""
    named = {name for path in WEB.glob("*.js") for name in re.findall(r'"\./([a-z-]+\.js)"', path.read_text("utf-8"))}
    assert named | {"main.js"} == {path.name for path in WEB.glob("*.js")}


def test_the_document_names_its_files_by_version_and_has_nothing_inline() -> None:
    """Guards the policy that the document is served with, and that a browser never mixes two versions."""
    served = load()
    document = served.document.decode()
    assert "{" not in document
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", document)
    for path in re.findall(r'(?:href|src)="(/assets[^"]*)"', document):
        assert path.startswith(f"/assets/{served.version}/")
        assert path.rsplit("/", 1)[-1] in served.files
    assert "modulepreload" in document


def test_another_file_is_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards caches: a version that stayed the same would show the old page for a year."""
    for path in WEB.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "base.css").write_bytes(b"/* other */")
    before = load().version
    monkeypatch.setattr(page, "WEB", tmp_path)
    assert page.load.__wrapped__().version != before


def test_the_package_for_azure_holds_the_page() -> None:
    """Guards a deployment without its page."""
    assert "web" not in (ROOT / ".funcignore").read_text("utf-8").split()
