"""Log lines say which run they are about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from shared import logs


@pytest.fixture
def installed() -> Iterator[None]:
    """The record factory, taken out again afterwards."""
    before = logging.getLogRecordFactory()
    logs.install()
    yield
    logging.setLogRecordFactory(before)


async def test_a_line_names_the_run_and_execution_of_its_own_task(
    installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards that concurrent operations don't sign each other's lines, and that percent signs in ids do no harm."""
    log = logging.getLogger("test")

    async def work(run: str) -> None:
        with logs.about(run, f"{run}:s01"):
            await asyncio.sleep(0)
            log.warning("%d%% done", 50)

    await asyncio.gather(work("a"), work("b%s"))
    log.warning("elsewhere")
    assert [record.getMessage() for record in caplog.records] == [
        "50% done [run=a execution=a:s01]",
        "50% done [run=b%s execution=b%s:s01]",
        "elsewhere",
    ]
