"""Files that arrive become one run a burst, and no version of a file becomes two."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.executions import RunRef
from shared.file_bursts import LOST_SECONDS, wake_lost_bursts
from shared.file_sync import Arrival, arrive
from shared.starting import MAX_KEYS
from shared.workflows import change
from tests.support.inbox import Inbox, inbox_of, trigger
from tests.support.world import World, open_world


@pytest.fixture
async def inbox(world: World, tmp_path: Path) -> Inbox:
    return await inbox_of(world, tmp_path)


async def test_a_burst_is_one_run(inbox: Inbox) -> None:
    """Guards the debounce: files seconds apart are one run, whose input they are."""
    await inbox.put("a.txt", "in/b.md")
    await inbox.later(3)
    await inbox.put("c.csv", data=b"1,2,3")
    await inbox.later(4)
    assert await inbox.runs() == []
    await inbox.later(1)
    (run,) = await inbox.runs()
    assert (run["status"], run["trigger"]["kind"], inbox.orchestrations.started) == ("queued", "file_sync", [run["id"]])
    files = run["input"]["files"]
    assert [(file["path"], file["size"]) for file in files] == [("a.txt", 4), ("in/b.md", 4), ("c.csv", 5)]
    assert run["input"]["skipped"] == []
    assert await inbox.drive(run) == "completed"
    await inbox.later(10_000)
    assert len(await inbox.runs()) == 1
    assert await inbox.at_rest()


async def test_a_version_that_arrives_in_the_burst_replaces_the_one_before(inbox: Inbox) -> None:
    """Guards a file that is written in pieces: it is one file, in its last version."""
    for size in (1, 2, 3):
        await inbox.put("a.txt", data=b"x" * size)
        await inbox.later(1)
    await inbox.later(10)
    (run,) = await inbox.runs()
    assert [(file["path"], file["size"]) for file in run["input"]["files"]] == [("a.txt", 3)]


async def test_files_that_keep_coming_do_not_put_a_run_off_for_ever(inbox: Inbox) -> None:
    for index in range(40):
        await inbox.put(f"{index}.txt")
        await inbox.later(3)
    assert inbox.now.timestamp() - inbox.world.services.settings.file_sync_wait_seconds > 0
    (run,) = await inbox.runs()
    assert 15 < len(run["input"]["files"]) < 25
    assert await inbox.drive(run) == "completed"
    await inbox.later(1000)
    assert len(await inbox.runs()) == 2
    assert sorted(path for paths in await inbox.paths() for path in paths) == sorted(f"{i}.txt" for i in range(40))
    assert await inbox.at_rest()


async def test_what_is_too_much_for_one_run_goes_into_the_next(inbox: Inbox) -> None:
    """Guards the bound of a run's receipts; and no file is lost at it."""
    names = [f"{index:03d}.txt" for index in range(MAX_KEYS * 2 + 1)]
    await inbox.put(*names)
    for count in (1, 2, 3):
        await inbox.later(400)
        runs = await inbox.runs()
        assert len(runs) == count
        assert await inbox.drive(runs[-1]) == "completed"
    await inbox.later(400)
    assert [len(paths) for paths in await inbox.paths()] == [MAX_KEYS, MAX_KEYS, 1]
    assert sorted(path for paths in await inbox.paths() for path in paths) == names
    assert await inbox.at_rest()


@pytest.mark.parametrize("end", ["completed", "cancelled", "skipped"])
async def test_a_version_delivered_again_starts_nothing_whatever_became_of_its_run(inbox: Inbox, end: str) -> None:
    """Guards that a cancelled run is not started anew by the trigger that started it."""
    if end == "skipped":
        await set_enabled(inbox, False)
    await inbox.put("a.txt", "b.txt")
    await inbox.later(10)
    (run,) = await inbox.runs()
    if end == "completed":
        assert await inbox.drive(run) == "completed"
    elif end == "cancelled":
        await inbox.world.cancel(RunRef(*inbox.partition, run["id"], run["epoch"]))
    else:
        await set_enabled(inbox, True)
    for _ in range(10):
        assert await inbox.deliver("a.txt") == Arrival.KNOWN
        await inbox.later(1000)
    (same,) = await inbox.runs()
    assert (same["id"], same["status"]) == (run["id"], end)
    await inbox.put("a.txt", data=b"newer")
    await inbox.later(10)
    assert await inbox.paths() == [["a.txt", "b.txt"], ["a.txt"]]


async def test_a_cancelled_runs_files_start_nothing_after_a_restart(tmp_path: Path) -> None:
    """Guards that it is the store that remembers, not the process."""
    async with open_world(tmp_path) as world:
        inbox = await inbox_of(world, tmp_path)
        workflow = inbox.workflow
        await inbox.put("a.txt")
        await inbox.later(10)
        (run,) = await inbox.runs()
        await world.cancel(RunRef(*inbox.partition, run["id"], run["epoch"]))
    async with open_world(tmp_path) as world:
        inbox = Inbox(world, tmp_path, workflow)
        for _ in range(10):
            await inbox.deliver("a.txt")
            await inbox.later(1000)
        assert [one["status"] for one in await inbox.runs()] == ["cancelled"]


