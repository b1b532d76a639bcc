"""The promise over HTTP: once a cancel is answered nothing more begins, and everything that can be seen agrees."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.api import Api, ModelLog, Run
from tests.support.promise import (
    assert_cancelled_whole,
    assert_ended_whole,
    assert_nothing_after,
    assert_promise_kept,
    cancel,
)
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.several_processes
ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}


def stream(key: str, tokens: int = 5000, delay: str = "5ms") -> dict[str, Any]:
    """A model step that answers for as long as a test needs."""
    return {"kind": "model", "prompt": f"[[tokens={tokens} delay={delay} key={key}]]Go"}


def sleeping(seconds: float, blocking: bool = False) -> dict[str, Any]:
    """A tool step that takes `seconds`."""
    return {"kind": "tool", "tool": "sleep", "arguments": {"seconds": seconds, "blocking": blocking}}


def outcomes(receipt: dict[str, Any]) -> list[tuple[str, str]]:
    """What the receipt says of each operation that was in flight."""
    return sorted((one["kind"], one["outcome"]) for one in receipt["in_flight"])


def test_a_stream_is_closed_and_what_had_arrived_is_kept(api: Api, model: ModelLog) -> None:
    """Guards the main job: no token after the answer, the partial text stays, the later step never begins."""
    run = api.workflow(stream(api.user), ECHO).start()
    model.streaming(tokens=40)
    answer, answered = cancel(run, reason="enough")
    assert answer.status_code in (200, 202)
    run.wait("cancelled")
    receipt, (entry,) = assert_promise_kept(run, model, answered)
    assert outcomes(receipt) == [("model_call", "stopped")]
    assert (entry["how"], entry["sent"] < 2500) == ("closed", True)
    assert (receipt["reason"], receipt["source"], receipt["requested_by"]["id"]) == ("enough", "api", api.user)
    tree = run.executions()
    assert tree["s01.m"]["status"] == "cancelled"
    kept = len(tree["s01.m"]["output_preview"].split())
    assert 40 <= kept <= entry["sent"]
    assert (tree["s02"]["status"], tree["s02"]["started_at"]) == ("cancelled", None)


def test_partial_text_is_visible_while_it_grows(api: Api, model: ModelLog) -> None:
    """Guards the live view: what was sent a second ago (twice what is promised, for busy machines) can be read."""
    run = api.workflow(stream(api.user, delay="10ms")).start()
    model.streaming()
    looks = 0

    def look() -> bool:
        nonlocal looks
        now, (entry,) = time.monotonic(), model.entries()
        call = run.executions().get("s01.m", {})
        seen = len((call.get("output_preview") or "").split())
        old = sum(entry["t"] + offset < now - 1.0 for offset in entry["tokens"])
        assert old <= seen <= entry["sent"] + 20, f"{entry['sent']} tokens sent, {old} a second ago, {seen} visible"
        looks += seen > 0
        return bool(entry["sent"] > 180)

    eventually_sync(look, 20, "180 tokens were sent")
    assert looks > 5
    run.cancel()
    run.wait("cancelled")
    assert_cancelled_whole(run)


def test_a_model_that_says_nothing_is_let_go(api: Api, model: ModelLog) -> None:
    """Guards a request without a first token: there is no chunk to stop between."""
    run = api.workflow({"kind": "model", "prompt": f"[[hang key={api.user}]]Go"}).start()
    model.streaming(tokens=0)
    _, answered = cancel(run)
    run.wait("cancelled", seconds=2)
    _, (entry,) = assert_promise_kept(run, model, answered)
    assert (entry["how"], entry["sent"]) == ("closed", 0)


def test_a_cancel_right_after_the_start_is_whole(api: Api, model: ModelLog) -> None:
    """Guards cancel before start: queued or just begun, the run ends cancelled and no orchestration revives it."""
    workflow = api.workflow(ECHO, stream(api.user))
    for _ in range(8):
        run = workflow.start()
        answer, answered = cancel(run)
        assert answer.status_code in (200, 202)
        run.wait("cancelled")
        assert_cancelled_whole(run)
        assert_nothing_after(run, model, answered)
    assert_promise_kept(run, model, answered)


def cancel_when_there(run: Run) -> httpx.Response:
    """Ask for the cancel until the run exists."""
    found: httpx.Response = eventually_sync(
        lambda: answer if (answer := run.cancel()).status_code != 404 else None, what="the run exists"
    )
    return found


def test_a_cancel_that_races_the_start_request_wins_or_finds_nothing(api: Api, model: ModelLog) -> None:
    """Guards the moment in which the run comes into being: 404 before it, accepted after it, nothing else."""
    for number in range(5):
        workflow = api.workflow(stream(api.user))
        run = Run(workflow, f"race-{number}")
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(workflow.start, run_id=run.id)
            answer = cancel_when_there(run)
            answered = time.monotonic()
            assert answer.status_code in (200, 202)
            starting.result()
        run.wait("cancelled")
        assert_promise_kept(run, model, answered)


def test_a_cancel_between_steps_lets_no_further_step_begin(api: Api) -> None:
    """Guards the gaps: of many short steps, those that had not begun never do."""
    run = api.workflow(*[ECHO] * 40).start()
    eventually_sync(lambda: run.get()["counts"]["completed"] >= 6)
    answer = run.cancel().json()
    run.wait("cancelled")
    assert_promise_kept(run, None, 0)
    tree = run.executions()
    begun = [one for path, one in tree.items() if "." not in path and one["started_at"] is not None]
    assert len(begun) < 40
    # The receipt's moment is just before the accept, and steps begin one by one.
    assert sum(one["started_at"] > answer["requested_at"] for one in begun) <= 1


def test_a_fan_out_of_twenty_documents_stops_at_once(api: Api, model: ModelLog) -> None:
    """Guards parallel items: those at work are stopped, the others never begin, and each is accounted for."""
    for number in range(20):
        api.upload(f"{number:02}.txt", b"A few words.")
    step = {**stream(api.user), "kind": "analyze_documents", "documents": {"prefix": ""}, "parallel": 4}
    run = api.workflow(step, ECHO).start()
    model.streaming(count=4, tokens=5)
    _, answered = cancel(run)
    run.wait("cancelled")
    receipt, entries = assert_promise_kept(run, model, answered)
    assert [one["how"] for one in entries] == ["closed"] * 4
    assert outcomes(receipt) == [("item", "stopped")] * 4 + [("model_call", "stopped")] * 4
    items = run.items()
    assert [one["status"] for one in items] == ["cancelled"] * 20
    assert sum(one["started_at"] is not None for one in items) == 4
    assert len(api.all(f"{run.path}/items", limit=7, status="cancelled")) == 20


def test_items_that_had_completed_stay_completed(api: Api, model: ModelLog) -> None:
    """Guards finished work: a cancel takes nothing back."""
    for number in range(12):
        api.upload(f"{number:02}.txt", b"A few words.")
    step = {**stream(api.user, tokens=5, delay="20ms"), "kind": "analyze_documents", "documents": {"prefix": ""}}
    run = api.workflow({**step, "parallel": 2}).start()
    done = eventually_sync(lambda: [one for one in run.items() if one["status"] == "completed"])
    _, answered = cancel(run)
    run.wait("cancelled")
    assert_promise_kept(run, model, answered)
    after = {one["path"]: one for one in run.items()}
    assert all(after[one["path"]] == one for one in done)
    assert sum(one["status"] == "cancelled" for one in after.values()) >= 6


def test_a_tie_with_completion_goes_one_way_and_everything_agrees(api: Api) -> None:
    """Guards finished > cancelled and its border: 409 means completed and no receipt, else it is cancelled throughout."""
    random_, ends = random.Random(4), []
    workflow = api.workflow(ECHO)
    for _ in range(20):
        run = workflow.start()
        time.sleep(random_.random() * 0.03)  # not waiting for anything: the cancel is to hit an arbitrary moment
        answer = run.cancel()
        ends.append(run.wait()["status"])
        if answer.status_code == 409:
            assert (answer.json()["code"], answer.json()["state"]) == ("run_already_finished", "completed")
            assert assert_ended_whole(run)["cancel"] is None
            assert api.request("GET", f"{run.path}/cancellation").json()["code"] == "not_cancelled"
        else:
            assert answer.status_code in (200, 202)
            assert_cancelled_whole(run)
    assert set(ends) <= {"completed", "cancelled"}


def step_completed(run: Run) -> None:
    """Wait until the run's first step has completed."""
    eventually_sync(lambda: run.executions().get("s01", {}).get("status") == "completed")


