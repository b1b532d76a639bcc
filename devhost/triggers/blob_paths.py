"""The path of a blob trigger: which blobs it means, as the host's binding templates say.

`container/reports/{name}.{extension}` means all blobs that fit; a `{parameter}` takes as much as it can, slashes included.
`{{` and `}}` stand for braces. There are no patterns in the container's part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.blobs import check_blob_name

_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<parameter>[^{}]*)\}|(?P<literal>[^{}]+)|(?P<unbalanced>[{}])")
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
_PARAMETER = re.compile(r"[^\W\d]\w*")
_TAKEN = ("blobtrigger", "uri", "properties", "metadata")


def check_container_name(name: str) -> None:
    """Raise `ValueError` unless this is a container's name."""
    if not _CONTAINER.fullmatch(name):
        raise ValueError(f"{name!r} is not a container name")


@dataclass(frozen=True, slots=True)
class BlobPath:
    """`prefix` is how the name of each blob that fits begins."""

    container: str
    prefix: str
    _pattern: re.Pattern[str]

    def fits(self, name: str) -> bool:
        """Whether the trigger means the blob of this name."""
        return self._pattern.fullmatch(name) is not None


def parse_blob_path(text: str) -> BlobPath:
    """Raises `ValueError` for what the host refuses."""
    container, slash, blob = text.partition("/")
    if "{" in container:
        raise ValueError("the container's part can't have {parameters}")
    check_container_name(container)
    if slash and not blob:
        raise ValueError("a path is container/blob")
    if not slash:
        return BlobPath(container, "", re.compile(".*"))
    pattern, prefix = "", ""
    parameters: set[str] = set()
    for token in _TOKEN.finditer(blob):
        if token["unbalanced"]:
            raise ValueError(f"there is a brace too many at {token.start() + len(container) + 2}")
        name = token["parameter"]
        if name is None:
            literal = token["brace"][0] if token["brace"] else token["literal"]
            pattern += re.escape(literal)
            prefix += "" if parameters else literal
            continue
        if not _PARAMETER.fullmatch(name) or name.lower() in _TAKEN or name.lower() in parameters:
            raise ValueError(f"{{{name}}} is not a name, is the host's own, or is there twice")
        parameters.add(name.lower())
        pattern += "(.*)"
    if not parameters:
        check_blob_name(prefix)
    return BlobPath(container, prefix, re.compile(pattern))
