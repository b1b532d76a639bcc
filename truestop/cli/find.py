"""Which workflow and run a command means: a workflow by id or name, its latest run when none is named."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from truestop import Client, NotFound, Run, Workflow

WorkflowName = Annotated[str, typer.Argument(metavar="WORKFLOW", help="A workflow: its id, or its name.")]
RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id; else the active or latest one.")]
_ID = re.compile(r"[a-z0-9]{26}")


def workflow(client: Client, name: str) -> Workflow:
    """The workflow of this id or name. Raises `NotFound`; `ValueError` when several have that name."""
    if _ID.fullmatch(name):
        try:
            return client.workflows.get(name)
        except NotFound:
            pass  # it may be a name
    found = [one for one in client.workflows.list(search=name[:200]) if one.name == name]
    if not found:
        raise NotFound(404, "workflow_not_found", f"there is no workflow {name!r}")
    if len(found) > 1:
        ids = ", ".join(one.id for one in found)
        raise ValueError(f"several workflows are called {name!r}: name one by its id ({ids})")
    return found[0]


def run(client: Client, workflow_name: str, run_id: str | None) -> Run:
    """The run of this id, else the workflow's active run, else its latest. Raises as `workflow` does."""
    of = workflow(client, workflow_name)
    run_id = run_id or of.runtime.get("active_run_id")
    if run_id is not None:
        return client.runs.get(of.id, run_id)
    for latest in client.runs.list(of.id):
        return latest
    raise NotFound(404, "run_not_found", f"{of.name!r} has had no run")
