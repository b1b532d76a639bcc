"""`truestop workflows …`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from truestop import Invalid, Workflow
from truestop.cli import find
from truestop.cli.session import Session, command
from truestop.cli.show import facts, plain, status, table, when

app = typer.Typer(no_args_is_help=True)
DefinitionFile = Annotated[str, typer.Argument(metavar="FILE", help="A definition in JSON; - reads it from stdin.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@command(app, "list")
def list_workflows(
    session: Session,
    search: Annotated[str | None, typer.Option(help="A part of the name.")] = None,
    state: Annotated[str | None, typer.Option("--status", help="idle, running or cancelling.")] = None,
) -> None:
    """Your workflows, newest first."""
    found = list(session.client.workflows.list(search=search, status=state))
    if session.json:
        session.emit([one.raw for one in found])
        return
    rows = [(one.id, _doing(one), _last(one), _next(one), one.name) for one in found]
    session.show(table(("id", "status", "last run", "next run", "name"), rows))


@command(app, "show")
def show_workflow(session: Session, name: find.WorkflowName) -> None:
    """One workflow; with --json its definition and all else."""
    one = find.workflow(session.client, name)
    if session.json:
        session.emit(one.raw)
        return
    steps = [(f"step {number}", plain(f"{step['name']} ({step['kind']})")) for number, step in enumerate(one.steps, 1)]
    rows = [("workflow", plain(one.id)), ("name", plain(one.name)), ("status", _doing(one))]
    rows += [
        ("last run", plain(_last(one))),
        ("next run", plain(_next(one))),
        ("trigger", plain(json.dumps(one.trigger))),
    ]
    session.show(facts([*rows, *steps]))


@command(app, "create")
def create_workflow(session: Session, file: DefinitionFile) -> None:
    """A new workflow from a JSON file."""
    _changed(session, session.client.workflows.create(_read(file)), "created")


@command(app, "edit")
def edit_workflow(
    session: Session,
    name: find.WorkflowName,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="The new definition; else $EDITOR opens.")
    ] = None,
) -> None:
    """Replace a workflow's definition, from a file or in your editor."""
    one = find.workflow(session.client, name)
    if file is not None:
        _changed(session, session.client.workflows.replace(one.id, _read(file), etag=one.etag), "saved")
    elif session.interactive:
        _edit(session, one)
    else:
        raise typer.BadParameter("there is no terminal to edit in: name a FILE, or - for stdin")


def _edit(session: Session, one: Workflow) -> None:
    text = before = json.dumps(one.definition, indent=2, ensure_ascii=False) + "\n"
    while True:
        text = _edited(text)
        if text == before:
            session.say("Nothing was changed.")
            return
        try:
            saved = session.client.workflows.replace(one.id, _parse(text, "the definition"), etag=one.etag)
        except (Invalid, ValueError) as error:
            session.say(f"Error: {error}", "red")
            typer.confirm("Edit again?", default=True, abort=True)
        else:
            _changed(session, saved, "saved")
            return


def _edited(text: str) -> str:
    """The text after the reader's editor is closed. Raises `ValueError`."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "workflow.json"
        file.write_text(text, "utf-8")
        try:
            subprocess.run([*shlex.split(editor), str(file)], check=True)  # noqa: S603 - the editor that they chose
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(f"the editor failed: {error}") from None
        return file.read_text("utf-8")


@command(app, "delete")
def delete_workflow(session: Session, name: find.WorkflowName, yes: Yes = False) -> None:
    """Delete a workflow. Refused while a run is active."""
    one = find.workflow(session.client, name)
    session.confirm(f"Delete {one.name!r} and its history?", yes)
    session.client.workflows.delete(one.id)
    session.say(f"{one.name!r} is deleted.")


@command(app, "enable")
def enable_workflow(session: Session, name: find.WorkflowName) -> None:
    """Let its trigger start runs."""
    _switch(session, name, True)


@command(app, "disable")
def disable_workflow(session: Session, name: find.WorkflowName) -> None:
    """Let it be started by hand only. An active run goes on."""
    _switch(session, name, False)


def _switch(session: Session, name: str, enabled: bool) -> None:
    one = find.workflow(session.client, name)
    changed = session.client.workflows.patch(one.id, {"enabled": enabled})
    _changed(session, changed, "enabled" if enabled else "disabled")


def _changed(session: Session, one: Workflow, what: str) -> None:
    if session.json:
        session.emit(one.raw)
    else:
        session.say(f"{one.name!r} is {what}.")
        session.show(plain(one.id))


def _read(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
    return _parse(text, file)


def _parse(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{what} is not a JSON object")
    return found


def _doing(one: Workflow) -> Any:
    return status(one.runtime["status"] if one.enabled or one.runtime["status"] != "idle" else "disabled")


def _last(one: Workflow) -> str:
    return str(one.runtime.get("last_run_status") or "–")


def _next(one: Workflow) -> str:
    at = one.runtime.get("next_run_at")
    return when(_moment(at)) if at else "–"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
