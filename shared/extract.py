"""Text out of documents: what a model, a template or a search may see of a file.

Files come from strangers, so every format is bounded: bytes in, characters out, pages, and what a zip may unfold to.
HTML is read by libxml2 in one pass: on a hostile page of 50 KB the standard library's parser (and so Beautiful Soup on
top of it) takes minutes, in a thread that nothing can stop.

All of this is CPU-bound and synchronous: call it through `run_blocking`. Inside a run it notices a cancel between
chunks, rows and pages.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from shared.cancellation import checkpoint_if_run
from shared.errors import StepFailed

MAX_INPUT_BYTES = 20 * 1024 * 1024
MAX_CHARACTERS = 5_000_000
MAX_UNZIPPED_BYTES = 60 * 1024 * 1024
MAX_PAGES = 5000

_CHUNK = 64 * 1024
_BOMS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SPACES = re.compile(r"[^\S\n]+")


def extract_text(name: str, data: bytes, charset: str | None = None) -> str:
    """The text of a document whose format is told by the ending of `name`; lines end with `\\n`.

    `charset`: what the transport says of a text format's encoding; a byte order mark wins over it. Tables become one
    line a row, cells parted by ` | `. Raises `StepFailed`: `document_type_unsupported`, `document_too_large`,
    `document_unreadable` (damaged, encrypted, or not what its name says), `document_empty` (no text, such as a scan).
    """
    ending = name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""
    reader = _READERS.get(ending)
    if reader is None:
        known = ", ".join(f".{one}" for one in sorted(_READERS))
        raise StepFailed("document_type_unsupported", f"{name!r}: text can be read from {known}")
    if len(data) > MAX_INPUT_BYTES:
        raise StepFailed("document_too_large", f"{name!r} has {len(data)} bytes; at most {MAX_INPUT_BYTES} can be read")
    text = _joined(reader(name, data, charset), name) if data else ""
    if not text or text.isspace():
        raise StepFailed("document_empty", f"{name!r} holds no text")
    return text


def _joined(pieces: Iterator[str], name: str) -> str:
    """Join what a reader yields, within the limit on characters and without what JSON or a terminal chokes on."""
    kept: list[str] = []
    size = 0
    for piece in pieces:
        checkpoint_if_run()
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise StepFailed("document_too_large", f"{name!r} holds over {MAX_CHARACTERS} characters of text")
        kept.append(piece)
    text = "".join(kept).replace("\r\n", "\n").replace("\r", "\n")
    return _UNWANTED.sub(lambda found: "\ufffd" if found[0] >= "\ud800" else "", text)


def _unreadable(name: str, why: str) -> StepFailed:
    return StepFailed("document_unreadable", f"{name!r}: {why}")


def _decode(name: str, data: bytes, charset: str | None) -> str:
    """A text file's text: its byte order mark, else `charset`, else UTF-8, else Windows-1252, which reads any bytes."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if charset is not None:
        try:
            return data.decode(charset, "replace")
        except (LookupError, UnicodeError, ValueError):
            pass  # unknown, or not a text encoding: go on as if it had not been said
    if b"\0" in data:
        raise _unreadable(name, "it is not a text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _plain(name: str, data: bytes, charset: str | None) -> Iterator[str]:
    yield _decode(name, data, charset)


def _csv(name: str, data: bytes, charset: str | None) -> Iterator[str]:
    text = _decode(name, data, charset)
    delimiter = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            yield _row(row) + "\n"
    except csv.Error as error:
        raise _unreadable(name, f"not valid CSV: {error}") from None


def _row(cells: list[str]) -> str:
    return " | ".join(" ".join(cell.split()) for cell in cells)


_SILENT = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select"})
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|br|caption|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|footer|form|"
    "h[1-6]|header|hr|li|main|nav|ol|p|pre|section|summary|table|tbody|tfoot|thead|title|tr|ul"
)


class _HtmlText:
    """A target of lxml's HTML parser that keeps the text a reader would see, one block a line."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._silent = 0
        self._pre = 0

    def start(self, tag: str, _attributes: Any) -> None:
        self._silent += tag in _SILENT
        self._pre += tag == "pre"
        self._edge(tag)

    def end(self, tag: str) -> None:
        self._silent -= tag in _SILENT
        self._pre -= tag == "pre"
        if tag in {"td", "th"}:
            self.pieces.append(" | ")
        else:
            self._edge(tag)

    def data(self, text: str) -> None:
        if not self._silent:
            self.pieces.append(text if self._pre else _SPACES.sub(" ", text.replace("\n", " ")))

    def close(self) -> None:
        """Part of the protocol of lxml's targets; what was heard is taken from `pieces`."""

    def _edge(self, tag: str) -> None:
        if not self._silent and _BLOCK.fullmatch(tag):
            self.pieces.append("\n")


