"""A researcher with a fact-checking sub-agent, over the demo documents: cancelled in the middle, then resumed.

    make run                                      # in one terminal
    .venv/bin/python docs/examples/researcher.py  # in another; an address as argument: where else it runs

The texts in double square brackets tell devhost's scripted model what to do, so that this needs no account anywhere. With a
model of your own leave them out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx

DEMO = Path(__file__).parents[2] / "devhost" / "demo_data"
ME = {"X-Truestop-Dev-User": "researcher;Researcher"}
CHECKING = "s01.t02.c0.t02.m"
"""Step 1, turn 2, call 0 is the fact checker; its second turn is its answer."""
WAIT_SECONDS = 60


def scripted(tool: str, /, **arguments: str) -> str:
    """What makes the scripted model call a tool."""
    return f"[[tool={tool} arguments={json.dumps(arguments)}]]"


TO_CHECK = (
    scripted("read_document", name="research/figures.csv")
    + "[[tokens=80 delay=15ms]]Export revenue was 692,300 euros in September, more than in July. Is that so?"
)
QUESTION = (
    scripted("search_documents", query="export", prefix="research/")
    + scripted("fact_checker", input=TO_CHECK)
    + "[[tokens=40 delay=2ms]]How did export do this quarter, and what was decided about it?"
)
WORKFLOW: dict[str, Any] = {
    "name": "Research with a fact checker",
    "steps": [
        {
            "kind": "agent",
            "name": "research",
            "instructions": "Answer from the documents. Have every figure checked before you use it.",
            "input": QUESTION,
            "tools": ["search_documents", "read_document"],
            "max_turns": 8,
            "agents": [
                {
                    "name": "fact_checker",
                    "description": "Checks one statement against the documents.",
                    "instructions": "Look the figures up. Say whether the statement is right, and why.",
                    "tools": ["search_documents", "read_document"],
                }
            ],
        },
        {"kind": "write_artifact", "name": "save", "path": "research.md", "content": "{{steps.research.output}}"},
    ],
}


class Truestop:
    """The few requests that this needs."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, headers=ME, timeout=30, trust_env=False)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """A request's answer."""
        answer = self._http.request(method, path, **more)
        answer.raise_for_status()
        return answer.json()

    def wait(self, run: str, *statuses: str) -> dict[str, Any]:
        """The run, once it has one of these statuses."""
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            found: dict[str, Any] = self.ask("GET", run)
            if found["status"] in statuses:
                return found
            time.sleep(0.1)
        raise TimeoutError(f"{run} is not {' or '.join(statuses)}")

    def tree(self, run: str) -> dict[str, dict[str, Any]]:
        """The run's executions, by path."""
        return {one["path"]: one for one in self.ask("GET", f"{run}/executions")["items"]}

    def wait_for_text(self, run: str, path: str) -> None:
        """Wait until the model call at `path` has written something."""
        until = time.monotonic() + WAIT_SECONDS
        while not self.tree(run).get(path, {}).get("output_preview"):
            if time.monotonic() > until:
                raise TimeoutError(f"{path} writes nothing")
            time.sleep(0.05)


def show(title: str, tree: dict[str, dict[str, Any]]) -> None:
    """Print a run's tree."""
    print(f"\n{title}")
    for path, one in tree.items():
        again = "  (reused)" if one.get("reused_from") else ""
        print(f"  {path:<18} {one['kind']:<11} {one['name']:<17} {one['status']}{again}")


def main(address: str) -> None:
    """Research, cancel, resume."""
    truestop = Truestop(address)
    for file in sorted(DEMO.iterdir()):
        truestop.ask("PUT", f"/api/user/documents/research/{file.name}", content=file.read_bytes())
    workflow = truestop.ask("POST", "/api/user/workflows", json=WORKFLOW)["id"]
    runs = f"/api/user/workflows/{workflow}/runs"

    first = f"{runs}/{truestop.ask('POST', f'/api/user/workflows/{workflow}/run')['id']}"
    truestop.wait_for_text(first, CHECKING)
    print("The fact checker is writing. Cancel.")
    truestop.ask("POST", f"{first}/cancel", json={"reason": "the question was wrong"})
    truestop.wait(first, "cancelled")
    show("Cancelled:", truestop.tree(first))
    receipt = truestop.ask("GET", f"{first}/cancellation")
    for one in receipt["in_flight"]:
        print(f"  In flight was {one['execution_id'].partition(':')[2]}: {one['outcome']}.")

    second = f"{runs}/{truestop.ask('POST', f'{first}/resume', json={})['id']}"
    truestop.wait(second, "completed", "failed")
    show("Resumed:", truestop.tree(second))
    for artifact in truestop.ask("GET", f"{second}/artifacts")["items"]:
        print(f"  Wrote {artifact['path']}.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7071")
