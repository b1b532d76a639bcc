"""Machines and operators over HTTP: a key in place of a sign-in, and a cancel of everything in one scope."""

from __future__ import annotations

import httpx

from shared.permissions import OPERATOR_ROLE
from tests.support.api import Api

SLEEP = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 600}}


def test_a_machine_starts_and_cancels_with_a_key_until_it_is_revoked(api: Api, client: httpx.Client) -> None:
    """Guards the header on its way through a real host, without anybody signed in."""
    workflow = api.workflow(SLEEP)
    made = api.ok("POST", "/api/keys", 201, json={"name": "robot", "allows": ["start", "cancel"]})
    bearer = {"Authorization": f"Bearer {made['key']}"}
    started = client.post(f"{workflow.path}/run", headers=bearer, json={})
    assert started.status_code == 202, started.text
    assert started.json()["requested_by"] == {"id": api.user, "name": api.user, "key": "robot"}
    assert client.get(workflow.path, headers=bearer).json()["code"] == "key_scope"
    assert client.post(f"{workflow.path}/cancel", headers=bearer, json={}).status_code in (200, 202)
    api.ok("DELETE", f"/api/keys/{made['id']}", 204)
    refused = client.post(f"{workflow.path}/run", headers=bearer, json={})
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")


def test_an_operator_stops_all_runs_of_a_scope(api: Api, client: httpx.Client) -> None:
    """Guards the whole way of a bulk cancel: runs at work end, their people see who did it and why."""
    runs = [api.workflow(SLEEP).start() for _ in range(3)]
    for run in runs:
        run.wait("running")
    operator = Api(client, f"operator;Op;roles={OPERATOR_ROLE}")
    listed = operator.ok("GET", "/api/admin/runs", params={"scope": f"user:{api.user}"})["items"]
    assert {one["id"] for one in listed} == {run.id for run in runs}
    order = {"reason": "the bill", "scope": f"user:{api.user}"}
    results = operator.ok("POST", "/api/admin/runs/cancel", json=order)["results"]
    assert {one["run_id"]: one["result"] in ("cancelling", "cancelled") for one in results} == {
        run.id: True for run in runs
    }
    for run in runs:
        assert run.wait()["status"] == "cancelled"
        receipt = run.receipt()
        assert (receipt["source"], receipt["reason"], receipt["requested_by"]["id"]) == (
            "admin",
            "the bill",
            "operator",
        )
        assert "operator.cancelled" in run.types()
    told = operator.ok("GET", f"/api/admin/runs/{runs[0].id}/trail")["trail"]
    assert {"run.queued", "run.cancelling", "operator.cancelled", "run.cancelled"} <= {one["type"] for one in told}
    lines = operator.request("GET", f"/api/admin/runs/{runs[0].id}/events")
    assert len(lines.text.splitlines()) == len(runs[0].events())
    assert api.request("GET", "/api/admin/runs").status_code == 403
