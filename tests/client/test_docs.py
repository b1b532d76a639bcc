"""The client's page is run; the command line's (whose sessions `tests/docs` runs) names every command."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.client.test_cli import every_command
from tests.support.host import ROOT
from truestop.cli.session import Exit


def test_the_clients_page_runs_from_top_to_bottom(server: str, user: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards what people copy: the blocks, in order, as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/client.md").read_text(), re.M | re.S)
    assert len(blocks) >= 6
    namespace: dict[str, Any] = {}
    for block in blocks:
        text = block.replace("http://127.0.0.1:7071", server).replace('"demo"', f'"{user}"')
        exec(compile(text, "client.md", "exec"), namespace)
    namespace["client"].close()
    said = capsys.readouterr().out
    for expected in (
        "run.queued",
        "run.completed",
        f"was cancelled by {user}: bedtime",
        "On “Tell my daughter a story”",
        "cancelling ['model']",
        "True stopped",
        "changed my mind",
        "workflow_busy True",
    ):
        assert expected in said


CLI = (ROOT / "docs/cli.md").read_text()


def test_the_command_lines_page_names_every_command_and_exit_code() -> None:
    """Guards the reference: a command or an exit code without a line there fails, and so does a line too many."""
    groups = re.findall(r"^\| `(\w+)` \| ((?:`[\w-]+` ?)+)", CLI, re.M)
    documented = {(group, name) for group, names in groups for name in re.findall(r"`([\w-]+)`", names)}
    assert documented == {(path[0], path[1]) for path in every_command() if len(path) == 2}
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", CLI, re.M)}
    assert codes == set(Exit)
