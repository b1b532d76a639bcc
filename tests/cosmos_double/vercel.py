"""`@vercel/cosmosdb-server`, an independent server of the protocol.

It has no patch in a batch, no atomicity, no hierarchical keys and no change feed, so it can't stand in for Cosmos DB. But
its query language is somebody else's, and so a check of ours.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.node import installed, or_skipped, serving

KEY = base64.b64encode(b"a key that opens nothing but this").decode()
_SERVE = """
const server = require(process.argv[1]).createHttpServer();
server.listen(0, '127.0.0.1', () => console.log(`listening at ${server.address().port}`));
"""


@contextmanager
def vercel_server() -> Iterator[str]:
    """The endpoint of a running server. Skips the test where there can't be one, or fails it in CI."""
    with or_skipped("@vercel/cosmosdb-server"):
        package = installed(Path(__file__).parent / "vercel", "cosmos", omit="dev") / "@vercel" / "cosmosdb-server"
        with serving(_SERVE, [str(package)], r"^listening at (\d+)$") as listening:
            yield f"http://127.0.0.1:{listening[0][1]}/"
