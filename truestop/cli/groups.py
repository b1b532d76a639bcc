"""`truestop groups …`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from truestop import Group
from truestop.cli.session import Session, command
from truestop.cli.show import plain, table
from truestop.cli.workflows import Yes

app = typer.Typer(no_args_is_help=True)
GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="A group's id.")]
Person = Annotated[str, typer.Argument(metavar="PERSON", help="A person's object id.")]
Role = Annotated[Literal["Owner", "Admin", "DocumentManager", "User"], typer.Argument(metavar="ROLE")]


@command(app, "list")
def list_groups(session: Session) -> None:
    """Your groups."""
    found = list(session.client.groups.list())
    if session.json:
        session.emit([one.raw for one in found])
    else:
        session.show(table(("id", "your role", "name"), [(one.id, one.role, one.name) for one in found]))


@command(app, "show")
def show_group(session: Session, group_id: GroupId) -> None:
    """A group and its members."""
    _show(session, session.client.groups.get(group_id))


@command(app, "create")
def create_group(session: Session, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """A new group; you are its Owner."""
    group = session.client.groups.create(name)
    if session.json:
        session.emit(group.raw)
    else:
        session.show(plain(group.id))


@command(app, "rename")
def rename_group(session: Session, group_id: GroupId, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Rename a group."""
    _show(session, session.client.groups.rename(group_id, name))


@command(app, "delete")
def delete_group(session: Session, group_id: GroupId, yes: Yes = False) -> None:
    """Delete a group with its workflows and documents."""
    group = session.client.groups.get(group_id)
    session.confirm(f"Delete the group {group.name!r} with its workflows and documents?", yes)
    session.client.groups.delete(group_id)
    session.say(f"{group.name!r} is deleted.")


@command(app, "add")
def add_member(session: Session, group_id: GroupId, person: Person, role: Role) -> None:
    """Add a member, or change their role: Owner, Admin, DocumentManager, User."""
    _show(session, session.client.groups.set_member(group_id, person, role))


@command(app, "remove")
def remove_member(session: Session, group_id: GroupId, person: Person) -> None:
    """Remove a member, or leave."""
    session.client.groups.remove_member(group_id, person)
    session.say(f"{person} is no member any more.")


@command(app, "use")
def use_group(session: Session, group_id: GroupId) -> None:
    """Make it the group that the service takes where none is named."""
    session.client.groups.activate(group_id)
    session.say(f"{group_id} is your active group.")


def _show(session: Session, group: Group) -> None:
    if session.json:
        session.emit(group.raw)
        return
    session.say(f"{group.name} ({group.id})")
    session.show(table(("person", "role", "name"), [(one.id, one.role, one.name) for one in group.members]))
