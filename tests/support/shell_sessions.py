"""Shell sessions as a page shows them, run: each command's output must be the one that is shown.

What differs from run to run is told apart by its shape: an id (the same one wherever it is shown again), a time, a
duration. A `…` in what is shown stands for anything, on a line of its own for any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import ROOT, Block

SHOWN_ADDRESS = "http://127.0.0.1:7071"
SECONDS = 60
_MARK = "\x1e"
_SHAPES = {
    "id": r"\b01[0-9a-hjkmnp-tv-z]{24}\b",
    "time": r"\d{4}-\d\d-\d\d[ T][\d:.]+Z?",
    "took": r"\b\d+\.\d+ ?s\b",
}
_VARYING = re.compile("|".join(f"(?P<{name}>{shape})" for name, shape in _SHAPES.items()) + "|…")
_NOT_INHERITED = ("TRUESTOP_", "WEBSITE_", "OPENAI_", "PYTEST_")
_LEFT_OUT = (".venv", ".git", ".data", ".cache", "site", "local.settings.json")
"""What a reader's fresh tree doesn't have: a page that makes one must not write through to the real one."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a reader types, and what comes."""

    block: Block
    typed: str
    shown: str


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block: `console` shows them behind `$ ` with their output, `sh` alone, one a line."""
    if block.language == "sh":
        for line in block.text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield Command(block, line, "…")
        return
    typed: list[str] = []
    shown: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("> ") and typed and not shown:
            typed.append(line[2:])
        elif line.startswith("$ "):
            if typed:
                yield Command(block, "\n".join(typed), "\n".join(shown))
            typed, shown = [line[2:]], []
        else:
            assert typed, f"{block}: output before any command"
            shown.append(line)
    yield Command(block, "\n".join(typed), "\n".join(shown))


def checkout(folder: Path, files: list[Block]) -> Path:
    """A folder that looks like the reader's: the tree, the virtual environment, and the files that the page makes."""
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in _LEFT_OUT:
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)
    for file in files:
        assert file.title is not None
        (folder / file.title).write_text(file.text)
    return folder


def run(typed: list[Command], folder: Path, address: str) -> None:
    """Type the commands into one shell; raise `AssertionError` at the first whose output isn't as shown."""
    after = f"{{ ended=$?; printf '{_MARK}%s{_MARK}' $ended; [ $ended = 0 ] || exit; }}"
    script = "\n".join(f"{one.typed}\n{after}" for one in typed)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    shell = subprocess.Popen(
        ["bash", "-u", "-c", "exec 2>&1\n" + script.replace(SHOWN_ADDRESS, address)],
        cwd=folder,
        env={**environment, "HOME": str(folder), "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(SECONDS, shell.kill)
    killer.start()
    came, _ = shell.communicate()
    killer.cancel()
    said = came.replace(address, SHOWN_ADDRESS).split(_MARK)
    ids: dict[str, str] = {}
    for number, one in enumerate(typed):
        where = f"{one.block}: {one.typed}"
        assert len(said) > 2 * number + 1, f"{where}\nthe shell ended: {said[-1]}"
        output, status = said[2 * number], said[2 * number + 1]
        assert status == "0", f"{where}\nended with {status}:\n{output}"
        assert matches(one.shown, output, ids), f"{where}\nshown:\n{one.shown}\ncame:\n{output}"


def matches(shown: str, came: str, ids: dict[str, str]) -> bool:
    """Whether `came` is what is `shown`. `ids`: the real ids of those that were shown; grows."""
    pattern, at, groups = "", 0, {}
    for found in _VARYING.finditer(shown):
        pattern += re.escape(shown[at : found.start()])
        at = found.end()
        if found.lastgroup is None:
            whole_line = f"\n{shown}\n"[found.start() : found.end() + 2] == "\n…\n"
            if not whole_line:
                pattern += ".*"
            elif pattern.endswith("\\\n"):
                pattern = pattern.removesuffix("\\\n") + r"(?:\n[\s\S]*)?"  # any lines: also none
            else:
                pattern += r"[\s\S]*"
        elif found.lastgroup == "id" and found[0] in ids:
            pattern += re.escape(ids[found[0]])
        elif found.lastgroup == "id" and found[0] in groups:
            pattern += f"(?P={groups[found[0]]})"
        elif found.lastgroup == "id":
            groups[found[0]] = f"id{len(groups)}"
            pattern += f"(?P<{groups[found[0]]}>{_SHAPES['id']})"
        else:
            pattern += _SHAPES[found.lastgroup]
    pattern += re.escape(shown[at:])
    columns = re.sub(r"(?:\\ ){2,}", r"\\ {2,}", pattern)  # which are as wide as their longest value
    match = re.fullmatch(columns, came.rstrip("\n"))
    if match is None:
        return False
    ids.update({name: match[group] for name, group in groups.items()})
    return True
