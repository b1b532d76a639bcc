"""Timer triggers: on time, one at a time, past due after a stop, in one of several processes, and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest
import pytest_asyncio

from devhost.bindings import BadBinding
from devhost.local_settings import HostSettings
from devhost.triggers.calls import Caller
from devhost.triggers.leader import Leadership, NotLeader
from devhost.triggers.schedules import parse_schedule
from devhost.triggers.service import Triggers
from devhost.triggers.timer import SCHEMA, Status, Timer, read_status, status_at_start, timer_request
from shared.sqlite import Database
from tests.devhost_serving import leading, lines, write_app
from tests.durable_host import functions_of
from tests.support.waiting import eventually_sync
from tests.test_devhost_host import Running, refused, started
from tests.test_devhost_workers import processes

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HEAD = "seen = []\n"


class Clock:
    """A clock that only a timer's own sleep moves. It stands still at `until`."""

    def __init__(self, until: datetime, begin: datetime = NOON) -> None:
        self.now, self.until = begin, until
        self.at_the_end = asyncio.Event()

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        if self.now >= self.until:
            self.at_the_end.set()
            await asyncio.Event().wait()


class Bench:
    """A database with a hub of one process, which leads."""

    def __init__(self, database: Database, leadership: Leadership, path: Path) -> None:
        self.database, self.leadership, self._path = database, leadership, path

    def functions(self, source: str) -> Any:
        return functions_of(write_app(self._path / "app", HEAD + source))

    async def run(
        self, source: str, until: datetime, begin: datetime = NOON
    ) -> list[tuple[datetime, func.TimerRequest]]:
        """What a timer is told, and when, until the clock says `until`."""
        (function,) = self.functions(source)
        clock = Clock(until, begin)
        seen: list[tuple[datetime, func.TimerRequest]] = []
        function.function.__globals__["told"] = lambda request: seen.append((clock.now, request))
        function.function.__globals__["clock"] = clock
        timer = Timer(Caller(function, ""), self.database, self.leadership, now=clock, sleep=clock.sleep)
        task = asyncio.create_task(timer.run())
        ended = asyncio.create_task(clock.at_the_end.wait())
        await asyncio.wait({task, ended}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert clock.at_the_end.is_set(), task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seen


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with leading(tmp_path, SCHEMA) as (database, leadership):
        yield Bench(database, leadership, tmp_path)


def timer(schedule: str, more: str = "", body: str = "told(t)") -> str:
    return (
        f'@app.timer_trigger(arg_name="t", schedule="{schedule}"{more})\n'
        f"def tick(t: func.TimerRequest) -> None:\n    {body}\n"
    )


async def test_a_timer_fires_at_its_times_and_stores_the_next(bench: Bench) -> None:
    """Guards the whole loop: the first time, the one after, and what a restart will find."""
    seen = await bench.run(timer("0 */5 * * * *"), NOON + 12 * MINUTE)
    assert [at for at, _ in seen] == [NOON + 5 * MINUTE, NOON + 10 * MINUTE]
    first, second = (request for _, request in seen)
    assert isinstance(first, func.TimerRequest)
    assert (first.past_due, second.past_due) == (False, False)
    assert first.schedule_status["Last"] == "0001-01-01T00:00:00+00:00"
    assert second.schedule_status["Last"] == "2026-03-02T12:05:00+00:00"
    assert second.schedule_status["Next"] == "2026-03-02T12:10:00+00:00"
    stored = read_status(bench.database, "tick")
    assert stored == Status(NOON + 10 * MINUTE, NOON + 15 * MINUTE, NOON + 10 * MINUTE)


async def test_slots_that_were_missed_become_one_run_that_is_past_due(bench: Bench) -> None:
    """An hour's sleep must not be followed by twelve runs, nor by none."""
    await bench.run(timer("0 */5 * * * *"), NOON + 6 * MINUTE)
    seen = await bench.run(timer("0 */5 * * * *"), NOON + 66 * MINUTE, NOON + 62 * MINUTE)
    assert [(at, request.past_due) for at, request in seen] == [(NOON + 62 * MINUTE, True), (NOON + 65 * MINUTE, False)]


async def test_a_timer_that_never_ran_is_past_due_as_well(bench: Bench) -> None:
    """Its first time is stored before it comes, so that a host that is down then doesn't lose it."""
    await bench.run(timer("0 */5 * * * *"), NOON + MINUTE)
    seen = await bench.run(timer("0 */5 * * * *"), NOON + 7 * MINUTE, NOON + 6 * MINUTE)
    assert [(at, request.past_due) for at, request in seen] == [(NOON + 6 * MINUTE, True)]


async def test_frequent_and_unmonitored_timers_have_no_status_and_are_never_past_due(bench: Bench) -> None:
    """As in the host: what fires each few seconds, or asks for it, is not made up for."""
    for source in (timer("*/20 * * * * *"), timer("0 * * * * *", ", use_monitor=False")):
        seen = await bench.run(source, NOON + 1.5 * MINUTE)
        again = await bench.run(source, NOON + 6.5 * MINUTE, NOON + 5 * MINUTE)
        assert seen
        assert again
        assert all(not request.past_due and not request.schedule_status for _, request in [*seen, *again])
    assert read_status(bench.database, "tick") is None


async def test_run_on_startup_runs_at_once_and_then_on_schedule(bench: Bench) -> None:
    """Guards the run at start from being counted as a slot."""
    seen = await bench.run(timer("0 */5 * * * *", ", run_on_startup=True"), NOON + 6 * MINUTE, NOON + MINUTE)
    assert [(at, request.past_due) for at, request in seen] == [(NOON + MINUTE, False), (NOON + 5 * MINUTE, False)]


async def test_a_function_that_fails_is_called_again_at_the_next_time(bench: Bench) -> None:
    """Errors never stop a schedule."""
    seen = await bench.run(timer("0 */5 * * * *", body='told(t); raise SystemExit("no")'), NOON + 11 * MINUTE)
    assert [at for at, _ in seen] == [NOON + 5 * MINUTE, NOON + 10 * MINUTE]


async def test_what_is_missed_while_the_function_runs_is_one_run_right_after(bench: Bench) -> None:
    """One at a time: a run of 12 minutes on a schedule of 5 is followed by one run, not two at once."""
    body = "told(t); clock.now += __import__('datetime').timedelta(minutes=12 if len(seen) == 0 else 0); seen.append(1)"
    seen = await bench.run(timer("0 */5 * * * *", body=body), NOON + 21 * MINUTE)
    assert [at for at, _ in seen] == [NOON + n * MINUTE for n in (5, 17, 20)]


def test_a_changed_schedule_is_counted_anew() -> None:
    """A daily timer that becomes hourly must neither wait for tomorrow nor count the past as missed."""
    hourly, now = parse_schedule("0 0 * * * *"), NOON + 30 * MINUTE
    daily_next = NOON + timedelta(days=1)
    ran_long_ago = Status(NOON - timedelta(hours=5), daily_next, NOON - timedelta(hours=5))
    assert status_at_start(ran_long_ago, hourly, now) == Status(None, NOON + timedelta(hours=1), now)
    ran_just_now = Status(NOON + MINUTE, daily_next, NOON + MINUTE)
    assert status_at_start(ran_just_now, hourly, now) == Status(None, NOON + timedelta(hours=1), NOON + MINUTE)
    assert status_at_start(ran_just_now, parse_schedule("0 0 12 * * *"), now) == ran_just_now


async def test_only_the_leader_writes(bench: Bench) -> None:
    """A process that was declared dead and comes back must not write over the schedule that its successor keeps."""
    other = Leadership(bench.database, lambda: "two")
    assert not await other.claim()
    with pytest.raises(NotLeader):
        await other.write(lambda connection: connection.execute("DELETE FROM trigger_schedules"))
    await bench.database.write(lambda connection: connection.execute("DELETE FROM durable_processes WHERE id = 'one'"))
    assert await other.claim()
    assert not await bench.leadership.claim()
    with pytest.raises(NotLeader):
        await bench.leadership.write(lambda connection: None)
    assert await other.write(lambda connection: "landed") == "landed"


async def test_of_two_that_claim_at_once_one_leads(bench: Bench) -> None:
    """Both have seen that the leader is dead before either wrote."""
    await bench.database.write(
        lambda connection: connection.execute("UPDATE durable_processes SET id = 'three' WHERE id = 'one'")
    )
    claims = await asyncio.gather(*(Leadership(bench.database, lambda me=me: me).claim() for me in ("two", "three")))  # type: ignore[misc]
    assert sorted(claims) == [False, True]


async def test_one_that_is_not_alive_can_not_lead(bench: Bench) -> None:
    """The dead one's claim, sent late, must not take the place of the living."""
    await bench.database.write(lambda connection: connection.execute("DELETE FROM durable_processes WHERE id = 'one'"))
    assert not await Leadership(bench.database, lambda: "three").claim()
    assert await Leadership(bench.database, lambda: "two").claim()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (timer("0 0 0 0 0 0"), "schedule '0 0 0 0 0 0' can't be used"),
        (timer("%NO_SUCH_SETTING%"), "'NO_SUCH_SETTING', which is not set"),
        (timer("* * * * *").replace("func.TimerRequest", "str"), "parameter 't' can't be a str"),
    ],
)
async def test_a_timer_that_can_not_work_is_named_at_start(bench: Bench, source: str, said: str) -> None:
    """Guards against a host that starts, and a timer that never fires."""
    with pytest.raises(BadBinding, match="'tick'") as refusal:
        Triggers(bench.functions(source), bench.database, lambda: "one", "", HostSettings("", "hub"))
    assert said in str(refusal.value)


