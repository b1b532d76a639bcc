"""The `file_sync` step: files that were dropped for the workflow become documents of its scope, one item a file.

What can't become one (it is gone, too large, of no known kind) is told in the item's output, and the step goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from shared.blobs import MAX_LIST, BlobInfo, BlobPage
from shared.documents import Documents, validate_name
from shared.errors import NotFound, StepFailed, TooLarge
from shared.executions import RunRef
from shared.file_sync import trigger_of
from shared.names import DOCUMENT, TriggerKind
from shared.operation_context import OperationContext
from shared.services import Services
from shared.source_files import Place, folder_of, problem_of
from shared.steps import FileSyncStep
from shared.store.port import Document

MAX_SCANNED = 20_000
"""Files looked at for those that changed."""


async def source_paths(services: Services, ref: RunRef, run: Document, step: FileSyncStep) -> list[str]:
    """The files that the step is to bring in, in order. Raises `StepFailed` `too_many_documents`.

    Only what changed: the files that started the run (or the one that it was resumed from); in another run, those that are
    newer than their documents.
    """
    trigger = trigger_of(run)
    only_changed, prefix = step.only_changed, step.prefix
    if only_changed is None:
        only_changed = trigger is None or trigger.only_changed
    if prefix is None:
        prefix = "" if trigger is None else trigger.prefix
    if only_changed and await _files_started(services, ref, run):
        return [file["path"] for file in run["input"]["files"] if file["path"].startswith(prefix)]
    folder = folder_of(ref.partition)
    files = [(info.name.removeprefix(folder), info) async for info in _sources(services, folder + prefix)]
    if only_changed:
        documents = Documents(services.blobs, ref.scope)
        known = {info.name: info async for info in _known(documents, step.into + prefix)}
        files = [(path, info) for path, info in files if _is_newer(info, known.get(step.into + path))]
    most = services.settings.items_max
    if len(files) > most:
        raise StepFailed("too_many_documents", f"{len(files)} files are to be brought in; the most is {most}")
    return [path for path, _ in files]


async def _files_started(services: Services, ref: RunRef, run: Document) -> bool:
    """Whether its input is that of a run that files started. A person's may look alike, and is none."""
    while run["trigger"]["kind"] != TriggerKind.FILE_SYNC:
        if run["resumed_from"] is None:
            return False
        try:
            run = await services.store.get(ref.partition, run["resumed_from"])
        except NotFound:
            return False
    return True


async def _sources(services: Services, prefix: str) -> AsyncIterator[BlobInfo]:
    count, after = 0, None
    while True:
        page: BlobPage = await services.sources.list(prefix, MAX_LIST, after)
        count += len(page.items)
        if count > MAX_SCANNED:
            raise StepFailed("too_many_documents", f"over {MAX_SCANNED} files are in the workflow's folder")
        for info in page.items:
            yield info
        if (after := page.next) is None:
            return


async def _known(documents: Documents, prefix: str) -> AsyncIterator[BlobInfo]:
    after = None
    while True:
        try:
            page: BlobPage = await documents.list(prefix, MAX_LIST, after)
        except ValueError as error:
            raise StepFailed("document_name_invalid", str(error)) from None
        for info in page.items:
            yield info
        if (after := page.next) is None:
            return


def _is_newer(source: BlobInfo, document: BlobInfo | None) -> bool:
    """As `make` would say. At the same time counts as newer: Azure tells it to the second."""
    return document is None or document.size != source.size or document.modified_at <= source.modified_at


async def bring(context: OperationContext, step: FileSyncStep, path: str) -> dict[str, Any]:
    """Make the file at `path` a document. Answers `path`, `document`, `size` and `etag`; or `path`, `code`, `message`."""
    services, place = context.services, Place(context.ref.partition, path)
    try:
        problem = problem_of(path, (await services.sources.info(place.blob_name)).size, services.settings)
        if problem is not None:
            return {"path": path, **problem}
        blob = await services.sources.get(place.blob_name)
        name = validate_name(step.into + path)
    except NotFound:
        return {"path": path, "code": "file_gone", "message": f"{path!r} was deleted before it could be brought in"}
    except TooLarge as error:
        return {"path": path, "code": "document_too_large", "message": str(error)}
    except ValueError as error:
        return {"path": path, "code": "document_name_invalid", "message": str(error)}
    problem = problem_of(path, len(blob.data), services.settings)  # it may have grown since
    if problem is not None:
        return {"path": path, **problem}
    async with context.side_effect(DOCUMENT, name):
        await Documents(services.blobs, context.ref.scope).put(name, blob.data, blob.info.content_type)
    return {"path": path, "document": name, "size": blob.info.size, "etag": blob.info.etag}


def gathered(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The step's output: the names of the documents, and the files that were skipped."""
    return {
        "documents": [one["document"] for one in outputs if "document" in one],
        "skipped": [one for one in outputs if "document" not in one],
    }