def _html(name: str, data: bytes, charset: str | None) -> Iterator[str]:
    from lxml import etree  # type: ignore[import-untyped]

    if charset is None and (declared := _META_CHARSET.search(data, 0, 4096)):
        charset = declared[1].decode("ascii")
        if charset.lower().startswith(("utf-16", "utf-32")):
            charset = None  # it could not have been read if it were true; browsers take it for UTF-8 too
    markup = _decode(name, data, charset).encode("utf-8", "replace")
    target = _HtmlText()
    parser = etree.HTMLParser(target=target, encoding="utf-8")
    try:
        for at in range(0, len(markup), _CHUNK):
            checkpoint_if_run()
            parser.feed(markup[at : at + _CHUNK])
        parser.close()
    except etree.LxmlError as error:
        if target.pieces:  # else there is no element at all, such as in a lone comment: the document is empty
            raise _unreadable(name, f"not readable as HTML: {error}") from None
    text = "".join(target.pieces)
    lines = (line.strip().removesuffix("|").rstrip() for line in text.splitlines())
    yield "".join(f"{line}\n" for line in lines if line)


def _pdf(name: str, data: bytes, _charset: str | None) -> Iterator[str]:
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _unreadable(name, "it is encrypted and needs a password")
        for number, page in enumerate(reader.pages, start=1):
            if number > MAX_PAGES:
                raise StepFailed("document_too_large", f"{name!r} has over {MAX_PAGES} pages")
            yield page.extract_text().strip() + "\n\n"
    except StepFailed:
        raise
    except Exception as error:  # damaged files make pypdf raise nearly anything, as its own documentation says
        raise _unreadable(name, f"not readable as PDF: {type(error).__name__}: {error}") from error


def _docx(name: str, data: bytes, _charset: str | None) -> Iterator[str]:
    """Paragraphs and tables in the order of the document; inserted text included; deleted text, headers, notes not."""
    try:
        _check_zip(name, data)
        import docx

        body = docx.Document(io.BytesIO(data)).element.body
        yield from _blocks(body)
    except StepFailed:
        raise
    except Exception as error:  # a damaged package surfaces as KeyError, ValueError, BadZipFile, XMLSyntaxError, …
        raise _unreadable(name, f"not readable as DOCX: {type(error).__name__}: {error}") from error


def _check_zip(name: str, data: bytes) -> None:
    """Refuse a zip that would unfold to too much; `zipfile` reads no member beyond the size it declares."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        members = package.infolist()
    size = sum(member.file_size for member in members)
    if size > MAX_UNZIPPED_BYTES or len(members) > 5000:
        raise StepFailed("document_too_large", f"{name!r} unfolds to {size} bytes in {len(members)} parts")
    # With other methods `zipfile` unfolds a chunk whole, however large it gets.
    if any(member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} for member in members):
        raise _unreadable(name, "it is compressed in a way that DOCX does not use")


_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DROPPED = frozenset(
    {f"{_W}del", f"{_W}moveFrom", "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"}
)


def _blocks(parent: Any) -> Iterator[str]:
    """Lines of the paragraphs and table rows below `parent`, through content controls and the like.

    The XML is walked rather than python-docx's tables: those repeat merged cells, as often as the file says (a billion
    columns, if it likes), and its paragraphs leave out inserted text and content controls.
    """
    for element in parent.iterchildren("*"):
        if element.tag == f"{_W}p":
            yield _inline(element) + "\n"
        elif element.tag == f"{_W}tr":
            yield _row([" ".join(_blocks(cell)) for cell in element.iterchildren(f"{_W}tc", f"{_W}sdt")]) + "\n"
        elif element.tag not in _DROPPED:
            yield from _blocks(element)


_MARKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


def _inline(paragraph: Any) -> str:
    pieces: list[str] = []
    waiting = [iter(paragraph)]
    while waiting:
        for element in waiting[-1]:
            if element.tag == f"{_W}t":
                pieces.append(element.text or "")
            elif element.tag in _MARKS:
                pieces.append(_MARKS[element.tag])
            elif element.tag not in _DROPPED and element.tag != f"{_W}pPr":
                waiting.append(iter(element))
                break
        else:
            waiting.pop()
    return "".join(pieces)


_READERS: dict[str, Callable[[str, bytes, str | None], Iterator[str]]] = {
    "txt": _plain,
    "md": _plain,
    "csv": _csv,
    "html": _html,
    "htm": _html,
    "pdf": _pdf,
    "docx": _docx,
}
SUPPORTED_ENDINGS = tuple(_READERS)
