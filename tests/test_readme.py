"""The README's first screen works word for word: its commands run, and what it shows is what comes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from devhost import demo
from tests.support.host import ROOT, Host
from tests.support.waiting import eventually

SHELL_SECONDS = 60


def console_blocks() -> list[str]:
    """The README's console sessions."""
    return re.findall(r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def commands(block: str) -> list[str]:
    """What a reader types."""
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


async def test_the_readmes_sessions_give_what_they_show(tmp_path: Path) -> None:
    """Guards the first thing that a newcomer does."""
    host = Host(tmp_path / "data").start()
    try:
        await demo.seed(host.base_url)
        first, second = console_blocks()
        typed = commands(first) + commands(second)
        script = "\n".join(typed).replace("http://127.0.0.1:7071", host.base_url)
        done = subprocess.run(
            ["bash", "-eu", "-c", script],
            capture_output=True,
            text=True,
            timeout=SHELL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout
        assert '"status": "queued"' in said
        assert '"status": "cancelling"' in said
        assert '"reason": "seen enough"' in said
        assert '"kind": "model_call"' in said
        assert re.search(r'"status": "cancelled".*"outcome": "stopped"', said, re.S)
        assert '"how":"closed"' in said
        assert re.search(r'^"id":"\w{26}"$', said, re.M)
        await eventually(lambda: "ERROR" not in host.log())
    finally:
        host.stop()


def test_the_first_screen_names_the_two_commands() -> None:
    """Guards that they stay where a reader looks first, and that the Makefile has them."""
    top = "\n".join((ROOT / "README.md").read_text().splitlines()[:12])
    makefile = (ROOT / "Makefile").read_text()
    for command in ("run", "test"):
        assert f"make {command} " in top
        assert re.search(rf"^{command}: ", makefile, re.M)
