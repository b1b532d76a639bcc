"""Workflows and documents as resources: create, read, replace, merge, delete, list; and names that would climb out."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.api import DOCUMENTS, WORKFLOWS, Api

ECHO = {"kind": "tool", "name": "s1", "tool": "echo", "arguments": {"value": 1}}
GOOD = {"name": "Good", "steps": [ECHO]}


def test_a_workflow_is_answered_as_it_was_written_with_defaults_for_the_rest(api: Api) -> None:
    """Guards create and read: Location and ETag lead to the same thing, steps stay as their writer wrote them."""
    created = api.request("POST", WORKFLOWS, json=GOOD)
    assert created.status_code == 201
    body = created.json()
    assert created.headers["location"] == f"{WORKFLOWS}/{body['id']}"
    assert created.headers["etag"] == body["etag"] == '"1"'
    expected = {"description": "", "enabled": True, "grace_seconds": 30, "after_cancel": "next_slot", "steps": [ECHO]}
    assert {name: body[name] for name in expected} == expected
    assert body["scope"] == f"user:{api.user}"
    assert body["runtime"]["status"] == "idle"
    read = api.request("GET", created.headers["location"])
    assert (read.json(), read.headers["etag"]) == (body, body["etag"])
    assert read.headers["cache-control"] == "no-store"


def test_put_replaces_and_patch_merges(api: Api) -> None:
    """Guards the difference: what a PUT leaves out goes back to its default, what a PATCH leaves out stays."""
    workflow = api.workflow(ECHO, description="Long", grace_seconds=5)
    merged = api.ok("PATCH", workflow.path, json={"name": "Other", "description": None})
    assert (merged["name"], merged["description"], merged["grace_seconds"]) == ("Other", "", 5)
    replaced = api.ok("PUT", workflow.path, json=GOOD)
    assert (replaced["name"], replaced["grace_seconds"], replaced["etag"]) == ("Good", 30, '"3"')
    assert api.ok("PUT", workflow.path, json=replaced)["name"] == "Good"  # what was read may be sent back
    refused = api.request("PATCH", workflow.path, json={"name": None})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "name")


def test_if_match_refuses_what_was_read_too_long_ago(api: Api) -> None:
    """Guards against lost updates, for every way to change; a run in between changes no definition, so no etag."""
    workflow = api.workflow(ECHO)
    first = workflow.get()["etag"]
    workflow.run()
    api.ok("PATCH", workflow.path, json={"name": "Second"}, headers={"If-Match": first})
    for method, body in (("PUT", GOOD), ("PATCH", {"name": "Third"}), ("DELETE", None)):
        for etag in (first, '"nonsense"', '"9999999999999999999999"'):
            stale = api.request(method, workflow.path, json=body, headers={"If-Match": etag})
            assert (stale.status_code, stale.json()["code"]) == (412, "revision_changed")
    assert workflow.get()["name"] == "Second"
    fresh = workflow.get()["etag"]
    assert api.request("DELETE", workflow.path, headers={"If-Match": fresh}).status_code == 204


def test_a_run_keeps_the_definition_that_it_began_with(api: Api) -> None:
    """Guards edits during a run."""
    wait = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 0.3}}
    run = api.workflow(wait, {**ECHO, "name": "s2", "arguments": {"value": "old"}}).start()
    api.ok("PATCH", run.workflow.path, json={"steps": [ECHO]})
    assert run.wait()["output_preview"] == "old"
    assert run.workflow.run().get()["output_preview"] == "1"


def test_lists_are_paged_without_gaps_and_filtered(api: Api, client: httpx.Client) -> None:
    """Guards paging over several pages, newest first, and that filters look at everything, not at one page."""
    ids = [
        api.ok("POST", WORKFLOWS, 201, json={**GOOD, "name": f"Flow {n}", "enabled": n % 2 == 0})["id"]
        for n in range(7)
    ]
    assert [one["id"] for one in api.all(WORKFLOWS, limit=3)] == ids[::-1]
    assert len(api.all(WORKFLOWS, limit=1, enabled="true")) == 4
    assert [one["id"] for one in api.all(WORKFLOWS, limit=2, q="Flow 3")] == [ids[3]]
    assert api.all(WORKFLOWS, status="running") == []
    assert Api(client).all(WORKFLOWS) == []


def test_the_history_of_a_workflow_is_paged_and_filtered(api: Api) -> None:
    """Guards runs as a list: newest first, by status, by trigger and by time."""
    workflow = api.workflow({"kind": "tool", "tool": "read_document", "arguments": {"name": "{{input}}"}})
    api.upload("there.txt", b"text")
    ids = [workflow.run(input=name).id for name in ("there.txt", "gone.txt", "there.txt", "there.txt", "gone.txt")]
    listed = api.all(f"{workflow.path}/runs", limit=2)
    assert [one["id"] for one in listed] == ids[::-1]
    failed = api.all(f"{workflow.path}/runs", limit=1, status="failed")
    assert [one["id"] for one in failed] == [ids[4], ids[1]]
    assert len(api.all(f"{workflow.path}/runs", trigger="manual")) == 5
    middle = listed[1]["created_at"]
    assert [one["id"] for one in api.all(f"{workflow.path}/runs", **{"from": middle})] == ids[:2:-1]
    assert [one["id"] for one in api.all(f"{workflow.path}/runs", to=middle)] == ids[3::-1]


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "deep/er/a.txt",
        "Ärger & Söhne 100%.txt",
        "日本語/報告.md",
        "a+b=c?.txt",
        "#1;x.txt",
        "...a",
        "'\"`$(x).txt",
    ],
)
def test_a_document_comes_back_as_it_went(api: Api, client: httpx.Client, name: str) -> None:
    """Guards names: whatever may be one is taken literally, and belongs to its user only."""
    data = bytes(range(256)) * 40
    put = api.request("PUT", f"{DOCUMENTS}/{quote(name)}", content=data, headers={"Content-Type": "text/x-test"})
    assert (put.status_code, put.json()["name"], put.json()["size"]) == (200, name, len(data))
    got = api.request("GET", f"{DOCUMENTS}/{quote(name)}")
    assert (got.content, got.headers["content-type"].partition(";")[0]) == (data, "text/x-test")
    assert (got.headers["content-disposition"], got.headers["content-security-policy"]) == ("attachment", "sandbox")
    assert [one["name"] for one in api.all(DOCUMENTS)] == [name]
    assert Api(client).request("GET", f"{DOCUMENTS}/{quote(name)}").status_code == 404
    assert api.request("DELETE", f"{DOCUMENTS}/{quote(name)}").status_code == 204
    assert api.request("GET", f"{DOCUMENTS}/{quote(name)}").json()["code"] == "document_not_found"
    assert api.request("DELETE", f"{DOCUMENTS}/{quote(name)}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "%2e%2e/a.txt",
        "a/%2e%2e/%2e%2e/b.txt",
        "%2e",
        "a%5c..%5cb.txt",
        "a%00.txt",
        "a%0d%0ab.txt",
        "a.",
        "x" * 301,
    ],
)
def test_a_name_that_would_climb_out_is_422(api: Api, path: str) -> None:
    """Guards the scope's folder: such a name is refused, for reading, writing and deleting alike."""
    for method, content in (("PUT", b"x"), ("GET", None), ("DELETE", None)):
        answer = api.request(method, f"{DOCUMENTS}/{path}", content=content)
        assert answer.status_code == 422, (method, answer.status_code, answer.text)
        assert answer.json()["errors"][0]["field"] == "path"
    assert api.all(DOCUMENTS) == []