async def set_enabled(inbox: Inbox, enabled: bool) -> None:
    await change(inbox.services, inbox.partition, {"enabled": enabled}, None, merge=True)


async def test_the_same_bytes_again_start_a_run_only_when_asked_to(world: World, tmp_path: Path) -> None:
    """Guards `run_when`: a nightly upload of what hasn't changed is no news, unless one says so."""
    for run_when, runs in (("changed", 2), ("always", 3)):
        inbox = await inbox_of(world, tmp_path, trigger=trigger(run_when=run_when))
        for data in (b"one", b"one", b"two"):
            await inbox.put("a.txt", data=data)
            await inbox.later(10)
            for run in await inbox.runs():
                await inbox.drive(run)
        assert len(await inbox.runs()) == runs
        assert await inbox.at_rest()


async def test_a_file_that_goes_back_to_its_old_bytes_within_a_burst_is_still_brought(inbox: Inbox) -> None:
    """Guards that what is recorded as pending is never an older version than what is there."""
    await inbox.put("a.txt", data=b"one")
    await inbox.later(10)
    await inbox.drive((await inbox.runs())[0])
    await inbox.put("a.txt", data=b"two")
    await inbox.put("a.txt", data=b"one")
    await inbox.later(10)
    run = (await inbox.runs())[1]
    assert run["input"]["files"][0]["etag"] == (await inbox.services.sources.info(inbox.blob("a.txt"))).etag


async def test_files_wait_for_a_busy_workflow(inbox: Inbox) -> None:
    """Guards that a file isn't lost, nor started beside the active run, and that it isn't asked for without a pause."""
    busy = await inbox.world.start(inbox.workflow)
    await inbox.put("a.txt")
    await inbox.later(3600)
    await inbox.put("b.txt")
    await inbox.later(3600)
    assert len(await inbox.runs()) == 1
    assert inbox.delivered < 60
    await inbox.world.cancel(busy)
    await inbox.later(0)
    assert await inbox.paths_started() == [["a.txt", "b.txt"]]


async def test_the_end_of_a_run_cuts_no_debounce_short(inbox: Inbox) -> None:
    """Guards a burst whose files still arrive while the run before it ends: they are one run."""
    busy = await inbox.world.start(inbox.workflow)
    await inbox.put("a.txt")
    await inbox.later(600)
    await inbox.put("b.txt")
    await inbox.world.cancel(busy)
    await inbox.later(4)
    assert await inbox.paths_started() == []
    await inbox.put("c.txt")
    await inbox.later(5)
    assert await inbox.paths_started() == [["a.txt", "b.txt", "c.txt"]]


@pytest.mark.parametrize("bound", ["age", "tries"])
async def test_files_that_waited_for_too_long_are_a_skipped_run(tmp_path: Path, bound: str) -> None:
    """Guards the bounds of waiting, and that a person can see what was not worked on, and why."""
    settings = {"file_sync_busy_seconds": "3600"} if bound == "age" else {"file_sync_busy_tries": "5"}
    async with open_world(tmp_path, **settings) as world:
        inbox = await inbox_of(world, tmp_path)
        busy = await world.start(inbox.workflow)
        await inbox.put("a.txt")
        await inbox.later(8000)
        skipped = (await inbox.runs())[1]
        assert skipped["status"] == "skipped"
        assert skipped["error"]["message"] == f"busy for too long: run {busy.run_id} is active"
        assert [file["path"] for file in skipped["input"]["files"]] == ["a.txt"]
        assert await inbox.at_rest()
        await inbox.deliver("a.txt")
        await world.cancel(busy)
        await inbox.later(1000)
        assert len(await inbox.runs()) == 2
        await inbox.put("a.txt")
        await inbox.later(10)
        assert await inbox.paths_started() == [["a.txt"]]


async def test_files_that_cannot_be_used_are_told_and_skipped(tmp_path: Path) -> None:
    """Guards that a bad file neither stops the good ones nor vanishes."""
    async with open_world(tmp_path, document_max_bytes="100") as world:
        inbox = await inbox_of(world, tmp_path)
        await inbox.put(
            "good.txt", "program.exe", "noending", "n" * 200 + "/" + "n" * 100 + ".txt", "in/ünï çødé 🙂.md"
        )
        await inbox.put("large.txt", data=b"x" * 101)
        await inbox.put("empty.txt", data=b"")
        await inbox.later(10)
        (run,) = await inbox.runs()
        assert [file["path"] for file in run["input"]["files"]] == ["good.txt", "in/ünï çødé 🙂.md"]
        assert {file["path"][:7]: file["code"] for file in run["input"]["skipped"]} == {
            "program": "document_type_unsupported",
            "noendin": "document_type_unsupported",
            "large.t": "document_too_large",
            "empty.t": "document_empty",
            "nnnnnnn": "document_name_invalid",
        }
        assert await inbox.drive(run) == "completed"
        await inbox.put("other.exe")
        await inbox.later(10)
        skipped = (await inbox.runs())[1]
        assert skipped["status"] == "skipped"
        assert "other.exe" in skipped["error"]["message"]
        for _ in range(10):
            assert await inbox.deliver("other.exe") == Arrival.KNOWN
        assert await inbox.at_rest()


