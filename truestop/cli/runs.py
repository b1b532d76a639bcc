"""`truestop run …`, but for `watch`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from truestop import Run
from truestop.cli import find
from truestop.cli.session import RUN_EXITS, Session, command
from truestop.cli.show import lasted, receipt_facts, run_facts, status, table, when

app = typer.Typer(no_args_is_help=True)
Reason = Annotated[str | None, typer.Option("--reason", "-m", help="Why, for the record.")]
Grace = Annotated[float | None, typer.Option(help="Seconds to wait for work in flight; 0 to 300.")]
Force = Annotated[bool, typer.Option("--force", help="Don't wait for what has not stopped.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until it has ended.")]


@command(app, "start")
def start_run(
    session: Session,
    name: find.WorkflowName,
    given: Annotated[str | None, typer.Option("--input", "-i", help="JSON, or @FILE, or @- for stdin.")] = None,
    run_id: Annotated[str | None, typer.Option(help="An id of your own: started once, however often asked.")] = None,
    wait: Wait = False,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it.")] = False,
) -> None:
    """Start a run and print its id. --wait and --watch end with its exit code."""
    from truestop.cli.watch import watch

    one = find.workflow(session.client, name)
    run = session.client.start(one.id, _input(given), run_id=run_id)
    if follow:
        watch(session, run)
    elif wait:
        session.follow()
        run.wait()
        show(session, run)
        raise typer.Exit(RUN_EXITS[run.status])
    elif session.json:
        session.emit(run.state.raw)
    else:
        session.show(run.id)
        session.say(f"Started. Follow it: truestop run watch {one.id} {run.id}")
        session.say(f"Stop it:            truestop run cancel {one.id} {run.id}")


def _input(text: str | None) -> Any:
    if text is None:
        return None
    try:
        if text.startswith("@"):
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text("utf-8")
        return json.loads(text)
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
    except ValueError as error:
        raise ValueError(f"--input is not JSON: {error}") from None


@command(app, "list")
def list_runs(
    session: Session,
    name: find.WorkflowName,
    state: Annotated[str | None, typer.Option("--status", help="Only those of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10000, help="How many.")] = 20,
) -> None:
    """Runs of a workflow, newest first."""
    one = find.workflow(session.client, name)
    found = [run for run, _ in zip(session.client.runs.list(one.id, status=state), range(limit), strict=False)]
    if session.json:
        session.emit([run.state.raw for run in found])
        return
    rows = [
        (
            run.id,
            status(run.status),
            when(run.state.created_at),
            lasted(run.state.started_at, run.state.ended_at),
            _why(run),
        )
        for run in found
    ]
    session.show(table(("run", "status", "created", "took", ""), rows))


def _why(run: Run) -> str:
    state = run.state
    if state.error:
        return state.error.message
    return (state.cancel.reason or "") if state.cancel else ""


@command(app, "show")
def show_run(session: Session, name: find.WorkflowName, run_id: find.RunName = None) -> None:
    """One run; with --json all that is known of it."""
    show(session, find.run(session.client, name, run_id))


def show(session: Session, run: Run) -> None:
    """Print a run as it was read last."""
    if session.json:
        session.emit(run.state.raw)
    else:
        session.show(run_facts(run.state))


@command(app, "cancel")
def cancel_run(
    session: Session,
    name: find.WorkflowName,
    run_id: find.RunName = None,
    reason: Reason = None,
    grace: Grace = None,
    force: Force = False,
    wait: Wait = False,
) -> None:
    """Stop a run and everything below it.

    When it answers, nothing new of the run begins. --wait waits until it is cancelled.
    """
    run = find.run(session.client, name, run_id)
    receipt = run.cancel(reason, grace_seconds=grace, force=force)
    if wait and receipt.status != "cancelled":
        session.follow()
        run.wait()
        receipt = run.receipt()
    if session.json:
        session.emit(receipt.raw)
        return
    session.show(receipt_facts(receipt))
    if receipt.status != "cancelled":
        session.say(f"Nothing new of it begins. How it goes: truestop run receipt {run.workflow_id} {run.id}")


@command(app, "cancel-tree")
def cancel_tree(
    session: Session,
    name: find.WorkflowName,
    run_id: find.RunName = None,
    reason: Reason = None,
    grace: Grace = None,
    force: Force = False,
) -> None:
    """Stop a run like cancel, and tell of each node below it what became of it."""
    run = find.run(session.client, name, run_id)
    tree = run.cancel_tree(reason, grace_seconds=grace, force=force)
    if session.json:
        session.emit(tree.raw)
        return
    rows = [
        (node.id, node.kind, status(node.status), node.skip_reason or f"was {node.previous_status}")
        for node in tree.nodes
    ]
    session.show(table(("node", "kind", "status", ""), rows))
    session.say(f"{tree.total_nodes} nodes: {tree.cancelled_count} cancelled, {tree.skipped_count} had ended before.")


@command(app, "resume")
def resume_run(
    session: Session,
    name: find.WorkflowName,
    run_id: find.RunName = None,
    items: Annotated[Literal["failed", "cancelled", "both"], typer.Option(help="What is repeated.")] = "both",
    from_step: Annotated[str | None, typer.Option(help="Repeat everything from this step on.")] = None,
    use_current: Annotated[bool, typer.Option("--use-current", help="With the definition as it is now.")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it.")] = False,
) -> None:
    """Start a new run that goes on where one was cancelled or failed."""
    from truestop.cli.watch import watch

    run = find.run(session.client, name, run_id).resume(items, from_step=from_step, use_current=use_current)
    if follow:
        watch(session, run)
    elif session.json:
        session.emit(run.state.raw)
    else:
        session.show(run.id)


@command(app, "receipt")
def show_receipt(session: Session, name: find.WorkflowName, run_id: find.RunName = None) -> None:
    """How a run's cancel went: who asked, what was in flight, what others can see of it."""
    receipt = find.run(session.client, name, run_id).receipt()
    if session.json:
        session.emit(receipt.raw)
    else:
        session.show(receipt_facts(receipt))


@command(app, "events")
def list_events(
    session: Session,
    name: find.WorkflowName,
    run_id: find.RunName = None,
    after: Annotated[str | None, typer.Option(help="From behind the event of this id.")] = None,
) -> None:
    """A run's events, as they come, until it has ended. With --json one a line."""
    run = find.run(session.client, name, run_id)
    session.follow()
    for event in run.events(after):
        if session.json:
            print(json.dumps(event.raw, ensure_ascii=False), flush=True)  # noqa: T201
        else:
            path = (event.execution_id or "").partition(":")[2]
            session.show(f"{when(event.at)}  {event.type:<22} {path}".rstrip())
