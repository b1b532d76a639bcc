"""A devhost of the benchmark's own, and an HTTP client for it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[1]
STARTED = re.compile(r"http://[\d.]+:\d+")
UNLIMITED = {f"TRUESTOP_{name}_PER_MINUTE": "1000000" for name in ("STARTS", "CANCELS")} | {
    f"TRUESTOP_{name}_MAX": "1000" for name in ("WORKFLOWS", "USER_RUNS")
}
"""The service is measured, not its limits."""
START_SECONDS = 30.0
STOP_SECONDS = 10.0
USER = {"X-Truestop-Dev-User": "bench"}

Json = dict[str, Any]


class Client:
    """What the benchmarks ask of the API."""

    def __init__(self, session: aiohttp.ClientSession, pid: int, data: Path) -> None:
        self.session, self.pid, self.data = session, pid, data

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request: status and parsed answer."""
        async with self.session.request(method, path, json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def workflow(self, *steps: Json) -> str:
        """A new workflow; answers its path."""
        named = [{"name": f"step{i}", **step} for i, step in enumerate(steps)]
        status, workflow = await self.call("POST", "/api/user/workflows", {"name": "bench", "steps": named})
        assert status == 201, workflow
        return f"/api/user/workflows/{workflow['id']}"

    async def model_log(self, after: int = 0) -> list[Json]:
        """Every request that the scripted model got, later than that with the id `after`."""
        _, log = await self.call("GET", f"/dev/model/log?after={after}")
        return list(log["items"] if isinstance(log, dict) else log)

    async def until(self, path: str, done: Callable[[Json], bool], pause: float = 0.002) -> Json:
        """Poll `path` until `done` says so."""
        for _ in range(int(30 / pause)):
            _, answer = await self.call("GET", path)
            if done(answer):
                return dict(answer)
            await asyncio.sleep(pause)
        raise TimeoutError(f"{path} did not get there: {answer}")


@asynccontextmanager
async def running_host(workers: int = 0) -> AsyncIterator[Client]:
    """Start a host on a folder of its own, with so many workers; stop it by its process id."""
    data = Path(tempfile.mkdtemp(prefix="truestop-bench-"))
    command = [sys.executable, "-m", "devhost", "--port", "0", "--data", str(data), "--workers", str(workers)]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **UNLIMITED},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            while not (found := STARTED.search((await process.stdout.readline()).decode())):
                pass
        connector = aiohttp.TCPConnector(limit=200)
        async with aiohttp.ClientSession(found.group(), headers=USER, connector=connector) as session:
            yield Client(session, process.pid, data)
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        shutil.rmtree(data, ignore_errors=True)
