"""Runs from start to their own end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from activities import steps
from shared.documents import Documents
from shared.errors import Problem, StepFailed
from shared.model_answers import ModelAnswer
from shared.model_client import ModelRequest
from shared.settling import end_run
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Page, Query
from tests.support.world import RecordingStore, World, at_once, open_world

SLEEP = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{input.word}}"}}


async def test_a_run_of_every_kind_completes_and_leaves_nothing_behind(world: World) -> None:
    """Guards the whole happy path: outputs flow on, counts add up, lock and workflow are free, one terminal event."""
    documents = {"a.txt": b"Alpha text", "b.md": b"# Beta"}
    for name, data in documents.items():
        await world.services.blobs.put(f"documents/user:alice/in/{name}", data, "text/plain")
    workflow = await world.workflow(
        {
            "kind": "analyze_documents",
            "name": "read",
            "documents": {"prefix": "in/"},
            "prompt": "Sum up {{document.text}}",
        },
        {"kind": "compare_documents", "documents": {"names": ["in/a.txt", "in/b.md"]}, "prompt": "What changed?"},
        {"kind": "model", "name": "write", "prompt": "Write about {{steps.read.output}}"},
        {**SLEEP, "name": "said"},
        {"kind": "write_artifact", "path": "out/review.md", "content": "{{steps.write.output}} {{steps.said.output}}"},
        {"kind": "notify", "subject": "Done", "message": "{{input.word}}"},
    )
    ref = await world.start(workflow, given={"word": "hello"})
    assert await world.drive(ref) == "completed"
    run = await world.run(ref)
    assert (run["status"], run["in_flight"], run["error"]) == ("completed", 0, None)
    tree = await world.executions(ref)
    assert {one["status"] for one in tree.values()} == {"completed"}
    assert [tree[p]["kind"] for p in ("s01.i001", "s01.i001.m", "s02.i002", "s02.m", "s03.m", "s04.c0")] == [
        "item", "model_call", "item", "model_call", "model_call", "tool_call",
    ]  # fmt: skip
    assert tree["s01"]["output_preview"] == "## in/a.txt\n\nanswer\n\n## in/b.md\n\nanswer"
    assert run["counts"] == {
        "total": len(tree), "completed": len(tree), "pending": 0, "running": 0, "failed": 0, "cancelled": 0, "skipped": 0,
    }  # fmt: skip
    artifact = tree["s05"]["side_effects"][0]
    assert (await world.services.blobs.get(artifact["ref"])).data == b"answer hello"
    assert [effect["what"] for effect in tree["s06"]["side_effects"]] == ["Done"]
    assert [e["event_type"] for e in await world.events(ref) if e["event_type"].startswith("run.")] == [
        "run.queued", "run.started", "run.completed",
    ]  # fmt: skip
    assert await world.idle(ref)


async def test_a_failed_step_stops_the_run_and_later_steps_are_skipped(world: World) -> None:
    """Guards that a failure is told, and that nothing after it begins."""
    workflow = await world.workflow({"kind": "tool", "tool": "read_document", "arguments": {"name": "none.txt"}}, SLEEP)
    ref = await world.start(workflow, given={"word": "x"})
    assert await world.drive(ref) == "failed"
    run, tree = await world.run(ref), await world.executions(ref)
    assert run["error"]["code"] == "document_missing"
    assert {path: one["status"] for path, one in tree.items()} == {
        "s01": "failed",
        "s01.c0": "failed",
        "s02": "skipped",
    }
    assert run["counts"]["skipped"] == 1
    assert await world.idle(ref)


async def test_a_failed_step_that_says_continue_lets_the_run_go_on(world: World) -> None:
    """Guards `on_error: continue`; the missing output renders as nothing."""
    bad = {
        "kind": "tool",
        "name": "bad",
        "tool": "read_document",
        "arguments": {"name": "no.txt"},
        "on_error": "continue",
    }
    good = {"kind": "tool", "name": "good", "tool": "echo", "arguments": {"value": "[{{steps.bad.output}}]"}}
    ref = await world.start(await world.workflow(bad, good))
    assert await world.drive(ref) == "completed"
    assert (await world.executions(ref))["s02"]["output_preview"] == "[]"


async def test_an_unreadable_document_fails_its_item_only(world: World) -> None:
    """Guards that one bad document doesn't lose the others' work when the step says so."""
    for name, data in {"a.txt": b"fine", "b.pdf": b"%PDF-1.4 broken", "c.txt": b"fine too"}.items():
        await world.services.blobs.put(f"documents/user:alice/{name}", data, "application/octet-stream")
    step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "on_error": "continue"}
    ref = await world.start(await world.workflow(step))
    assert await world.drive(ref) == "completed"
    tree = await world.executions(ref)
    assert [tree[f"s01.i00{i}"]["status"] for i in (1, 2, 3)] == ["completed", "failed", "completed"]
    assert tree["s01.i002"]["error"]["code"] == "document_unreadable"


async def test_a_fan_out_that_stops_begins_no_item_after_the_first_failure(tmp_path: Path) -> None:
    """Guards that `on_error: stop` halts the other lanes: no model call is paid for after the failure."""
    async with open_world(tmp_path) as world:
        await world.services.blobs.put("documents/user:alice/a.pdf", b"broken", "application/pdf")
        for i in range(6):
            await world.services.blobs.put(f"documents/user:alice/b{i}.txt", b"text", "text/plain")
        step = {"kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.", "parallel": 1}
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "failed"
        assert world.model.began == []
        assert (await world.run(ref))["error"]["code"] == "document_unreadable"


async def test_retryable_failures_are_tried_again_and_then_fail_the_step(tmp_path: Path) -> None:
    """Guards bounded retries: the attempts are counted on the record, and the last error is told."""
    tries = []

    async def flaky(request, on_text):  # type: ignore[no-untyped-def]
        tries.append(1)
        raise StepFailed("model_unavailable", "down", retryable=True)

    async with open_world(tmp_path, flaky) as world:
        step = {"kind": "model", "prompt": "Hi", "retries": {"max": 2, "backoff_seconds": 0.01}}
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "failed"
        tree = await world.executions(ref)
        assert len(tries) == 3
        assert (tree["s01.m"]["attempt"], tree["s01.m"]["error"]["code"]) == (3, "model_unavailable")
        assert (await world.run(ref))["in_flight"] == 0


async def test_an_inner_operation_that_fails_retryably_is_tried_again(tmp_path: Path) -> None:
    """Guards that an item's model call and the item itself agree on being tried again."""
    tries = []

    async def flaky(request, on_text):  # type: ignore[no-untyped-def]
        tries.append(1)
        if len(tries) == 1:
            raise StepFailed("model_interrupted", "cut", retryable=True)
        return await at_once(request, on_text)

    async with open_world(tmp_path, flaky) as world:
        await world.services.blobs.put("documents/user:alice/a.txt", b"text", "text/plain")
        step = {
            "kind": "analyze_documents", "documents": {"prefix": ""}, "prompt": "Sum up.",
            "retries": {"max": 1, "backoff_seconds": 0.01},
        }  # fmt: skip
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "completed"
        tree = await world.executions(ref)
        assert tree["s01.i001"]["attempt"] == tree["s01.i001.m"]["attempt"] == 2
        run = await world.run(ref)
        assert (run["in_flight"], run["counts"]["completed"], run["counts"]["pending"]) == (0, 3, 0)


