"""Demo data: a few real documents and a workflow that takes long enough to be cancelled, made through the HTTP API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

USER = "demo;Demo User"
DATA = Path(__file__).parent / "demo_data"
NAME = "Quarterly review"

WORKFLOW: dict[str, Any] = {
    "name": NAME,
    "description": "Reads the reports, asks the model about each, writes a review. Long enough to press cancel.",
    "steps": [
        {
            "kind": "analyze_documents",
            "name": "read",
            "documents": {"prefix": "reports/"},
            "parallel": 2,
            "prompt": "[[tokens=60 delay=25ms]] Summarise {{document.name}}:\n{{document.text}}",
        },
        {
            "kind": "model",
            "name": "write",
            "prompt": "[[tokens=1200 delay=25ms]] Write a review of: {{steps.read.output}}",
        },
        {"kind": "write_artifact", "name": "save", "path": "review.md", "content": "{{steps.write.output}}"},
        {"kind": "notify", "name": "tell", "subject": "The review is ready", "message": "See review.md"},
    ],
}


async def seed(base_url: str) -> None:
    """Upload the documents and create the workflow, unless an earlier start did; then print what to try."""
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Truestop-Dev-User": USER}, trust_env=False) as client:
        for path in sorted(DATA.iterdir()):
            answer = await client.put(f"/api/user/documents/reports/{path.name}", content=path.read_bytes())
            answer.raise_for_status()
        found = (await client.get("/api/user/workflows", params={"q": NAME})).raise_for_status().json()["items"]
        if not found:
            found = [(await client.post("/api/user/workflows", json=WORKFLOW)).raise_for_status().json()]
    print(_what_to_try(base_url, found[0]["id"]), flush=True)


def _what_to_try(base_url: str, workflow_id: str) -> str:
    return f"""
Demo: a workflow "{NAME}" that reads four reports and streams a long review.

The page: {base_url}/ (sign in as "demo"; press Run, then Stop). Or, in another terminal:

  export TRUESTOP={base_url}/api/user/workflows/{workflow_id}
  export ME='X-Truestop-Dev-User: {USER}'

  curl -s -X POST -H "$ME" $TRUESTOP/run                  # start a run
  curl -s -H "$ME" $TRUESTOP/runs?limit=1                 # see it
  curl -s -X POST -H "$ME" $TRUESTOP/cancel               # cancel it in the middle
  curl -s -H "$ME" $TRUESTOP/runs?limit=1                 # cancelled, with the receipt

  {base_url}/dev/model/log shows what the model was really asked, and how each answer ended.
"""