def test_a_schedule_may_come_from_a_setting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`%NAME%`, as in the host."""
    monkeypatch.setenv("WHEN", "0 0 12 * * *")
    Triggers(bench.functions(timer("%WHEN%")), bench.database, lambda: "one", "", HostSettings("", "hub"))


def test_the_payload_is_what_the_host_sends() -> None:
    """FACTS "Timer, queue, blob triggers": keys and forms that an app may read."""
    request = timer_request(Status(NOON, NOON + MINUTE, NOON), past_due=True)
    assert request.past_due
    assert request.schedule == {"AdjustForDST": True}
    assert request.schedule_status == {
        "Last": "2026-03-02T12:00:00+00:00",
        "Next": "2026-03-02T12:01:00+00:00",
        "LastUpdated": "2026-03-02T12:00:00+00:00",
    }


APP = """
import os
from pathlib import Path

FOLDER = Path(__file__).parent

def note(name, *words):
    with (FOLDER / name).open("a") as file:
        print(*words, os.getpid(), file=file)

@app.timer_trigger(arg_name="t", schedule="* * * * * *")
@app.durable_client_input(client_name="client")
async def every_second(t: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    instance = await client.start_new("answer", None, "from a timer")
    note("ticks", instance)

@app.timer_trigger(arg_name="t", schedule="0 0 0 1 1 *")
def once_a_year(t: func.TimerRequest) -> None:
    note("year", t.past_due)

@app.timer_trigger(arg_name="t", schedule="* * * * * *")
def disabled(t: func.TimerRequest) -> None:
    note("disabled", t.past_due)

@app.orchestration_trigger(context_name="context")
def answer(context: df.DurableOrchestrationContext):
    return context.get_input()
    yield
"""


def by_hand(host: Running, name: str, **sent: Any) -> httpx.Response:
    return httpx.post(f"{host.base}/admin/functions/{name}", trust_env=False, **sent)


def change(data: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(data / "truestop.db")) as connection, connection:
        connection.execute(statement)


def test_timers_in_three_processes(tmp_path: Path) -> None:
    """Guards the whole: one leader fires and starts runs, a killed one is replaced, by hand, disabled, past due."""
    app, data = write_app(tmp_path / "app", APP), tmp_path / "data"
    environment = {"AzureWebJobs.disabled.Disabled": "true"}
    with started(app, data, "--workers", "2", environment=environment) as host:
        eventually_sync(lambda: len(lines(app, "ticks")) >= 2, 20, "the timer fires")
        assert len({line.split()[-1] for line in lines(app, "ticks")}) == 1
        instance = lines(app, "ticks")[0].split()[0]
        url = f"{host.base}/runtime/webhooks/durabletask/instances/{instance}"
        status = eventually_sync(
            lambda: (found := httpx.get(url, trust_env=False)).status_code == 200 and found, 10, "the run ended"
        )
        assert status.json()["output"] == "from a timer"
        assert by_hand(host, "Once_A_Year", json={"input": ""}).status_code == 202
        eventually_sync(lambda: [line.split()[0] for line in lines(app, "year")] == ["False"], what="it ran by hand")
        assert by_hand(host, "once_a_year", json={}, headers={"Origin": "http://evil.example"}).status_code == 403
        assert lines(app, "disabled") == []
        assert by_hand(host, "disabled", json={}).status_code == 202
        eventually_sync(lambda: len(lines(app, "disabled")) == 1, what="a disabled one runs by hand")
        assert [by_hand(host, name, json={}).status_code for name in ("nothing", "answer")] == [404, 501]
        for body in (b"", b"[]", b'{"input": 1}', b"{" * 2000, b'{"input": "' + b"x" * 1_100_000 + b'"}'):
            assert by_hand(host, "once_a_year", content=body).status_code == 400
        host.stop(signal.SIGTERM)
    change(data, "UPDATE trigger_schedules SET last = 0, next = 31536000, updated = 0 WHERE function = 'once_a_year'")
    with started(app, data, "--workers", "2") as host:
        eventually_sync(
            lambda: [line.split()[0] for line in lines(app, "year")] == ["False", "True"], 20, "it was past due"
        )
        leader = int(lines(app, "year")[1].split()[-1])
        assert leader == host.process.pid


def test_a_killed_leader_is_replaced_within_seconds(tmp_path: Path) -> None:
    """Guards takeover: the leader is a worker here, since the front's death ends its workers."""
    app, data = write_app(tmp_path / "app", APP), tmp_path / "data"
    with started(app, data, "--workers", "2") as host:
        eventually_sync(lambda: lines(app, "ticks"), 20, "the timer fires")
        front = host.process.pid
        workers = eventually_sync(lambda: len(pids := processes(data)) == 3 and pids - {front}, 20, "all have joined")
        change(data, f"UPDATE trigger_leader SET owner = (SELECT id FROM durable_processes WHERE pid = {min(workers)})")
        eventually_sync(lambda: lines(app, "ticks")[-1].split()[-1] == str(min(workers)), 20, "a worker leads")
        os.kill(min(workers), signal.SIGKILL)
        count = len(lines(app, "ticks"))
        eventually_sync(lambda: len(lines(app, "ticks")) > count + 1, 20, "another goes on")
        assert lines(app, "ticks")[-1].split()[-1] != str(min(workers))


def test_a_bad_schedule_keeps_the_host_from_starting(tmp_path: Path) -> None:
    """One line that says what to change."""
    app = write_app(tmp_path / "app", timer("every day"))
    said = refused("--port", "0", "--app", str(app), "--data", str(tmp_path / "data"))
    assert said.splitlines()[-1].startswith("devhost: function 'tick': schedule 'every day' can't be used: ")
