"""The token of `changes` on Cosmos DB: where the change feed goes on, and which documents the reader has seen last.

Guards write to documents without changing them (see `cosmos_batch`), which brings them into the feed again. The token
remembers the versions that its reader saw last, so that such a return is left out. It forgets the oldest ones, and then a
document may be seen twice in the same state, which the port allows.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.store.cosmos_sql import VERSION

REMEMBERED = 32
"""Versions that a token remembers, at eight characters each."""


@dataclass(frozen=True, slots=True)
class FeedToken:
    """`continuation` is the SDK's, None for the beginning; `seen` are digests of versions, the oldest first."""

    continuation: str | None = None
    seen: tuple[str, ...] = ()

    def text(self) -> str:
        """Opaque text, safe in a URL and in a header."""
        return base64.urlsafe_b64encode(json.dumps([self.continuation, "".join(self.seen)]).encode()).decode()

    def after(
        self, documents: Sequence[Mapping[str, Any]], continuation: str | None, keep: int = REMEMBERED
    ) -> FeedToken:
        """The token once these documents were seen."""
        seen = list(self.seen)
        for one in map(digest, documents):
            if one in seen:
                seen.remove(one)
            seen.append(one)
        return FeedToken(continuation, tuple(seen[-keep:]))


def read_token(text: str | None) -> FeedToken:
    """Raises `ValueError` for text that isn't a token of this store's feed."""
    if text is None:
        return FeedToken()
    try:
        continuation, seen = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
        if continuation is not None:
            json.loads(base64.b64decode(continuation, validate=True))  # the SDK's own form
    except (ValueError, TypeError, RecursionError):
        raise ValueError("not a token of this store's feed") from None
    if not isinstance(seen, str):
        raise ValueError("not a token of this store's feed")
    return FeedToken(continuation, tuple(seen[i : i + 8] for i in range(0, len(seen), 8)))


def digest(document: Mapping[str, Any]) -> str:
    """Eight characters that stand for a version of a document."""
    what = json.dumps([document["id"], document.get(VERSION) or document.get("_etag")])
    return base64.urlsafe_b64encode(hashlib.blake2b(what.encode(), digest_size=6).digest()).decode()
