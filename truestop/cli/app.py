"""The command line's tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

import truestop.cli.watch  # adds its command to those of `run`
from truestop.cli import admin, executions, groups, keys, runs, workflows
from truestop.cli.session import AsJson, Exit, Group, Server, Session, Token, User, command
from truestop.cli.show import facts, plain, status

HELP = """Runs of AI workflows, and a cancel that really stops them.

WORKFLOW is a workflow's id or name. RUN is a run's id; left out, it is the
active run, else the latest.

Settings come from options, then from TRUESTOP_SERVER, TRUESTOP_TOKEN,
TRUESTOP_USER and TRUESTOP_GROUP, then from a config file (docs/cli.md).

Exit codes: 0 done or completed, 1 refused, 2 usage, 3 failed, 4 cancelled,
5 not found, 6 not allowed, 7 unreachable, 130 interrupted.
"""
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"truestop {truestop.__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def root(
    server: Server = None,
    token: Token = None,
    user: User = None,
    group: Group = None,
    as_json: AsJson = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options that every command takes too; `session.command` reads them from here."""


@command(app, "status")
def show_status(session: Session) -> None:
    """Whether the service is up, who you are, and what runs."""
    client = session.client
    health, me = client.health(), client.me()
    active = [one for one in client.workflows.list() if one.runtime["status"] != "idle"]
    if session.json:
        session.emit({"server": client.server, "health": health, "me": me, "active": [one.raw for one in active]})
    else:
        parts = [(name, status(str(word))) for name, word in health.items() if name not in ("status", "look_at")]
        roles = f" ({', '.join(me['roles'])})" if me.get("roles") else ""
        rows = [("server", plain(client.server)), ("status", status(str(health["status"]))), *parts]
        rows.append(("you", plain(f"{me.get('name') or me['id']}{roles}")))
        running = [(one.runtime["status"], plain(f"{one.name} (run {one.runtime['active_run_id']})")) for one in active]
        session.show(facts([*rows, *(running or [("active", plain("nothing"))])]))
    if health["status"] != "up":
        raise typer.Exit(Exit.REFUSED)


app.add_typer(workflows.app, name="workflows", help="What can be run.")
app.add_typer(runs.app, name="run", help="Start, follow and stop runs.")
app.add_typer(executions.app, name="executions", help="The nodes of a run's tree.")
app.add_typer(groups.app, name="groups", help="Groups and their members.")
app.add_typer(keys.app, name="keys", help="Keys for machines.")
app.add_typer(admin.app, name="admin", help="For operators: everyone's runs.")
