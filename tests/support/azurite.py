"""Azurite, Microsoft's storage emulator, keeping everything in memory."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from shared.azure_storage import StorageConnection
from tests.support.node import ROOT, installed, or_skipped, serving

ACCOUNT = "truestop"
KEY = base64.b64encode(b"a key that opens nothing but this").decode()
_LISTENS = r"Azurite (Blob|Queue) service is successfully listening at http://127\.0\.0\.1:(\d+)"
_ARGUMENTS = (
    *("--blobPort", "0", "--queuePort", "0", "--tablePort", "0"),  # ports that the system picks
    *("--inMemoryPersistence", "--silent", "--disableTelemetry"),
)


class Ports(NamedTuple):
    """Where the emulator's services are."""

    blob: int
    queue: int


def ports_of(account: StorageConnection) -> Ports:
    """The ports of a connection that `connection` made."""
    blob, queue = re.findall(r"127\.0\.0\.1:(\d+)", account.connection_string or "")
    return Ports(int(blob), int(queue))


def connection(blob_port: int, queue_port: int, key: str = KEY) -> StorageConnection:
    """The emulator's account at these ports of this machine."""
    at = {"BlobEndpoint": blob_port, "QueueEndpoint": queue_port}
    endpoints = ";".join(f"{name}=http://127.0.0.1:{port}/{ACCOUNT}" for name, port in at.items())
    return StorageConnection("AzureWebJobsStorage", f"AccountName={ACCOUNT};AccountKey={key};{endpoints}")


@contextmanager
def azurite() -> Iterator[StorageConnection]:
    """A running Azurite. Skips the test where there can't be one, or fails it in CI."""
    with or_skipped("Azurite"):
        script = installed(ROOT / "tests" / "azurite", "azurite", omit="optional") / "azurite/dist/src/azurite.js"
        account = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
        with serving("require(process.argv[1])", [str(script), *_ARGUMENTS], _LISTENS, 2, account) as listening:
            ports = {match[1]: int(match[2]) for match in listening}
            yield connection(ports["Blob"], ports["Queue"])
