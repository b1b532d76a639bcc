"""Retention over HTTP: what has aged out is gone everywhere, and is not started again."""

from __future__ import annotations

from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import Api
from tests.support.waiting import eventually_sync

INSTANCES = "/runtime/webhooks/durabletask/instances"
LONG = {"kind": "tool", "tool": "echo", "arguments": {"value": "x" * 20_000}}
SAVE = {"kind": "write_artifact", "path": "a.md", "content": "text"}
SLEEP = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 60}}
A_SECOND = str(1 / 86400)


def test_an_old_run_is_gone_and_an_active_one_is_not(start_host: StartHost) -> None:
    """Guards the timer, the real client's purge, and that a receipt still says what became of its key."""
    host = start_host(TRUESTOP_RETENTION_DAYS=A_SECOND)
    with new_client(host.base_url) as client:
        api = Api(client)
        old, active = api.workflow(LONG, SAVE).start(run_id="key"), api.workflow(SLEEP).start()
        assert old.wait()["status"] == "completed"
        instances = [one["instanceId"] for one in client.get(INSTANCES).json() if one["instanceId"].startswith("key-")]
        assert len(instances) == 2

        def gone() -> bool:
            assert client.post("/admin/functions/retention", json={}).status_code == 202
            kept = [client.get(f"{INSTANCES}/{instance}").status_code for instance in instances]
            return api.request("GET", old.path).status_code == 404 and kept == [404, 404]

        eventually_sync(gone, 20, "the run and its instances are gone")
        assert list((host.data / "blobs").rglob("*@")) == []
        assert api.all(f"{old.workflow.path}/runs") == []
        again = api.request("POST", f"{old.workflow.path}/run", json={"run_id": "key"})
        assert (again.status_code, again.json()["code"]) == (409, "run_id_taken")
        assert active.get()["status"] == "running"
        assert active.cancel().status_code in (200, 202)
        assert active.wait("cancelled")
