"""Files that people drop for a workflow: where they are, which may be used, and what is known of each.

A file lies in the container `filesync` at `user/{id}/{workflow}/{path}` (or `group/…`). The scope's colon is written as a
slash, because no file on Windows may have one in its name. Each file has one document in its workflow's partition: the
version that arrived last, and the one that a run was started for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.documents import validate_name
from shared.extract import SUPPORTED_ENDINGS
from shared.identity import ID_PATTERN
from shared.names import DocumentType
from shared.settings import Settings
from shared.store.port import Document, Partition
from shared.workflows import ID_PATTERN as WORKFLOW_PATTERN

PENDING = "pending"
"""The version that arrived last waits for its run."""
TAKEN = "taken"
"""A run (or a `skipped` one) was made for it."""
SHOWN = 320
"""The most characters of what is told about a file that can't be used: more than a document's name has."""

_NAME = re.compile(rf"(user|group)/({ID_PATTERN.pattern})/({WORKFLOW_PATTERN.pattern})/(.+)", re.DOTALL)


class Place(NamedTuple):
    """Which workflow's file, and its path there."""

    partition: Partition
    path: str

    @property
    def blob_name(self) -> str:
        """Its blob in the container."""
        return folder_of(self.partition) + self.path


def folder_of(partition: Partition) -> str:
    """What the names of a workflow's files begin with."""
    return f"{partition.scope.replace(':', '/', 1)}/{partition.workflow_id}/"


def place_of(blob_name: str) -> Place | None:
    """The place of a blob of the container; None where no workflow's files are."""
    match = _NAME.fullmatch(blob_name)
    return None if match is None else Place(Partition(f"{match[1]}:{match[2]}", match[3]), match[4])


def problem_of(path: str, size: int, settings: Settings) -> dict[str, str] | None:
    """Why a file can't become a document: `code` and `message`. None if it can."""
    try:
        validate_name(path)
    except ValueError as error:
        return {"code": "document_name_invalid", "message": str(error)}
    file = path.rpartition("/")[2]
    if "." not in file or file.rpartition(".")[2].lower() not in SUPPORTED_ENDINGS:
        known = ", ".join(f".{ending}" for ending in sorted(SUPPORTED_ENDINGS))
        return {"code": "document_type_unsupported", "message": f"{path!r}: text can be read from {known}"}
    if size > settings.document_max_bytes:
        most = settings.document_max_bytes
        return {"code": "document_too_large", "message": f"{path!r} has {size} bytes; the most is {most}"}
    if size == 0:
        return {"code": "document_empty", "message": f"{path!r} is empty"}
    return None


def file_id(path: str) -> str:
    """The id of a file's document. A path may be longer than an id, and hold what no id may."""
    return f"file:{hashlib.sha256(path.encode()).hexdigest()}"


def version_key(file: Mapping[str, Any]) -> str:
    """What names one version of a file: the key of its receipt."""
    return hashlib.sha256(f"{file['path']}\n{file['etag']}".encode()).hexdigest()


def arrived_version(path: str, etag: str, size: int, problem: dict[str, str] | None) -> Document:
    """The fields of a version that arrived, in its file's document. `digest` is set where changes are what counts."""
    return {"path": path, "etag": etag, "size": size, "digest": None, "problem": problem, "status": PENDING}


def new_file(version: Document, at: str) -> Document:
    """The document of a file that arrived for the first time."""
    return {
        "id": file_id(version["path"]),
        "type": DocumentType.FILE,
        **version,
        "arrived_at": at,
        "taken_digest": None,
        "run_id": None,
    }


def shown(file: Document) -> dict[str, Any]:
    """A file as a run's input names it; with `code` and `message` if it could not be used."""
    facts = {key: file[key] for key in ("path", "etag", "size")}
    if file["problem"] is None:
        return facts
    # Names that are none may be long, and the run's document is written often.
    short = {"path": file["path"][:SHOWN], "message": file["problem"]["message"][:SHOWN]}
    return {**facts, **file["problem"], **short}
