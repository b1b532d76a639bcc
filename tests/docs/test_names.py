"""What pages name exists: settings, files, tests, routes, targets of make."""

from __future__ import annotations

import re
from functools import cache

import pytest

from devhost.functions import load_app
from shared.settings import TABLE
from tests.support.pages import ROOT, pages, text_of

NOT_OURS = {"docs/comparison.md"}
"""Pages that name other projects' files."""
OTHER_SETTINGS = re.compile(r"TRUESTOP_(TEST_\w+|SERVER|TOKEN|USER|GROUP|CONFIG)")
"""What tests and clients read, which is no setting of the app."""
FILE = re.compile(
    r"`((?:activities|bench|devhost|docs|event_triggers|http_triggers|orchestrators|shared|tests|truestop|web)/"
    r"[\w./-]*\w)(?:::(\w+))?`"
)
ROUTE = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/api/[^`?\s]*|\{base\}/[^`?\s]*)")


@cache
def served() -> set[tuple[str, str]]:
    """Every route of the app, with `{}` for its parameters."""
    found = [one for one in load_app(ROOT) if one.kind == "httpTrigger"]
    return {(one.trigger.methods[0].value, shape(f"/{one.trigger.route}")) for one in found}


def shape(path: str) -> str:
    """A path without the names of its parameters, and of both scopes."""
    path = re.sub(r"^\{base\}/", "/api/user/workflows/", path)
    return re.sub(r"\{\*?\w+\}", "{}", path.replace("/api/group/", "/api/user/"))


@pytest.mark.parametrize("page", pages())
def test_settings_exist(page: str) -> None:
    """Guards against a setting that was renamed."""
    known = {setting.name for setting in TABLE}
    for name in re.findall(r"\bTRUESTOP_[A-Z_]+\b(?!\*)", text_of(page)):
        assert name in known or OTHER_SETTINGS.fullmatch(name), name


@pytest.mark.parametrize("page", [page for page in pages() if page not in NOT_OURS])
def test_files_and_tests_exist(page: str) -> None:
    """Guards against a file that has moved, and a proof that is gone."""
    for path, test in FILE.findall(text_of(page)):
        if test:
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.M), f"{path}::{test}"
        else:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", pages())
def test_routes_exist(page: str) -> None:
    """Guards against a route that is served no more."""
    for method, path in ROUTE.findall(text_of(page)):
        if "…" not in path:
            wanted = shape(path)
            assert any(method == verb and re.fullmatch(pattern_of(route), wanted) for verb, route in served()), path


def pattern_of(route: str) -> str:
    """What a path of a page may look like to mean this route: its parameters named, or filled in."""
    tail = "(/.*)?" if route.endswith("documents/{}") or route.endswith("artifacts/{}") else None
    start = route.removesuffix("/{}") if tail else route
    return re.escape(start).replace(r"\{\}", "[^/]+") + (tail or "")


@pytest.mark.parametrize("page", pages())
def test_targets_of_make_exist(page: str) -> None:
    """Guards against a command that the Makefile lacks."""
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", text_of(page)):
        assert re.search(rf"^{target}:", makefile, re.M), target
