"""A whole run over real documents: what a newcomer's first workflow does, from upload to notification."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api, ModelLog, Workflow
from tests.support.promise import assert_ended_whole, assert_workflow_free

pytestmark = pytest.mark.several_processes
DATA = Path(__file__).parent.parent / "data"
OPENINGS = {
    "figures.csv": "month | region | orders |",
    "letter.txt": "Dear Ms Lin,",
    "meeting_notes.md": "# Review meeting, 9 October 2026",
    "quarterly_report.docx": "Quarterly report",
    "supplier_news.html": "Supplier news",
    "travel_policy.pdf": "Travel and expenses policy",
}
"""How the text of each document begins: the scripted model repeats the first words that it is given."""


def upload_all(api: Api, names: list[str] | None = None) -> list[str]:
    """Upload the documents below `reports/`; answers their names there."""
    names = names or sorted(OPENINGS)
    return [api.upload(f"reports/{name}", (DATA / name).read_bytes())["name"] for name in names]


def reviewing(api: Api) -> Workflow:
    """A workflow with one step of every kind that needs no network."""
    quick = f"[[tokens=24 delay=1ms key={api.user}]]"
    return api.workflow(
        {
            "kind": "analyze_documents",
            "name": "read",
            "documents": {"prefix": "reports/"},
            "parallel": 3,
            "prompt": quick + "{{document.text}}",
        },
        {
            "kind": "compare_documents",
            "name": "compare",
            "documents": {"names": ["reports/letter.txt", "reports/figures.csv"]},
            "prompt": quick + "What differs?",
        },
        {"kind": "model", "name": "write", "system": "Be brief.", "prompt": quick + "{{steps.read.output}}"},
        {"kind": "tool", "name": "wrap", "tool": "echo", "arguments": {"value": {"text": "{{steps.write.output}}"}}},
        {
            "kind": "write_artifact",
            "name": "save",
            "path": "out/review.md",
            "content": "For {{input.who}}: {{steps.wrap.output.text}}",
        },
        {"kind": "notify", "name": "tell", "subject": "Ready", "message": "{{steps.compare.output}}"},
        name="Review",
    )


def test_a_run_reads_real_documents_asks_the_model_and_leaves_an_artifact(api: Api, model: ModelLog) -> None:
    """Guards the main job without a cancel: six formats, every kind of step, and records that agree."""
    assert upload_all(api) == [f"reports/{name}" for name in sorted(OPENINGS)]
    run = reviewing(api).run(input={"who": "Mei"})
    whole = assert_ended_whole(run)
    assert (whole["status"], whole["error"], whole["cancel"]) == ("completed", None, None)
    # 6 steps; 6 items and their calls; 2 items and a call of the comparison; a model call; a tool call.
    assert whole["counts"]["total"] == whole["counts"]["completed"] == 6 + 12 + 3 + 1 + 1
    items = {one["name"]: one for one in run.items() if one["parent"] == "s01"}
    for name, opening in OPENINGS.items():
        assert opening in items[f"reports/{name}"]["output_preview"], name
    tree = run.executions()
    assert list(tree) == sorted(tree)
    assert {one["parent"] for one in tree.values() if one["depth"] == 0} == {None}
    assert tree["s01.i001.m"]["kind"] == "model_call"
    assert tree["s03.m"]["output_preview"].startswith("On “## reports/figures.csv On “month | region")
    assert len(model.idle()) == 8
    assert {(one["how"], one["sent"]) for one in model.entries()} == {("done", 24)}
    written = tree["s03"]["output_preview"]
    (artifact,) = api.ok("GET", f"{run.path}/artifacts")["items"]
    assert (artifact["path"], artifact["content_type"]) == ("out/review.md", "text/markdown")
    content = api.request("GET", f"{run.path}/artifacts/out/review.md")
    assert content.text == f"For Mei: {written}"
    assert int(artifact["size"]) == len(content.content)
    assert_workflow_free(run)


def test_the_events_of_a_run_tell_it_in_order(api: Api) -> None:
    """Guards the history: every node begins before it ends, the ids rise, and the run's own events frame them."""
    upload_all(api, ["letter.txt", "figures.csv"])
    run = reviewing(api).run(input={"who": "Mei"})
    events = run.events()
    assert [one["id"] for one in events] == sorted(one["id"] for one in events)
    assert [one["at"] for one in events[:-1]] == sorted(one["at"] for one in events[:-1])
    types = [one["type"] for one in events]
    assert (types[:2], types[-1]) == (["run.queued", "run.started"], "run.completed")
    seen: dict[str, list[str]] = {}
    for one in events[2:-1]:
        seen.setdefault(one["execution_id"], []).append(one["type"])
    assert set(seen) == {f"{run.id}:{path}" for path in run.executions()}
    notified = seen.pop(f"{run.id}:s06")
    assert sorted(notified[1:]) == ["execution.completed", "execution.output"]
    assert set(map(tuple, seen.values())) == {("execution.started", "execution.completed")}
    paged = run.api.all(f"{run.path}/events", limit=5)
    assert paged == events


