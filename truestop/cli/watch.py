"""`truestop run watch`: a run's tree as it works, with the text that streams; a line an event when no terminal looks on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from truestop import AlreadyFinished, Event, Execution, Run, RunState
from truestop.cli import find
from truestop.cli.runs import app, show
from truestop.cli.session import RUN_EXITS, Exit, Session, command
from truestop.cli.show import lasted, plain, receipt_facts, status, when

QUESTION = "Stop the run (s), watch on (w), or leave it running (l)?"
TAIL = 160
"""Characters shown of a text that streams."""
CHILDREN_SHOWN = 12
"""Of a node with more children, those that are at work or failed come first, and the others are counted."""


@command(app, "watch")
def watch_run(session: Session, name: find.WorkflowName, run_id: find.RunName = None) -> None:
    """Follow a run until it has ended; the exit code tells how.

    Ctrl-C asks whether to stop the run or to leave it running. Without a
    terminal it prints a line an event, and Ctrl-C just leaves.
    """
    watch(session, find.run(session.client, name, run_id))


def watch(session: Session, run: Run) -> None:
    """Watch a run to its end. Raises `typer.Exit` with its exit code."""
    session.follow()
    if session.interactive:
        _watch_live(session, run)
    else:
        _watch_lines(session, run)
    raise typer.Exit(RUN_EXITS[run.status])


def _watch_lines(session: Session, run: Run) -> None:
    for change in run.changes():
        if session.json:
            print(json.dumps({change.kind: change.value.raw}, ensure_ascii=False), flush=True)  # noqa: T201
        elif isinstance(change.value, Event):
            path = (change.value.execution_id or "").partition(":")[2]
            session.show(f"{when(change.value.at)}  {change.value.type:<22} {path}".rstrip())
    if not session.json:
        show(session, run)


def _watch_live(session: Session, run: Run) -> None:
    picture = Picture(run.state)
    while True:
        try:
            _draw(session, run, picture)
            break
        except KeyboardInterrupt:
            _ask(session, run)
    if run.status == "cancelled":
        session.show(receipt_facts(run.receipt()))
    else:
        show(session, run)


def _draw(session: Session, run: Run, picture: Picture) -> None:
    with Live(picture, console=session.out, refresh_per_second=8, vertical_overflow="crop") as live:
        for change in run.changes():
            if isinstance(change.value, RunState):
                picture.run = change.value
            elif isinstance(change.value, Execution):
                picture.executions[change.value.path] = change.value
        live.vertical_overflow = "visible"  # the last picture is whole, and stays


def _ask(session: Session, run: Run) -> None:
    """After Ctrl-C. Raises `typer.Exit` to leave; the run is stopped only when somebody says so."""
    try:
        answer = typer.prompt(QUESTION, default="l", err=True).strip().lower()[:1]
    except (typer.Abort, KeyboardInterrupt):
        answer = "l"
    if answer == "s":
        try:
            receipt = run.cancel()
        except AlreadyFinished:
            return  # what is drawn next shows its end
        session.say(f"Stopping: nothing new begins, {len(receipt.in_flight)} in flight. Ctrl-C to leave.")
    elif answer != "w":
        session.say(f"The run goes on. Stop it: truestop run cancel {run.workflow_id} {run.id}")
        raise typer.Exit(Exit.INTERRUPTED)


class Picture:
    """What a watched run looks like; drawn anew several times a second, so that times count up."""

    def __init__(self, run: RunState) -> None:
        self.run = run
        self.executions: dict[str, Execution] = {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        run = self.run
        took = lasted(run.started_at, run.ended_at)
        head = Text.assemble(("run ", "bold"), (run.id, "bold"), "  ", status(run.status), f"  {took}")
        tree = Tree(head, guide_style="dim")
        children: dict[str | None, list[Execution]] = {}
        for one in sorted(self.executions.copy().values(), key=lambda one: one.path):
            children.setdefault(one.parent, []).append(one)
        _grow(tree, children, None)
        yield tree


def _grow(tree: Tree, children: dict[str | None, list[Execution]], parent: str | None) -> None:
    found = children.get(parent, [])
    shown = found
    if len(found) > CHILDREN_SHOWN:
        urgent = sorted(found, key=lambda one: (one.status not in ("running", "failed"), one.path))
        shown = sorted(urgent[:CHILDREN_SHOWN], key=lambda one: one.path)
    for one in shown:
        below = children.get(one.path, [])
        branch = tree.add(_node(one, below))
        _grow(branch, children, one.path)
    if len(found) > len(shown):
        tree.add(Text(f"… and {len(found) - len(shown)} more", "dim"))


def _node(one: Execution, below: list[Execution]) -> RenderableType:
    line = Text.assemble(
        (plain(one.name).plain, "bold"), "  ", status(one.status), f"  {lasted(one.started_at, one.ended_at)}"
    )
    items = [child for child in below if child.kind == "item"]
    if items:
        done = sum(child.ended_at is not None for child in items)
        line.append(f"  {done}/{len(items)} {_bar(done, len(items))}")
    if one.error:
        return Group(line, Text(f"{plain(one.error.message).plain} ({one.error.code})", "red"))
    if one.status in ("running", "cancelled") and one.output_preview and not below:
        text = plain(one.output_preview).plain
        return Group(line, Text(("…" if len(text) > TAIL else "") + text[-TAIL:], "italic dim"))
    return line


def _bar(done: int, total: int, width: int = 20) -> str:
    full = width * done // total
    return "█" * full + "░" * (width - full)
