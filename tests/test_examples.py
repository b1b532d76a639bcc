"""The examples run, and print what their page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.host import ROOT, Host

EXAMPLES = ROOT / "docs/examples"


def test_the_researcher_is_cancelled_in_the_middle_and_resumed(tmp_path: Path) -> None:
    """Guards the worked example, word for word: agents, a cancel in a sub-agent's stream, and a resume that reuses."""
    (shown,) = re.findall(
        r"^```console\n\$ [^\n]*researcher.py\n(.*?)^```", (EXAMPLES / "README.md").read_text(), re.M | re.S
    )
    host = Host(tmp_path / "data").start()
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "researcher.py"), host.base_url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        host.stop()
    assert (done.returncode, done.stderr) == (0, ""), host.log()[-4000:]
    assert done.stdout == shown
