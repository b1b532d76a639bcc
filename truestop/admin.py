"""`python -m truestop.admin init`: make the database, containers and queues that the app's settings name.

A command and not a side effect of the app's start: in Azure the app's identity may not, and should not, create them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.blobs_azure import AzureBlobs
    from shared.settings import Settings


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the command. Answers the process's exit code: 0, or 1 after saying on stderr what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m truestop.admin", description="Set up what Truestop stores things in."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser(
        "init",
        help="make the Cosmos DB database and container, the blob containers and the queues",
        description="Make the Cosmos DB database and container if they are missing, and check the container if it is"
        " there; with TRUESTOP_STORAGE=azure also the blob containers and the queues, in the account of"
        " AzureWebJobsStorage."
        " Reads the app's settings TRUESTOP_COSMOS_ENDPOINT, _KEY (unset: your own identity), _DATABASE and _CONTAINER.",
    )
    parser.parse_args(arguments)
    try:
        return _init(environment)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "shared":
            raise
        print("This sets up the app's stores: run it in the app's folder.", file=sys.stderr)  # noqa: T201
        return 1


def _init(environment: Mapping[str, str]) -> int:
    from shared.errors import StoreError
    from shared.settings import load

    # What is named is made, whatever the app on this machine uses; with nothing named, Cosmos DB says what is missing.
    only_storage = environment.get("TRUESTOP_STORAGE") == "azure" and not environment.get("TRUESTOP_COSMOS_ENDPOINT")
    try:
        settings = load({**environment, "TRUESTOP_STORE": "sqlite" if only_storage else "cosmos"})
        if not only_storage:
            print(asyncio.run(_init_cosmos(settings)))  # noqa: T201
        if settings.storage == "azure":
            print(asyncio.run(_init_storage(settings, environment)))  # noqa: T201
    except (StoreError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _init_cosmos(settings: Settings) -> str:
    from shared.services import cosmos_account
    from shared.store.cosmos_client import initialise

    account = cosmos_account(settings)
    await initialise(account)
    return f"Container {account.container!r} in database {account.database!r} is ready."


async def _init_storage(settings: Settings, environment: Mapping[str, str]) -> str:
    from shared.azure_storage import connection_from
    from shared.blobs_azure import AzureBlobs
    from shared.names import CONTAINER_FILE_SYNC, QUEUES
    from shared.queues import POISON
    from shared.queues_azure import AzureQueue

    connection = connection_from(environment)
    containers = (settings.blob_container, CONTAINER_FILE_SYNC)
    queue = AzureQueue(connection)
    try:
        for container in containers:
            await _make_container(AzureBlobs(connection, container))
        await queue.initialise([*QUEUES, *(name + POISON for name in QUEUES)])
    finally:
        await queue.close()
    return f"Blob containers {', '.join(containers)} and queues {', '.join(QUEUES)} are ready."


async def _make_container(blobs: AzureBlobs) -> None:
    try:
        await blobs.initialise()
    finally:
        await blobs.close()


if __name__ == "__main__":
    sys.exit(main())
