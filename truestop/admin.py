"""`python -m truestop.admin init`: make the Cosmos DB database and container that the app's settings name.

A command and not a side effect of the app's start: in Azure the app's identity may not, and should not, create them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the command. Answers the process's exit code: 0, or 1 after saying on stderr what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m truestop.admin", description="Set up what Truestop stores things in."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser(
        "init",
        help="make the Cosmos DB database and container",
        description="Make the database and the container if they are missing, and check the container if it is there."
        " Reads the app's settings TRUESTOP_COSMOS_ENDPOINT, _KEY (unset: your own identity), _DATABASE and _CONTAINER.",
    )
    parser.parse_args(arguments)
    return _init(environment)


def _init(environment: Mapping[str, str]) -> int:
    from shared.errors import StoreError
    from shared.services import cosmos_account
    from shared.settings import load
    from shared.store.cosmos_client import initialise

    try:
        account = cosmos_account(load({**environment, "TRUESTOP_STORE": "cosmos"}))
        asyncio.run(initialise(account))
    except (StoreError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print(f"Container {account.container!r} in database {account.database!r} is ready.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
