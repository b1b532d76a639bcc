"""The command line `truestop`. It needs the extra `cli`: `pip install 'truestop[cli]'`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends the process with its exit code (see `truestop.cli.session`)."""
    try:
        from truestop.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "platformdirs", "tomli"):
            raise
        sys.exit("The command line needs more packages: pip install 'truestop[cli]'")
    app(prog_name="truestop")
