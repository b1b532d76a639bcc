"""The client over HTTP: runs started, followed and stopped from threads and tasks; how they end; what it refuses."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

import truestop
from scripts.generate_sync_client import PACKAGE, generated
from tests.client.conftest import LONG, Steps, model, wait_for_step, wait_for_text
from tests.support.host import ROOT
from tests.support.waiting import eventually


def test_a_run_is_started_in_one_thread_and_cancelled_from_another(client: truestop.Client, workflow: Steps) -> None:
    """Guards the promise as a program sees it: who waits is told by whom and why, and has the text that had come."""
    run = client.start(workflow(LONG).id)
    ended: list[truestop.RunCancelled] = []

    def work() -> None:
        try:
            run.result()
        except truestop.RunCancelled as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for_text(run)
    receipt = run.cancel("seen enough")
    thread.join(20)
    (error,) = ended
    assert receipt.source == "client"
    assert [(one.kind, one.execution_id) for one in receipt.in_flight] == [("model_call", f"{run.id}:s01.m")]
    assert error.receipt.reason == "seen enough"
    assert [one.outcome for one in error.receipt.in_flight] == ["stopped"]
    assert error.receipt.acknowledged is True
    assert error.run.status == "cancelled"
    assert error.partial["s01.m"].startswith("On “Tell me a long story”")
    assert "seen enough" in str(error)


async def test_a_task_cancels_what_another_follows(server: str, user: str) -> None:
    """Guards the asynchronous client: the same names, and an iterator that ends when the run does."""
    async with truestop.AsyncClient(server, user=user) as client:
        made = await client.workflows.create({"name": "Test", "steps": [{"name": "s", **LONG}]})
        run = await client.start(made.id)
        seen: list[str] = []

        async def follow() -> None:
            async for event in run.events():
                seen.append(event.type)  # noqa: PERF401 - looked at while it grows

        task = asyncio.create_task(follow())
        await eventually(lambda: "execution.started" in seen)
        receipt = await run.cancel()
        await asyncio.wait_for(task, 20)
        assert receipt.run_id == run.id
        assert seen[0] == "run.queued"
        assert seen[-1] == "run.cancelled"
        assert seen.count("run.cancelling") == 1
        with pytest.raises(truestop.RunCancelled):
            await run.result()
        assert [one.id async for one in client.runs.list(made.id, status="cancelled")] == [run.id]


def test_an_interrupted_wait_and_a_closed_client_cancel_nothing(
    server: str, user: str, client: truestop.Client, workflow: Steps
) -> None:
    """Guards that only `cancel` cancels."""
    made = workflow(model("[[tokens=150 delay=10ms]] x"))
    with truestop.Client(server, user=user) as other:
        run = other.start(made.id)
        with pytest.raises(TimeoutError, match=r"still (queued|running)"):
            run.wait(0.2)
        events = run.events()
        next(events)
        events.close()
    assert client.runs.get(made.id, run.id).wait(20).status == "completed"


def test_events_come_once_in_order_and_go_on_from_the_last_one(client: truestop.Client, workflow: Steps) -> None:
    """Guards who stores the last event's id and comes back: nothing twice, nothing missed."""
    run = client.start(workflow(model("a"), model("b")).id)
    live = [event.id for event in run.events()]
    assert live == [event.id for event in run.events()]
    assert len(set(live)) == len(live) > 3
    assert [event.id for event in run.events(after=live[2])] == live[3:]


def test_changes_hold_text_while_it_streams(client: truestop.Client, workflow: Steps) -> None:
    """Guards live views: the text of a model call grows, and the run's end is among the changes."""
    run = client.start(workflow(model("[[tokens=150 delay=10ms]] x")).id)
    lengths, statuses = [], []
    for change in run.changes():
        if isinstance(change.value, truestop.Execution) and change.value.kind == "model_call":
            lengths.append(len(change.value.output_preview or ""))
        elif isinstance(change.value, truestop.RunState):
            statuses.append(change.value.status)
    assert sorted(lengths) == lengths
    assert len({length for length in lengths if length}) > 1
    assert statuses[-1] == run.status == "completed"