@pytest.mark.parametrize("path", ["..%2F..%2Fa.txt", "%2Fetc%2Fpasswd", "a%2F%2Fb"])
def test_an_encoded_slash_is_no_slash(api: Api, client: httpx.Client, path: str) -> None:
    """Guards what the Functions host does not decode: such a name is taken literally, inside the caller's own scope."""
    assert api.upload(path, b"x")["name"] == path
    assert [one["name"] for one in api.all(DOCUMENTS)] == [path]
    assert api.request("GET", f"{DOCUMENTS}/{path}").content == b"x"
    assert Api(client).all(DOCUMENTS) == []


def test_documents_are_listed_by_prefix_in_pages(api: Api) -> None:
    """Guards the list that `analyze_documents` works from."""
    names = [f"{folder}/{number:02}.txt" for folder in ("a", "b") for number in range(5)]
    for name in names:
        api.upload(name, b"x")
    assert [one["name"] for one in api.all(DOCUMENTS, limit=3)] == names
    assert [one["name"] for one in api.all(DOCUMENTS, limit=2, prefix="b/")] == names[5:]
    assert [one["name"] for one in api.all(DOCUMENTS, prefix="b/03")] == ["b/03.txt"]
    assert api.all(DOCUMENTS, prefix="c") == []


def test_an_upload_replaces_and_an_empty_or_huge_one_is_refused(api: Api) -> None:
    """Guards uploads: the last whole one counts."""
    first, second = api.upload("a.txt", b"first"), api.upload("a.txt", b"second")
    assert first["etag"] != second["etag"]
    assert api.request("PUT", f"{DOCUMENTS}/a.txt", content=b"").status_code == 422
    huge = api.request("PUT", f"{DOCUMENTS}/a.txt", content=b"x" * (20 * 1024 * 1024 + 1))
    assert (huge.status_code, huge.json()["code"]) == (413, "body_too_large")
    assert api.request("GET", f"{DOCUMENTS}/a.txt").content == b"second"


@pytest.mark.parametrize("value", ["ünï", {"a": [1, 2.5, None, True]}, "x" * 50_000, 0, [], "{{steps.x.output}}"])
def test_any_json_goes_through_a_run_unchanged(api: Api, value: Any) -> None:
    """Guards values on their way through input, templates, outputs and artifacts, large ones in blobs included."""
    echo = {"kind": "tool", "name": "echo", "tool": "echo", "arguments": {"value": "{{input}}"}}
    again = {
        "kind": "tool",
        "name": "again",
        "tool": "echo",
        "arguments": {"value": {"inner": "{{steps.echo.output}}"}},
    }
    save = {"kind": "write_artifact", "name": "save", "path": "value.json", "content": "{{steps.again.output}}"}
    run = api.workflow(echo, again, save).run(input=value)
    assert run.get()["status"] == "completed", run.get()["error"]
    assert run.get()["input"] == value
    assert api.request("GET", f"{run.path}/artifacts/value.json").json() == {"inner": value}


def test_who_is_asking_is_told(api: Api) -> None:
    """Guards identity's way through the host: id, name and roles as the platform gives them."""
    asked = api.ok("GET", "/api/me", headers={"X-Truestop-Dev-User": "mei@example.org;Mei Lin;roles=Truestop.Admin"})
    assert asked == {
        "id": "mei@example.org",
        "name": "Mei Lin",
        "roles": ["Truestop.Admin"],
        "active_group": None,
    }
