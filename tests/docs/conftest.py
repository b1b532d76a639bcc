"""One host for all pages: what `make run` starts, with the tools that the tutorial writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from devhost import demo
from tests.support.host import Host
from tests.support.pages import blocks

TUTORIAL = "docs/tutorial.md"


@pytest.fixture(scope="session")
def docs_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with demo data, and the tutorial's tool module beside it."""
    folder = tmp_path_factory.mktemp("docs")
    modules = [block for block in blocks(TUTORIAL) if (block.title or "").endswith("_tools.py")]
    tools = folder / "tools"
    tools.mkdir()
    for module in modules:
        assert module.title is not None
        (tools / module.title).write_text(module.text)
    names = ",".join(str(module.title).removesuffix(".py") for module in modules)
    host = Host(folder / "data", {"TRUESTOP_TOOL_MODULES": names, "PYTHONPATH": str(tools)}).start()
    try:
        asyncio.run(demo.seed(host.base_url))
        yield host
    finally:
        host.stop()