async def test_a_step_past_its_deadline_fails_and_says_so(tmp_path: Path) -> None:
    """Guards the deadline: the work is stopped, then the step fails with `timeout`."""
    async with open_world(tmp_path) as world:
        step = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60}, "timeout_seconds": 0.05}
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "failed"
        assert (await world.run(ref))["error"]["code"] == "timeout"


async def test_a_busy_workflow_refuses_a_second_run_and_names_the_first(world: World) -> None:
    """Guards the lock."""
    workflow = await world.workflow(SLEEP)
    ref = await world.start(workflow)
    with pytest.raises(Problem) as caught:
        await world.start(workflow)
    assert (caught.value.status, caught.value.code) == (409, "workflow_busy")
    assert caught.value.extra == {"active_run_id": ref.run_id}


async def test_the_same_run_id_again_is_the_same_run_whatever_became_of_it(world: World) -> None:
    """Guards idempotency: a repeated start never runs twice, also after the run has ended."""
    workflow = await world.workflow(SLEEP)
    ref = await world.start(workflow, "mine", given={"word": "x"})
    assert await world.start(workflow, "mine") == ref
    await world.drive(ref)
    assert await world.start(workflow, "mine") == ref
    assert (await world.run(ref))["status"] == "completed"
    receipt = await world.store.get(ref.partition, "receipt:manual:mine")
    assert receipt["outcome"] == "completed"


