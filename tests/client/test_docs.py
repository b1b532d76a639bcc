"""The pages about the client and the command line: what they show is run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.host import ROOT


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
