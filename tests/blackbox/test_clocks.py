"""Processes whose clocks differ: by a minute, sixty times the fence, so that comparing clocks anywhere would show."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, ModelLog
from tests.support.promise import assert_ended_whole, assert_promise_kept, assert_workflow_free, cancel
from tests.support.waiting import eventually_sync

OFF_BY = """
import os, sys, time

if "--worker" in sys.orig_argv:
    import time_machine
    time_machine.travel(time.time() + float(os.environ["CLOCK_IS_AHEAD_BY"]), tick=True).start()
"""
RUNS = 6


@pytest.mark.parametrize("ahead", [60, -60])
def test_processes_whose_clocks_differ_agree_on_everything_else(
    start_host: StartHost, tmp_path: Path, ahead: int
) -> None:
    """Guards heartbeats, takeover, cancel and settling: each counts on its own clock, and the store orders the rest."""
    (tmp_path / "sitecustomize.py").write_text(OFF_BY)
    host = start_host(workers=2, PYTHONPATH=str(tmp_path), CLOCK_IS_AHEAD_BY=str(ahead), TRUESTOP_FENCE_SECONDS="1")
    with new_client(host.base_url) as client:
        apis = [Api(client) for _ in range(RUNS)]
        models = {api.user: ModelLog(client, api.user, processes=3) for api in apis}
        steps = [{"kind": "model", "prompt": f"[[tokens=5000 delay=5ms key={api.user}]]Go"} for api in apis]
        runs = [api.workflow(step, grace_seconds=300).start() for api, step in zip(apis, steps, strict=True)]
        for model in models.values():
            model.streaming()
        begun = [one["started_at"] for run in runs for one in run.executions().values()]
        assert max(begun) > min(begun), "the work was shared by clocks that differ"
        time.sleep(1.2)  # not waiting for anything: every heartbeat is older than a fence, and yet nothing has expired
        assert [len(model.entries()) for model in models.values()] == [1] * RUNS
        host.kill_worker()
        for model in models.values():
            eventually_sync(lambda model=model: model.entries()[-1]["how"] == "open", 20, "all are at work again")
        for run, model in zip(runs, models.values(), strict=True):
            _, answered = cancel(run)
            run.wait("cancelled")
            assert_promise_kept(run, model, answered)
        following = apis[0].workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}).run()
        assert assert_ended_whole(following)["status"] == "completed"
        assert_workflow_free(following)