def test_results_and_failures(client: truestop.Client, workflow: Steps) -> None:
    """Guards `result`: the output, or an error with the run's code and message."""
    assert client.start(workflow(model("[[say=forty two]]")).id).result(20) == "forty two"
    with pytest.raises(truestop.RunFailed) as caught:
        client.start(workflow(model("[[status=400]]")).id).result(20)
    assert caught.value.code == "model_rejected"
    assert caught.value.run.status == "failed"
    assert caught.value.code in str(caught.value)


def test_branches_and_finished_runs(client: truestop.Client, workflow: Steps) -> None:
    """Guards a narrow cancel, whose run goes on, and cancels that come too late."""
    run = client.start(workflow(model("[[say=one]]"), LONG).id)
    wait_for_step(run, "s02.m")
    narrow = run.cancel_execution("s02", "not this")
    assert (narrow.execution_id, narrow.run_id) == (f"{run.id}:s02", run.id)
    assert "goes on" in narrow.warning
    assert run.wait(20).status == "completed"
    with pytest.raises(truestop.AlreadyFinished) as caught:
        run.cancel()
    assert caught.value.state == "completed"
    with pytest.raises(truestop.NotFound, match="not_cancelled"):
        run.receipt()


def test_trees_and_resuming(client: truestop.Client, workflow: Steps) -> None:
    """Guards a cancel with a result a node, and what a resumed run reuses."""
    made = workflow(model("[[say=one]]"), LONG)
    run = client.start(made.id)
    with pytest.raises(truestop.WorkflowBusy) as busy:
        client.start(made.id)
    assert busy.value.active_run_id == run.id
    wait_for_step(run, "s02.m")
    with pytest.raises(truestop.RunActive):
        run.resume()
    tree = run.cancel_tree("all of it")
    assert {node.id: node.status for node in tree.nodes}[f"{run.id}:s01"] == "completed"
    assert run.wait(20).status == "cancelled"
    assert run.receipt().reason == "all of it"
    again = run.resume()
    assert again.state.resumed_from is not None
    assert client.workflows.cancel(made.id).run_id == again.id
    assert again.wait(20).status == "cancelled"


def test_workflows_documents_artifacts_and_items(client: truestop.Client) -> None:
    """Guards the other resources against the real service."""
    assert client.documents.put("notes/a b.txt", b"alpha", "text/plain").name == "notes/a b.txt"
    assert client.documents.get("notes/a b.txt") == b"alpha"
    assert [(one.name, one.size) for one in client.documents.list("notes/")] == [("notes/a b.txt", 5)]
    read = {
        "kind": "analyze_documents",
        "name": "read",
        "documents": {"prefix": "notes/"},
        "prompt": "{{document.text}}",
    }
    save = {"kind": "write_artifact", "name": "save", "path": "out/x.md", "content": "done"}
    made = client.workflows.create({"name": "Read and save", "steps": [read, save]})
    assert [one.id for one in client.workflows.list(search="and save")] == [made.id]
    changed = client.workflows.patch(made.id, {"enabled": False}, etag=made.etag)
    assert [one.id for one in client.workflows.list(enabled=False)] == [made.id]
    with pytest.raises(truestop.RevisionChanged):
        client.workflows.replace(made.id, made.definition, etag=made.etag)
    assert client.workflows.replace(made.id, changed.definition | {"name": "New"}).name == "New"
    run = client.start(made.id, {"x": 1})
    assert run.wait(20).status == "completed"
    assert [one.status for one in run.items("completed")] == ["completed"]
    assert [one.path for one in run.artifacts()] == ["out/x.md"]
    assert run.artifact("out/x.md") == b"done"
    assert [one.id for one in client.runs.list(made.id)] == [run.id]
    client.workflows.delete(made.id)
    with pytest.raises(truestop.NotFound):
        client.workflows.get(made.id)
    client.documents.delete("notes/a b.txt")
    for name in ("../x", "a//b", ""):
        with pytest.raises(ValueError, match="not a name"):
            client.documents.get(name)


