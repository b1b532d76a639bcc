"""`truestop keys …`: of one's own workflows, or with `--group` of a group's."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from truestop.cli.session import Session, command
from truestop.cli.show import plain, status, table, when

app = typer.Typer(no_args_is_help=True)


class Right(str, Enum):
    """What a key may do."""

    START = "start"
    READ = "read"
    CANCEL = "cancel"


Allow = Annotated[list[Right], typer.Option("--allow", help="What it may do; give it several times.")]


@command(app, "list")
def list_keys(session: Session) -> None:
    """Keys, without their texts."""
    found = list(session.client.keys.list())
    if session.json:
        session.emit([one.raw for one in found])
        return
    rows = [
        (
            one.id,
            status("expired" if one.expired else "valid"),
            ", ".join(one.allows),
            when(one.expires_at),
            when(one.last_used_at),
            one.name,
        )
        for one in found
    ]
    session.show(table(("id", "status", "allows", "expires", "last used", "name"), rows))


@command(app, "create")
def create_key(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    allow: Allow,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires.")] = None,
) -> None:
    """Make a key and print it, this once."""
    made = session.client.keys.create(name, [one.value for one in allow], expires_in_days=days)
    if session.json:
        session.emit(made.raw)
        return
    session.say(f"Key {made.id}, until {when(made.expires_at)}. It is shown only now:")
    session.show(plain(made.key))


@command(app, "revoke")
def revoke_key(session: Session, key_id: Annotated[str, typer.Argument(metavar="KEY", help="A key's id.")]) -> None:
    """Accept a key no more."""
    session.client.keys.revoke(key_id)
    session.say("It is accepted no more.")