async def test_a_name_that_no_document_may_have_is_told(inbox: Inbox) -> None:
    """Guards against names that Azure takes, and that our own blobs may not have."""
    for path in ("a\\b.txt", "bell\x07.txt", "dot./a.txt", "new\nline.txt"):
        assert await inbox.deliver(path) == Arrival.PENDING
    await inbox.later(10)
    (run,) = await inbox.runs()
    assert run["status"] == "skipped"
    assert {file["code"] for file in run["input"]["skipped"]} == {"document_name_invalid"}
    assert len(run["input"]["skipped"]) == 4


async def test_a_workflow_that_does_not_want_files_says_so(world: World, tmp_path: Path) -> None:
    """Guards a person who drops files and waits."""
    for options, why in (
        ({"enabled": False}, "disabled"),
        ({"trigger": {"kind": "manual"}}, "no file_sync trigger"),
    ):
        inbox = await inbox_of(world, tmp_path, **options)
        await inbox.put("a.txt")
        await inbox.later(10)
        (run,) = await inbox.runs()
        assert (run["status"], inbox.orchestrations.started) == ("skipped", [])
        assert why in run["error"]["message"]
        assert await inbox.at_rest()


async def test_what_is_nobodys_is_logged_and_left(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    """Guards the blob trigger: what it can't place must not be tried again and again."""
    wid = inbox.partition.workflow_id
    for name in (
        "a.txt",
        f"user/alice/{wid}",
        f"user/alice/{wid}/",
        f"user/nobody/{wid}/a.txt",
        f"user:alice/{wid}/a.txt",
        "user/alice/unknown/a.txt",
        "user/alice/" + "0" * 26 + "/a.txt",
        f"user//{wid}/a.txt",
        f"user/../{wid}/a.txt",
        f"team/alice/{wid}/a.txt",
    ):
        assert await arrive(inbox.services, name, inbox.now) == Arrival.NOBODYS
    assert caplog.text.count("file_sync_nobodys") == 10
    assert await inbox.at_rest()


async def test_only_files_under_the_prefix_count(world: World, tmp_path: Path) -> None:
    inbox = await inbox_of(world, tmp_path, trigger=trigger(prefix="in/"))
    inbox.drop("out/a.txt")
    assert await inbox.deliver("out/a.txt") == Arrival.OUTSIDE
    await inbox.put("in/a.txt")
    await inbox.later(10)
    assert await inbox.paths() == [["in/a.txt"]]


async def test_a_file_that_is_gone_is_no_news(inbox: Inbox) -> None:
    assert await inbox.deliver("missing.txt") == Arrival.GONE
    assert await inbox.at_rest()


async def test_a_forged_or_late_message_does_nothing(inbox: Inbox) -> None:
    """Guards the queue, which others can write to, and messages of bursts that are over."""
    await inbox.put("a.txt")
    good = inbox.sent[0][1]
    for body in (None, [], {}, "x", {**good, "tries": -1}, {**good, "scope": "user:a/b"}, {**good, "more": 1}):
        await inbox.close(body)
    for other in ({"wake": "other"}, {"workflow_id": "0" * 26}, {"scope": "group:none"}):
        await inbox.close({**good, **other})
    assert await inbox.runs() == []
    await inbox.later(10)
    await inbox.close(good)
    assert len(await inbox.runs()) == 1


async def test_an_instance_that_could_not_be_started_is_started_later(inbox: Inbox) -> None:
    """Guards a run that is queued while Durable is away: it is neither lost nor doubled."""
    inbox.orchestrations.fails = ConnectionError("Durable is away")
    await inbox.put("a.txt")
    await inbox.later(60)
    (run,) = await inbox.runs()
    await inbox.put("b.txt")
    await inbox.later(60)
    inbox.orchestrations.fails = None
    await inbox.later(301)
    assert inbox.orchestrations.started == [run["id"]]
    await inbox.drive(run)
    await inbox.later(301)
    assert await inbox.paths() == [["a.txt"], ["b.txt"]]


async def test_a_burst_whose_message_was_lost_is_woken(inbox: Inbox) -> None:
    """Guards the wait for a message that never comes: dropped by its age, or poison while the store was away."""
    await inbox.put("a.txt")
    inbox.sent.clear()
    await inbox.later(LOST_SECONDS)
    assert await wake_lost_bursts(inbox.services, inbox.now) == 0
    await inbox.later(10)
    assert await wake_lost_bursts(inbox.services, inbox.now) == 1
    assert await wake_lost_bursts(inbox.services, inbox.now) == 0
    await inbox.later(1)
    assert await inbox.paths() == [["a.txt"]]
    assert await inbox.at_rest()
