"""Outputs: small ones live in their execution's document, large ones in a blob that it refers to."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Literal

from shared.blobs import BlobStore
from shared.errors import StoreError
from shared.executions import RunRef
from shared.store.port import Document

log = logging.getLogger(__name__)

PREVIEW_BYTES = 16 * 1024
"""The most of a text that a document carries."""
OUTPUTS, ARTIFACTS = "outputs", "artifacts"
"""Where the blobs of runs are."""


@dataclass(frozen=True, slots=True)
class Output:
    """An execution's output as its document holds it: `ref` names the blob when `preview` isn't all of it."""

    preview: str
    format: Literal["text", "json"] = "text"
    ref: str | None = None

    def fields(self) -> dict[str, Any]:
        """The document's fields."""
        return {"output_preview": self.preview, "output_format": self.format, "output_ref": self.ref}


def as_text(value: Any) -> tuple[str, Literal["text", "json"]]:
    """A value as text, and how to read it back."""
    if isinstance(value, str):
        return value, "text"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")), "json"


def preview(text: str, limit: int = PREVIEW_BYTES) -> str:
    """The beginning of `text`: at most `limit` bytes of UTF-8, cut between characters."""
    if len(text) * 4 <= limit:
        return text
    raw = text.encode()
    return text if len(raw) <= limit else raw[:limit].decode(errors="ignore")


def blob_folder(kind: str, ref: RunRef) -> str:
    """What the names of a run's blobs of one kind begin with."""
    return f"{kind}/{ref.scope}/{ref.workflow_id}/{ref.run_id}/"


def blob_prefixes(scope: str, workflow_id: str, run_id: str | None = None) -> tuple[str, ...]:
    """What the names of all blobs of a run, or of a workflow, begin with."""
    within = f"{scope}/{workflow_id}/" + ("" if run_id is None else f"{run_id}/")
    return tuple(f"{kind}/{within}" for kind in (OUTPUTS, ARTIFACTS))


async def keep(blobs: BlobStore, ref: RunRef, path: str, attempt: int, value: Any) -> Output:
    """Keep `value` (JSON) as the output of `path`. Its blob is the attempt's own: a late attempt overwrites nothing."""
    text, form = as_text(value)
    short = preview(text)
    if len(short) == len(text):
        return Output(short, form)
    name = f"{blob_folder(OUTPUTS, ref)}{path}.{attempt}"
    await blobs.put(name, text.encode(), "application/json" if form == "json" else "text/plain; charset=utf-8")
    return Output(short, form, name)


async def keep_part(blobs: BlobStore, ref: RunRef, path: str, attempt: int, text: str) -> Output:
    """Keep a text that is only part of an output; of one that can't be stored just now, its beginning."""
    try:
        return await keep(blobs, ref, path, attempt, text)
    except (StoreError, ValueError) as error:
        log.warning("of the partial output of %s only the beginning is kept: %s", ref.execution_id(path), error)
        return Output(preview(text))


async def adopt(blobs: BlobStore, document: Document, ref: RunRef, path: str, attempt: int) -> Output:
    """The output that an execution's document holds, as one of `path`: its blob is copied, for it goes with its own run.

    Raises `NotFound` when the blob is gone.
    """
    name: str | None = document["output_ref"]
    if name is not None:
        blob = await blobs.get(name)
        name = f"{blob_folder(OUTPUTS, ref)}{path}.{attempt}"
        await blobs.put(name, blob.data, blob.info.content_type)
    return Output(document["output_preview"], document["output_format"], name)


async def load(blobs: BlobStore, document: Document) -> Any:
    """The whole output that an execution's document holds or refers to; None if it has none."""
    text: str | None = document["output_preview"]
    if document["output_ref"] is not None:
        text = (await blobs.get(document["output_ref"])).data.decode()
    if text is None:
        return None
    return json.loads(text) if document["output_format"] == "json" else text
