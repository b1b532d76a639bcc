"""Worker processes beside the host: they run orchestrations and activities on the same data, and nothing else.

The host starts them, starts another for each that dies, and ends them with itself. Each holds the end of a pipe from the
host: whichever way the host ends, the pipe does too, and the worker follows. A worker needs no address: what it calls is
at the host's, and what it has to do is in the data.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence

log = logging.getLogger("devhost.workers")

STEADY_SECONDS = 3.0
"""A worker that lived so long had started well."""
MOST_FAILURES = 8
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
STOP_SECONDS = 3.0


class Workers:
    """Keeps `count` processes of `command` running."""

    def __init__(self, count: int, command: Sequence[str]) -> None:
        self._count, self._command = count, command
        self._running: set[Process] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set; then end them, by force if they take over 3 seconds."""
        keepers = [asyncio.create_task(self._keep(number)) for number in range(1, self._count + 1)]
        await stopping.wait()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await asyncio.gather(*(_end(process) for process in self._running))

    async def _keep(self, number: int) -> None:
        failures = 0
        while failures < MOST_FAILURES:
            began = asyncio.get_running_loop().time()
            # A session of its own, as Ctrl+C in the terminal is for the host alone, which then stops its workers.
            process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, start_new_session=True)
            self._running.add(process)
            log.info("worker %d is process %d", number, process.pid)
            code = await process.wait()
            self._running.discard(process)
            lived = asyncio.get_running_loop().time() - began
            failures = 0 if lived >= STEADY_SECONDS else failures + 1
            log.warning("worker %d (process %d) ended with %d after %.1f s", number, process.pid, code, lived)
            await asyncio.sleep(min(FIRST_PAUSE_SECONDS * 2**failures, LONGEST_PAUSE_SECONDS))
        log.error("worker %d ended %d times in a row soon after its start; going on without it", number, failures)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            log.warning("worker process %d did not end within %g s and is killed", process.pid, STOP_SECONDS)
            process.kill()
            await process.wait()


def follow_host(stop: Callable[[], None]) -> None:
    """In a worker: call `stop` (from a thread) once the host that started this process is gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        stop()

    threading.Thread(target=wait, name="follow the host", daemon=True).start()
