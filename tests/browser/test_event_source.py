"""The stream, followed by a browser's own `EventSource`: what docs/live.md shows, without our page."""

from __future__ import annotations

from tests.browser.conftest import Open
from tests.support.api import Api

FOLLOW = """
async (url) => {
  const told = [];
  const source = new EventSource(url);
  for (const type of ["workflow", "run", "execution", "event"])
    source.addEventListener(type, (message) => told.push([type, JSON.parse(message.data)]));
  await new Promise((closed) => {
    source.onerror = () => source.readyState === EventSource.CLOSED && closed();
  });
  return told;
}
"""


def test_an_event_source_follows_a_run_and_stops_at_its_end(open_page: Open, api: Api) -> None:
    """It comes back with the last id by itself, also after windows without events; nothing is lost or told twice."""
    echo = {"kind": "tool", "tool": "echo", "arguments": {"value": "x"}}
    model = {"kind": "model", "prompt": f"[[key={api.user} tokens=100 delay=20ms]] go"}
    page = open_page("/")
    run = api.workflow(echo, model).start()
    before = api.ok("GET", f"{run.workflow.path}/activity", params={"run_id": run.id})
    told = page.evaluate(FOLLOW, f"{run.workflow.path}/stream?run_id={run.id}&after={before['feed']}")
    events = [one["id"] for type_, one in told if type_ == "event"]
    assert len(events) == len(set(events))
    assert {one["id"] for one in before["events"]} | set(events) == {one["id"] for one in run.events()}
    last = {one["id"]: one for type_, one in told if type_ != "event"}
    assert last[run.id] == run.get()
    assert last[f"{run.id}:s02.m"] == run.executions()["s02.m"]