def test_a_run_whose_last_step_is_done_may_still_end_cancelled(api: Api) -> None:
    """Guards the tie's other side: the accept came before the run's own end, so nothing was in flight."""
    for _ in range(8):
        run = api.workflow(ECHO).start()
        step_completed(run)
        answer = run.cancel()
        if answer.status_code == 409:
            assert assert_ended_whole(run)["status"] == "completed"
        else:
            assert answer.status_code == 200
            assert assert_cancelled_whole(run)["in_flight"] == []


def test_twenty_clients_at_once_are_one_cancel(api: Api, model: ModelLog) -> None:
    """Guards idempotency: one accept, one receipt, one end; a repeat later answers the same."""
    run = api.workflow(stream(api.user)).start()
    model.streaming()
    together = threading.Barrier(20)

    def press(number: int) -> httpx.Response:
        together.wait(10)
        return run.cancel(reason=f"reason {number}")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(press, range(20)))
    answered = time.monotonic()
    assert {one.status_code for one in answers} <= {200, 202}
    assert len({(one.json()["requested_at"], one.json()["reason"]) for one in answers}) == 1
    run.wait("cancelled")
    receipt, _ = assert_promise_kept(run, model, answered)
    again = run.cancel(reason="late", force=True)
    assert (again.status_code, again.json()) == (200, receipt)


