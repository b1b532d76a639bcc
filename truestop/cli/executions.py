"""`truestop executions …`."""

from __future__ import annotations

from typing import Annotated

import typer

from truestop.cli import find
from truestop.cli.runs import Reason
from truestop.cli.session import Session, command
from truestop.cli.show import lasted, status, table

app = typer.Typer(no_args_is_help=True)


@command(app, "list")
def list_executions(session: Session, name: find.WorkflowName, run_id: find.RunName = None) -> None:
    """A run's steps, items, agents and calls."""
    run = find.run(session.client, name, run_id)
    found = list(run.executions())
    if session.json:
        session.emit([one.raw for one in found])
        return
    rows = [
        (one.path, one.kind, status(one.status), lasted(one.started_at, one.ended_at), "  " * one.depth + one.name)
        for one in found
    ]
    session.show(table(("path", "kind", "status", "took", "name"), rows))
    session.say(f"To stop one of them: truestop executions cancel {run.id}:PATH")


@command(app, "cancel")
def cancel_execution(
    session: Session,
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="Its id, such as 01m…:s02.")],
    reason: Reason = None,
) -> None:
    """Stop one execution and what is below it. The run goes on."""
    receipt = session.client.runs.cancel_execution(execution, reason)
    if session.json:
        session.emit(receipt.raw)
    else:
        path = receipt.execution_id.partition(":")[2]
        session.show(f"{path} and what is below it: {receipt.status}")
    if receipt.run_status == "running":
        workflow_id = receipt.suggested_endpoint.partition("/workflows/")[2].partition("/")[0]
        session.say(f"Only that was stopped: the run goes on, {receipt.remaining_active_in_run} at work.", "yellow")
        session.say(f"To stop the whole run: truestop run cancel {workflow_id} {receipt.run_id}")