def test_groups(client: truestop.Client, server: str, user: str) -> None:
    """Guards group work: a client of the group, its members, and who may not."""
    group = client.groups.create("Team")
    assert client.groups.set_member(group.id, "u-other", "User", "Other").members[1].name == "Other"
    team = client.in_group(group.id)
    made = team.workflows.create({"name": "Ours", "steps": [{"name": "s", **model("[[say=ours]]")}]})
    assert made.scope == f"group:{group.id}"
    assert list(client.workflows.list()) == []
    with truestop.Client(server, user="u-other", group=group.id) as other:
        run = other.start(made.id)
        assert run.result(20) == "ours"
        assert [event.type for event in run.events()][-1] == "run.completed"
        with pytest.raises(truestop.Forbidden, match="role_required"):
            other.workflows.delete(made.id)
        other.groups.activate(group.id)
        assert other.me()["active_group"] == group.id
    assert client.groups.rename(group.id, "Crew").name == "Crew"
    assert [one.id for one in client.groups.list()] == [group.id]
    client.groups.remove_member(group.id, "u-other")
    assert [one.id for one in client.groups.get(group.id).members] == [user]
    client.groups.delete(group.id)


def test_lists_are_read_over_all_their_pages(
    client: truestop.Client, monkeypatch: pytest.MonkeyPatch, workflow: Steps
) -> None:
    """Guards lists longer than a page."""
    monkeypatch.setattr("truestop._sync.transport.PAGE", "2")
    made = {workflow(model("x"), name=f"W{number}").id for number in range(5)}
    assert {one.id for one in client.workflows.list()} == made


def test_problems_are_typed_and_say_what_is_wrong(client: truestop.Client, server: str) -> None:
    """Guards what a caller catches."""
    with pytest.raises(truestop.Invalid) as caught:
        client.workflows.create(
            {"name": "x", "steps": [{"kind": "model", "name": "a", "prompt": "{{steps.b.output}}"}]}
        )
    assert (caught.value.status, caught.value.code) == (422, "invalid")
    assert caught.value.errors
    assert caught.value.errors[0]["field"] in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.errors, str(copy)) == (truestop.Invalid, caught.value.errors, str(caught.value))
    with truestop.Client(server) as nobody, pytest.raises(truestop.NotSignedIn):
        nobody.me()
    assert client.health()["status"] == "up"


@pytest.mark.parametrize("address", ["127.0.0.1:7071", "ftp://x", "http://", "https://x/?a=b"])
def test_a_server_that_is_no_address_is_refused(address: str) -> None:
    """Guards against an error far from its cause."""
    with pytest.raises(ValueError, match="address"):
        truestop.Client(address)


def test_settings_come_from_the_environment(server: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards programs that name no server, and tokens against being shown."""
    monkeypatch.setenv("TRUESTOP_SERVER", server + "/")
    monkeypatch.setenv("TRUESTOP_USER", user)
    with truestop.Client() as client:
        assert client.me()["id"] == user
        assert user not in repr(client._connection)


def test_both_clients_have_the_same_names() -> None:
    """Guards one manual for both, and that nobody edits the generated one."""
    for name, text in generated().items():
        assert (PACKAGE / "_sync" / name).read_text() == text, f"{name}: run `make client`"
    for one, other in ((truestop.Client, truestop.AsyncClient), (truestop.Run, truestop.AsyncRun)):
        assert _public(one) == _public(other)
    assert not any(inspect.iscoroutinefunction(member) for member in vars(truestop.Run).values())


def _public(kind: type[Any]) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_client_brings_in_nothing_of_the_app() -> None:
    """Guards people without Azure packages: what is imported is httpx and the standard library."""
    script = (
        "import sys, truestop\n"
        "own = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(own & {'shared', 'azure', 'pydantic', 'openai', 'typer', 'devhost'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_notebooks_show_a_run_and_its_receipt_escaped(client: truestop.Client, workflow: Steps) -> None:
    """Guards against what a model or a person wrote becoming part of a notebook's page."""
    run = client.start(workflow(LONG).id)
    wait_for_text(run)
    run.cancel("<script>alert(1)</script>")
    run.wait(20)
    shown = run._repr_mimebundle_()
    assert "<script>" not in shown["text/html"]
    assert "&lt;script&gt;" in shown["text/html"]
    assert "model_call model: stopped" in shown["text/html"]
    assert run.id in shown["text/plain"]
    assert "cancelled" in run.receipt()._repr_html_()
