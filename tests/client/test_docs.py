"""The pages about the client and the command line: what they show is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
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


def test_the_command_lines_page_runs_from_top_to_bottom(server: str, user: str, tmp_path: Path) -> None:
    """Guards what people copy: the sessions, in order, in one shell; what is shown is what comes."""
    blocks = re.findall(r"^```console\n(.*?)^```", CLI, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    script = "\n".join(line[2:] for line in lines if line.startswith("$ "))
    script = script.replace("http://127.0.0.1:7071", server).replace("=demo", f"={user}")
    command = f'truestop() {{ "{sys.executable}" -m truestop "$@"; }}\n{script}'
    environment = {**os.environ, "TRUESTOP_CONFIG": str(tmp_path / "none.toml")}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shown in [line for line in lines if not line.startswith("$ ")]:
        assert shown in done.stdout.splitlines()


def test_the_command_lines_page_names_every_command_and_exit_code() -> None:
    """Guards the reference: a command or an exit code without a line there fails, and so does a line too many."""
    groups = re.findall(r"^\| `(\w+)` \| ((?:`[\w-]+` ?)+)", CLI, re.M)
    documented = {(group, name) for group, names in groups for name in re.findall(r"`([\w-]+)`", names)}
    assert documented == {(path[0], path[1]) for path in every_command() if len(path) == 2}
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", CLI, re.M)}
    assert codes == set(Exit)
