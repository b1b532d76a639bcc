"""Every code block of every page is run or checked; one that can't be says why, and the reasons are listed here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.definitions import Definition, parse_definition
from shared.settings import load
from tests.support import shell_sessions
from tests.support.host import Host
from tests.support.pages import ROOT, Block, all_blocks, blocks, fences, pages

CANNOT_RUN = {
    "needs an Azure subscription": "tests reach no account, and make nothing that costs",
    "needs Azure Functions Core Tools": "they are no Python package, and devhost stands in for them",
    "runs in a browser": "it is part of a page that the reader writes",
}
SHELL = ("sh", "console")
CHECKED = (*SHELL, "json", "python", "js", "text")
RUN_ELSEWHERE = {"docs/client.md": "tests/client/test_docs.py"}
"""Pages whose Python another test runs, which looks closer at what it prints."""


def snippets(page: str) -> list[str]:
    """The page's Python that is no file."""
    return [one.text for one in blocks(page) if one.language == "python" and not (one.title or one.reason)]


WITH_SNIPPETS = [page for page in pages() if page not in RUN_ELSEWHERE and snippets(page)]
WITH_SESSIONS = [
    page for page in pages() if any(block.language in SHELL and not block.reason for block in blocks(page))
]
SECRET = "whsec_" + "QUJD" * 8
PLACEHOLDERS = {"secret": SECRET, "token": "t" * 32, "workflow_id": "0" * 26}


def of(*languages: str) -> list[Any]:
    """The blocks in these languages, as parameters."""
    return [pytest.param(block, id=str(block)) for block in all_blocks() if block.language in languages]


def test_every_block_is_found_and_is_of_a_kind_that_is_checked() -> None:
    """Guards against a block that slips past all of this: in an unknown language, indented, or in a quote."""
    for page in pages():
        found = blocks(page)
        assert fences(page) == 2 * len(found), f"{page}: a block that isn't at the margin, or never ends"
        for block in found:
            assert block.language in CHECKED, f"{block}: {block.language!r}"


def test_every_file_is_used() -> None:
    """Guards against a file that a page shows and does nothing with."""
    for page in pages():
        typed = "\n".join(block.text for block in blocks(page) if block.language in SHELL)
        for block in blocks(page):
            if block.title:
                assert block.title.removesuffix(".py") in typed, str(block)


def test_what_cannot_run_says_why() -> None:
    """Guards the list of reasons: it grows only on purpose."""
    assert {block.reason for block in all_blocks() if block.reason} == set(CANNOT_RUN)


@pytest.mark.parametrize("page", WITH_SESSIONS)
def test_the_pages_sessions_give_what_they_show(page: str, docs_host: Host, tmp_path: Path) -> None:
    """Guards the first thing that a reader does: copy a command, and compare what comes."""
    found = [block for block in blocks(page) if block.reason is None]
    typed = [one for block in found if block.language in SHELL for one in shell_sessions.commands(block)]
    folder = shell_sessions.checkout(tmp_path / "checkout", [block for block in found if block.title])
    logged = len(docs_host.log())
    shell_sessions.run([one for one in typed if not is_make(one.typed)], folder, docs_host.base_url)
    assert "ERROR" not in docs_host.log()[logged:]


def is_make(command: str) -> bool:
    """Whether a command is one of the Makefile's: those start hosts and suites, so they are checked by name instead."""
    return re.match(r"(\w+=\S+ )*make\b", command) is not None


def test_commands_of_make_are_the_makefiles() -> None:
    """Guards against a target or a variable that the Makefile doesn't have."""
    makefile = (ROOT / "Makefile").read_text()
    for block in all_blocks():
        if block.language in SHELL:
            for one in shell_sessions.commands(block):
                if is_make(one.typed):
                    words = one.typed.partition("#")[0].partition("make")[2].split()
                    for word in words:
                        name, given, _ = word.partition("=")
                        wanted = rf"\$\({name}\)" if given else rf"^{name}:"
                        assert re.search(wanted, makefile, re.M), f"{block}: {one.typed}"


@pytest.mark.parametrize("block", of("sh", "console"))
def test_commands_that_are_not_run_are_commands_at_least(block: Block) -> None:
    """Guards blocks that are marked: their quotes close."""
    script = "\n".join(one.typed for one in shell_sessions.commands(block))
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", WITH_SNIPPETS)
def test_a_pages_snippets_are_one_program(page: str, docs_host: Host, tmp_path: Path) -> None:
    """Guards Python that isn't a file of its page (the page's session runs those): it runs from top to bottom."""
    folder = shell_sessions.checkout(tmp_path / "checkout", [])
    program = "\n".join(snippets(page)).replace(shell_sessions.SHOWN_ADDRESS, docs_host.base_url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input=program,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=shell_sessions.SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "test"), sorted(RUN_ELSEWHERE.items()))
def test_snippets_that_another_test_runs_are_run_there(page: str, test: str) -> None:
    """Guards the list of pages whose Python has a test of its own."""
    assert page in (ROOT / test).read_text()


@pytest.mark.parametrize("block", of("json"))
def test_json_is_json_and_a_definition_is_one(block: Block) -> None:
    """Guards definitions, steps, triggers and parts of them: what a reader copies can be saved."""
    for value in values(block.text):
        # A file is sent by the session of its page, to a host that has the page's tools.
        if block.title is None and (definition := whole(value)):
            parse_definition(definition, load({}))


def values(text: str) -> Iterator[Any]:
    """The JSON values of a block, one after the other."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].lstrip()


def whole(value: Any) -> dict[str, Any] | None:
    """The definition that `value` is, or is a part of; None if it is something else."""
    if not isinstance(value, dict):
        return None
    value = filled(value)
    if "kind" in value and "name" in value:
        value = {"steps": [value]}
    if not value or not set(value) <= set(Definition.model_fields):
        return None
    named = {step.get("name") for step in value.get("steps", [])}
    earlier = {name for name in re.findall(r"\{\{steps\.(\w+)", json.dumps(value)) if name not in named}
    needed = [{"kind": "model", "name": name, "prompt": "p"} for name in sorted(earlier) or ["any"]]
    steps = [*needed, *value["steps"]] if earlier and "steps" in value else value.get("steps", needed)
    return {"name": "A page's", **value, "steps": steps}


def filled(value: Any, key: str = "") -> Any:
    """`value` with something in the place of each `…`."""
    if isinstance(value, dict):
        return {name: filled(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, key) for inner in value]
    return PLACEHOLDERS.get(key, value) if isinstance(value, str) and "…" in value else value