async def test_large_outputs_live_in_blobs_and_flow_whole_into_later_steps(tmp_path: Path) -> None:
    """Guards the 16 KB limit of documents."""

    async def long(request, on_text):  # type: ignore[no-untyped-def]
        return "é" * 20_000

    async with open_world(tmp_path, long) as world:
        model = {"kind": "model", "name": "long", "prompt": "Go"}
        keep = {"kind": "write_artifact", "path": "all.txt", "content": "{{steps.long.output}}"}
        ref = await world.start(await world.workflow(model, keep))
        assert await world.drive(ref) == "completed"
        tree = await world.executions(ref)
        assert len(tree["s01.m"]["output_preview"].encode()) <= 16_384
        blob = await world.services.blobs.get(tree["s02"]["side_effects"][0]["ref"])
        assert blob.data.decode() == "é" * 20_000
        assert len(json.dumps(tree["s01"])) < 70_000


@pytest.mark.parametrize("kind", ["model", "analyze_documents"])
async def test_an_answer_that_was_cut_off_is_told_as_such(tmp_path: Path, kind: str) -> None:
    """Guards against half an answer that passes for a whole one: the run goes on with it, and an event says so."""

    async def half(request: ModelRequest, on_text: Callable[[str], None]) -> ModelAnswer:
        return ModelAnswer(text="half", finish_reason="length", usage=None, model="scripted")

    async with open_world(tmp_path, half) as world:
        await Documents(world.services.blobs, "user:alice").put("a.txt", b"text", "text/plain")
        chosen = {"documents": {"prefix": ""}} if kind == "analyze_documents" else {}
        ref = await world.start(await world.workflow({"kind": kind, "prompt": "Go", **chosen}))
        assert await world.drive(ref) == "completed"
        told = [one for one in await world.events(ref) if one["event_type"] == "execution.output"]
    assert [one["data"]["truncated"] for one in told] == [True]
    assert told[0]["execution_id"].endswith(".m")


async def test_a_run_that_ends_beside_an_operation_counts_it(tmp_path: Path) -> None:
    """Guards the counts: an operation that began and ended after the run was read, before its end was written."""
    async with open_world(tmp_path) as world:
        ref = await world.start(
            await world.workflow(*[{"kind": "tool", "tool": "echo", "arguments": {"value": 1}}] * 2)
        )
        await world.begin(ref)
        store = RecordingStore(world.store)
        query, beside = world.store.query, [lambda: steps.run(world.services, ref, "s01")]

        async def after_the_run_was_read(asked: Query) -> Page:
            if beside:
                assert (await beside.pop()())["status"] == "completed"
            return await query(asked)

        store.query = after_the_run_was_read  # type: ignore[attr-defined]
        error = {"code": "orchestration_lost", "message": "gone"}
        run = await end_run(replace(world.services, store=store), ref, RunStatus.FAILED, error)
        statuses = [one["status"] for one in (await world.executions(ref)).values()]
    assert run["counts"] == {one.value: statuses.count(one) for one in Ex} | {"total": len(statuses)}
    assert (run["counts"]["completed"], run["counts"]["skipped"]) == (2, 1)
