"""`truestop admin …`, for operators. The service keeps a record of what they do."""

from __future__ import annotations

from typing import Annotated

import typer

from truestop.cli.runs import Force, Grace
from truestop.cli.session import Exit, Session, command
from truestop.cli.show import status, table, when
from truestop.cli.workflows import Yes

app = typer.Typer(no_args_is_help=True)
Scope = Annotated[str | None, typer.Option(help="Only of this scope: user:ID or group:ID.")]
Workflow = Annotated[str | None, typer.Option("--workflow", help="Only of the workflow with this id.")]
OlderThan = Annotated[float | None, typer.Option(help="Only those created more than so many seconds ago.")]


@command(app, "runs")
def list_runs(
    session: Session,
    state: Annotated[str, typer.Option("--status", help="active, or one status.")] = "active",
    scope: Scope = None,
    workflow_id: Workflow = None,
    older_than: OlderThan = None,
) -> None:
    """Everyone's runs, newest first."""
    admin = session.client.admin
    found = list(admin.runs(status=state, scope=scope, workflow_id=workflow_id, older_than=older_than))
    if session.json:
        session.emit([one.raw for one in found])
        return
    rows = [(one.id, status(one.status), when(one.created_at), one.workflow_id, one.scope) for one in found]
    session.show(table(("run", "status", "created", "workflow", "scope"), rows))


@command(app, "cancel")
def cancel_runs(
    session: Session,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why, for the record.")],
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...")] = None,
    scope: Scope = None,
    workflow_id: Workflow = None,
    older_than: OlderThan = None,
    grace: Grace = None,
    force: Force = False,
    yes: Yes = False,
) -> None:
    """Stop the runs named, or all active ones that fit; --older-than 0 alone means all."""
    if not run_ids:
        if scope is None and workflow_id is None and older_than is None:
            raise typer.BadParameter("name runs, --scope, --workflow or --older-than")
        session.confirm("Stop every active run that fits?", yes)
    done = session.client.admin.cancel(
        reason,
        run_ids=run_ids or None,
        scope=scope,
        workflow_id=workflow_id,
        older_than=older_than,
        grace_seconds=grace,
        force=force,
    )
    if session.json:
        session.emit(done.raw)
    else:
        rows = [
            (one.run_id, one.result, status(one.status or "–"), one.error.message if one.error else "")
            for one in done.results
        ]
        session.show(table(("run", "result", "status", ""), rows))
        if done.job:
            session.say(f"The rest is being worked off by job {done.job['id']}.")
    if any(one.error for one in done.results):
        raise typer.Exit(Exit.REFUSED)


@command(app, "wedged")
def list_wedged(session: Session) -> None:
    """What may need you: cancels past their grace, expired leases, work that takes too long."""
    found = session.client.admin.wedged()
    if session.json:
        session.emit(found)
        return
    rows = [
        (kind, one["scope"], one["workflow_id"], one.get("execution_id") or one["run_id"], one[since])
        for kind, since in (("cancelling", "requested_at"), ("leases", "expires_at"), ("operations", "started_at"))
        for one in found[kind]
    ]
    if not rows:
        session.show("Nothing is wedged.")
        return
    session.show(table(("what", "scope", "workflow", "run", "since"), rows))
