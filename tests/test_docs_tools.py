"""The guide to writing tools works word for word: its tool and its test are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from shared.tools import registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tools.md").read_text()


def test_the_guides_tool_passes_the_guides_test(tmp_path: Path) -> None:
    """Guards what a developer copies first."""
    tool, test = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "my_tools.py").write_text(tool)
    (tmp_path / "test_my_tools.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_guide_names_the_built_in_tools() -> None:
    """Guards against a tool that nobody finds."""
    (listed,) = re.findall(r"^Built in: (.*?)\n\n", PAGE, re.M | re.S)
    assert sorted(re.findall(r"`(\w+)`", listed)) == list(registry.names())