def test_every_link_of_a_run_resolves_and_its_location_is_itself(api: Api) -> None:
    """Guards the answers as entry points: a client follows links, it builds no paths."""
    workflow = api.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}})
    started = api.request("POST", f"{workflow.path}/run", json={"wait": 10})
    assert started.status_code == 202
    run = started.json()
    assert run["status"] == "completed"
    assert started.headers["location"] == run["links"]["self"]
    for name, link in run["links"].items():
        expected = {"cancel": 404, "cancellation": 404}.get(name, 200)
        assert api.request("GET", link).status_code == expected, name
    assert api.ok("GET", run["links"]["self"]) == run


def test_a_failed_step_stops_the_run_and_skips_the_rest_unless_it_says_continue(api: Api) -> None:
    """Guards `on_error`: the error names the cause, later steps are skipped, and `continue` goes on with an empty output."""
    fails = {"kind": "tool", "name": "bad", "tool": "read_document", "arguments": {"name": "nothing.txt"}}
    after = {"kind": "tool", "name": "after", "tool": "echo", "arguments": {"value": "<{{steps.bad.output}}>"}}
    stopped = api.workflow(fails, after).run()
    whole = assert_ended_whole(stopped)
    assert (whole["status"], whole["error"]["code"]) == ("failed", "document_missing")
    assert [one["status"] for one in stopped.executions().values()] == ["failed", "failed", "skipped"]
    went_on = api.workflow({**fails, "on_error": "continue"}, after).run()
    assert assert_ended_whole(went_on)["status"] == "completed"
    assert went_on.executions()["s02"]["output_preview"] == "<>"


def test_a_document_that_cannot_be_read_fails_its_item_only(api: Api) -> None:
    """Guards the fan-out: the error says what is wrong with which document; the setting decides about the run."""
    upload_all(api, ["letter.txt"])
    for name in ("corrupt.pdf", "encrypted.pdf", "scan.pdf"):
        api.upload(f"reports/{name}", (DATA / name).read_bytes())
    api.upload("reports/tool.exe", b"MZ\x90")
    reading = {
        "kind": "analyze_documents",
        "documents": {"prefix": "reports/"},
        "prompt": "[[tokens=3 delay=1ms]] {{document.text}}",
        "parallel": 1,
    }
    went_on = api.workflow({**reading, "on_error": "continue"}).run()
    assert assert_ended_whole(went_on)["status"] == "completed"
    errors = {one["name"]: (one["error"] or {}).get("code") for one in went_on.items()}
    assert errors == {
        "reports/corrupt.pdf": "document_unreadable",
        "reports/encrypted.pdf": "document_unreadable",
        "reports/letter.txt": None,
        "reports/scan.pdf": "document_empty",
        "reports/tool.exe": "document_type_unsupported",
    }
    stopped = api.workflow(reading).run()
    whole = assert_ended_whole(stopped)
    assert (whole["status"], whole["error"]["code"]) == ("failed", "document_unreadable")
    assert "reports/corrupt.pdf" in whole["error"]["message"]
    assert {one["status"] for one in stopped.items()} == {"failed", "skipped"}


def test_runs_survive_a_graceful_restart(start_host: StartHost) -> None:
    """Guards stop and start: what waited for a model goes on, also within an item, and what had ended is still there."""
    host = start_host(TRUESTOP_FENCE_SECONDS="1")
    with new_client(host.base_url) as client:
        api = Api(client)
        api.upload("a.txt", b"A few words.")
        ended = api.workflow({"kind": "tool", "tool": "echo", "arguments": {"value": 1}}).run()
        before = ended.get()
        asking = {"prompt": f"[[tokens=200 delay=10ms key={api.user}]]Go"}
        reading = {"kind": "analyze_documents", "documents": {"prefix": ""}}
        going = [api.workflow({**kind, **asking}).start() for kind in ({"kind": "model"}, reading)]
        ModelLog(client, api.user).streaming(2)
    host.stop()
    host.restart()
    with new_client(host.base_url) as client:
        api.client = client
        assert ended.get() == before
        for run in going:
            assert run.wait()["status"] == "completed", run.get()["error"]
            assert_ended_whole(run)
