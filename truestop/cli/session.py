"""What every command shares: the options that work everywhere, the client, the terminal, and exit codes."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import platformdirs
import typer
from rich.console import Console, RenderableType

import truestop
from truestop.errors import Forbidden, Invalid, NotFound, NotSignedIn, TruestopError, Unreachable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = ("server", "token", "user", "group")
EVERYWHERE = "Everywhere"
PIPE_COLUMNS = 10_000
PATIENCE, FOLLOWING = 4.0, 120.0
"""Seconds for which a service that does not answer is asked again: by somebody who waits, and while a run is followed."""


class Exit(IntEnum):
    """Exit codes, for scripts."""

    OK = 0
    """It was done; of a run that was waited for: completed."""
    REFUSED = 1
    """The service refused, or has a fault."""
    USAGE = 2
    """The command was not understood, or what it was given is invalid."""
    FAILED = 3
    """The run that was waited for failed."""
    CANCELLED = 4
    """The run that was waited for was cancelled."""
    NOT_FOUND = 5
    """There is no such thing."""
    NOT_ALLOWED = 6
    """Not signed in, or not allowed."""
    UNREACHABLE = 7
    """The service can't be reached."""
    INTERRUPTED = 130
    """Ctrl-C. Nothing was stopped but the command."""


RUN_EXITS = {"completed": Exit.OK, "failed": Exit.FAILED, "skipped": Exit.FAILED, "cancelled": Exit.CANCELLED}
ERROR_EXITS: tuple[tuple[type[Exception], Exit], ...] = (
    (NotFound, Exit.NOT_FOUND),
    (NotSignedIn, Exit.NOT_ALLOWED),
    (Forbidden, Exit.NOT_ALLOWED),
    (Invalid, Exit.USAGE),
    (Unreachable, Exit.UNREACHABLE),
    (TruestopError, Exit.REFUSED),
)


@dataclass
class Session:
    """One command's call."""

    settings: Mapping[str, str | None]
    json: bool

    def __post_init__(self) -> None:
        # What goes into a pipe is as wide as it is: a program must find whole ids.
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
        self.err = Console(stderr=True, highlight=False)

    @cached_property
    def client(self) -> truestop.Client:
        """The client of the server and the caller that were chosen."""
        chosen = self.settings
        return truestop.Client(
            chosen["server"],
            token=chosen["token"],
            user=chosen["user"],
            group=chosen["group"],
            patience=PATIENCE,
            source="cli",
        )

    def follow(self) -> None:
        """From here on a run is followed: bear with a service that is away for a while."""
        self.client.patience = FOLLOWING

    @property
    def interactive(self) -> bool:
        """Whether somebody is there who can be asked, and sees what is drawn."""
        return not self.json and sys.stdin.isatty() and sys.stdout.isatty()

    def emit(self, data: Any) -> None:
        """Print JSON: indented for people, one line for programs."""
        print(json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None), flush=True)  # noqa: T201

    def show(self, what: RenderableType) -> None:
        """Print an answer for people, without the spaces with which tables fill their lines."""
        with self.out.capture() as captured:
            self.out.print(what, markup=False)
        for line in captured.get().splitlines():
            print(line.rstrip(), flush=True)  # noqa: T201

    def say(self, text: str, style: str | None = None) -> None:
        """Tell people something beside the answer: on stderr, as plain text whose lines the terminal wraps."""
        self.err.print(text, style=style, markup=False, soft_wrap=True)

    def confirm(self, question: str, sure: bool) -> None:
        """Go on only if somebody says yes, or said so with `--yes`."""
        if sure:
            return
        if not self.interactive:
            raise typer.BadParameter("nobody can be asked here: say --yes")
        typer.confirm(question, abort=True)


def config_path() -> Path:
    """The configuration file: `$TRUESTOP_CONFIG`, else `config.toml` where this system keeps such."""
    given = os.environ.get("TRUESTOP_CONFIG")
    return Path(given) if given else platformdirs.user_config_path("truestop", appauthor=False) / "config.toml"


def read_config(path: Path) -> dict[str, str]:
    """What the file sets. Raises `typer.BadParameter`."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}") from None
    for name, value in found.items():
        if name not in SETTINGS or not isinstance(value, str):
            raise typer.BadParameter(f"{path}: {name} is not one of {', '.join(SETTINGS)} with a text")
    return found


def _chosen(options: Mapping[str, str | None]) -> dict[str, str | None]:
    """An option comes before the environment, and that before the file."""
    config = read_config(config_path())
    return {name: options[name] or os.environ.get(f"TRUESTOP_{name.upper()}") or config.get(name) for name in SETTINGS}


Server = Annotated[str | None, typer.Option(help="Address of the service.", rich_help_panel=EVERYWHERE)]
Token = Annotated[str | None, typer.Option(help="A machine's key.", rich_help_panel=EVERYWHERE)]
User = Annotated[str | None, typer.Option(help="Who you are, on a development host.", rich_help_panel=EVERYWHERE)]
Group = Annotated[str | None, typer.Option(help="Work in this group (its id).", rich_help_panel=EVERYWHERE)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=EVERYWHERE)]
COMMON: Mapping[str, tuple[Any, Any]] = {
    "server": (Server, None),
    "token": (Token, None),
    "user": (User, None),
    "group": (Group, None),
    "as_json": (AsJson, False),
}


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command. Its function takes the `Session` first; the options of `COMMON` are added to its own."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        common = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in COMMON.items()
        ]
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *(one.replace(annotation=hints[one.name]) for one in own), *common]

        @wraps(function)
        def run(**values: Any) -> None:
            root = values.pop("context").find_root().params
            options = {key: values.pop(key) or root.get(key) for key in COMMON}
            with _session(options) as session:
                function(session, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name)(run)
        return function

    return register


@contextmanager
def _session(options: Mapping[str, Any]) -> Iterator[Session]:
    """A session; what goes wrong in it is said on stderr and becomes the exit code."""
    session = Session(_chosen(options), bool(options["as_json"]))
    try:
        yield session
    except TruestopError as error:
        _tell(session, error)
        raise typer.Exit(next(code for kind, code in ERROR_EXITS if isinstance(error, kind))) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        if "client" in session.__dict__:
            session.client.close()


def _tell(session: Session, error: TruestopError) -> None:
    if session.json and isinstance(error, truestop.Problem):
        about = {
            "status": error.status,
            "code": error.code,
            "detail": error.detail,
            "errors": error.errors,
            **error.extra,
        }
        print(json.dumps(about, ensure_ascii=False), file=sys.stderr)  # noqa: T201
        return
    session.say(f"Error: {error}", "red")
    if isinstance(error, NotSignedIn):
        session.say("Say who you are with --token (or --user on a development host), or in the config file.")