def test_a_cancel_after_the_end_is_refused_with_the_state(api: Api) -> None:
    """Guards that a finished run stays finished, and that its workflow has nothing to cancel."""
    workflow = api.workflow(ECHO)
    run = workflow.run()
    before = run.get()
    answer = run.cancel(force=True)
    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (
        409,
        "run_already_finished",
        "completed",
    )
    assert run.get() == before
    none = api.request("POST", f"{workflow.path}/cancel", json={})
    assert (none.status_code, none.json()["code"]) == (404, "no_active_run")


def test_the_workflows_own_cancel_finds_its_active_run(api: Api, model: ModelLog) -> None:
    """Guards the short way: no run id needed, and no body."""
    run = api.workflow(stream(api.user)).start()
    model.streaming()
    answer = api.request("POST", f"{run.workflow.path}/cancel", headers={"X-Truestop-Source": "cli"})
    answered = time.monotonic()
    assert (answer.json()["run_id"], answer.json()["source"]) == (run.id, "cli")
    run.wait("cancelled")
    assert_promise_kept(run, model, answered)


def test_force_ends_the_run_in_its_answer(api: Api, model: ModelLog) -> None:
    """Guards force: cancelled at once, honest about what had not stopped by then, and that is stopped all the same."""
    run = api.workflow(stream(api.user)).start()
    model.streaming(tokens=3)
    answer, answered = cancel(run, force=True)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    receipt, (entry,) = assert_promise_kept(run, model, answered, acknowledged=None)
    assert receipt["acknowledged"] is not receipt["forced"]
    assert outcomes(receipt) == [("model_call", "abandoned" if receipt["forced"] else "stopped")]
    assert entry["how"] == "closed"


def test_without_grace_nothing_is_waited_for(api: Api, model: ModelLog) -> None:
    """Guards grace 0: what stops when told so has stopped when the run ends; what can't be stopped isn't waited for."""
    streaming = api.workflow(stream(api.user)).start()
    model.streaming()
    _, answered = cancel(streaming, grace_seconds=0)
    streaming.wait("cancelled")
    receipt, (entry,) = assert_promise_kept(streaming, model, answered, acknowledged=None)
    assert outcomes(receipt) == [("model_call", "stopped" if receipt["acknowledged"] else "abandoned")]
    assert (entry["how"], entry["sent"] < 2500) == ("closed", True)
    blocked = api.workflow(sleeping(4, blocking=True)).start()
    tool_at_work(blocked)
    blocked.cancel(grace_seconds=0)
    blocked.wait("cancelled", seconds=3.5)  # the tool is at work for longer
    assert outcomes(assert_cancelled_whole(blocked, acknowledged=False)) == [("tool_call", "abandoned")]


def tool_at_work(run: Run) -> None:
    """Wait until the tool of the run's first step is at work."""
    eventually_sync(lambda: run.executions().get("s01.c0", {}).get("status") == "running")


def test_a_tool_that_cannot_be_stopped_is_abandoned_when_the_grace_is_over(api: Api) -> None:
    """Guards honesty: `cancelling` until then, `acknowledged: false` after it, and its late end changes nothing."""
    run = api.workflow(sleeping(1.5, blocking=True), ECHO).start()
    tool_at_work(run)
    answer, answered = cancel(run, grace_seconds=0.3)
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert outcomes({"in_flight": [{**one, "outcome": "open"} for one in answer.json()["in_flight"]]}) == [
        ("tool_call", "open")
    ]
    run.wait("cancelled", seconds=2)
    assert 0.3 <= time.monotonic() - answered < 1.4
    receipt, _ = assert_promise_kept(run, None, answered, acknowledged=False)
    assert outcomes(receipt) == [("tool_call", "abandoned")]
    before = run.get(), run.executions(), run.events()
    # Begun now, it ends after the thread that was abandoned.
    assert api.workflow(sleeping(1.6)).run().get()["status"] == "completed"
    assert (run.get(), run.executions(), run.events()) == before


def test_a_tool_that_ends_within_the_grace_is_waited_for(api: Api) -> None:
    """Guards `cancelling` is not `cancelled`: the status waits for the work, and the work's outcome is kept."""
    run = api.workflow(sleeping(0.8, blocking=True), ECHO).start()
    tool_at_work(run)
    assert run.cancel(grace_seconds=20).status_code == 202
    assert run.get()["status"] == "cancelling"
    assert run.workflow.get()["runtime"]["status"] == "cancelling"
    busy = api.request("POST", f"{run.workflow.path}/run", json={})
    assert (busy.status_code, busy.json()["active_run_id"]) == (409, run.id)
    run.wait("cancelled", seconds=3)
    receipt, _ = assert_promise_kept(run, None, 0)
    assert outcomes(receipt) == [("tool_call", "finished")]
    assert run.executions()["s01.c0"]["output_preview"] == "0.8"


def test_force_after_a_plain_cancel_ends_the_wait(api: Api) -> None:
    """Guards the second press."""
    run = api.workflow(sleeping(1.5, blocking=True)).start()
    tool_at_work(run)
    assert run.cancel(reason="first").json()["status"] == "cancelling"
    forced = run.cancel(reason="second", force=True)
    assert (forced.status_code, forced.json()["status"], forced.json()["reason"]) == (200, "cancelled", "first")
    assert_promise_kept(run, None, 0, acknowledged=False)


def test_a_cancel_in_the_wait_for_a_retry_is_at_once(api: Api, model: ModelLog) -> None:
    """Guards that nothing is in flight then, and that the timer wakes nobody."""
    step = {
        "kind": "model",
        "prompt": f"[[status=503 key={api.user}]]Go",
        "retries": {"max": 3, "backoff_seconds": 0.6},
    }
    run = api.workflow(step).start()
    eventually_sync(lambda: run.executions().get("s01.m", {}).get("error"))
    answer, answered = cancel(run)
    assert (answer.status_code, answer.json()["status"], answer.json()["in_flight"]) == (200, "cancelled", [])
    assert api.workflow(sleeping(0.8)).run().get()["status"] == "completed"  # the retry's time has passed
    _, entries = assert_promise_kept(run, model, answered)
    assert len(entries) == 1


def test_the_receipt_lists_what_had_already_been_shown_to_others(api: Api) -> None:
    """Guards the truth about side effects: a cancel can't take back an artifact or a notification."""
    save = {"kind": "write_artifact", "path": "a.md", "content": "x"}
    tell = {"kind": "notify", "subject": "Hello", "message": "x"}
    never = {"kind": "write_artifact", "path": "b.md", "content": "y"}
    run = api.workflow(save, tell, sleeping(60), never).start()
    eventually_sync(lambda: run.executions().get("s03.c0"))
    run.cancel()
    run.wait("cancelled", seconds=3)
    receipt, _ = assert_promise_kept(run, None, 0)
    assert [(one["kind"], one["what"]) for one in receipt["side_effects"]] == [
        ("artifact", "a.md"),
        ("notification", "Hello"),
    ]
    assert outcomes(receipt) == [("tool_call", "stopped")]
    assert [one["path"] for one in api.ok("GET", f"{run.path}/artifacts")["items"]] == ["a.md"]
    assert api.request("GET", f"{run.path}/artifacts/b.md").status_code == 404


@pytest.mark.parametrize("body", [{"grace_seconds": -1}, {"grace_seconds": 301}, {"force": "yes"}, {"why": "x"}, []])
def test_a_bad_cancel_is_refused_and_cancels_nothing(api: Api, model: ModelLog, body: Any) -> None:
    """Guards the most important request against half-understood wishes."""
    run = api.workflow(stream(api.user, tokens=100, delay="1ms")).start()
    answer = api.request("POST", f"{run.path}/cancel", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"]
    assert run.wait()["status"] == "completed"


def test_nobody_else_can_cancel_or_see_a_run(api: Api, client: httpx.Client, model: ModelLog) -> None:
    """Guards the walls between users: another one's run is as unknown as one that never was."""
    run = api.workflow(stream(api.user)).start()
    model.streaming()
    stranger, absent = Api(client), Run(run.workflow, "nothing")
    missing = absent.cancel()
    assert (missing.status_code, missing.json()["code"]) == (404, "run_not_found")
    ways = [("GET", ""), ("POST", "/cancel"), ("GET", "/cancellation"), ("GET", "/executions"), ("GET", "/events")]
    for method, way in ways:
        answer = stranger.request(method, run.path + way)
        assert answer.status_code == 404, way
        assert api.user not in answer.text
    assert stranger.request("POST", f"{run.workflow.path}/cancel").status_code == 404
    assert run.get()["status"] == "running"
    run.cancel()
    run.wait("cancelled")
