"""Text out of documents: each format, each kind of damage, and each limit."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import docx
import pytest
from docx.document import Document
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from shared import extract
from shared.cancellation import CancelToken, run_blocking, set_current
from shared.errors import Cancellation, RunCancelled, StepFailed
from shared.extract import extract_text
from tests.data.make_documents import pdf

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parent.parent / "devhost" / "demo_data"


def read(name: str) -> str:
    return extract_text(name, (DATA / name).read_bytes())


def code_of(name: str, data: bytes) -> str:
    with pytest.raises(StepFailed) as caught:
        extract_text(name, data)
    assert not caught.value.retryable
    return caught.value.code


def as_bytes(document: Document) -> bytes:
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def test_every_demo_document_has_text() -> None:
    """The demo must not show a failed step for a sample that can't be read."""
    documents = sorted(DEMO.iterdir())
    assert len(documents) == 4
    for path in documents:
        assert len(extract_text(path.name, path.read_bytes())) > 250


def test_a_docx_gives_paragraphs_and_tables_in_order() -> None:
    """Tables come where they stand, not at the end."""
    lines = read("quarterly_report.docx").splitlines()
    table = lines.index("Region | Q3 2026 (EUR) | Q3 2025 (EUR) | Change")
    assert lines[table + 1] == "North | 1,240,500 | 1,198,300 | +3.5 %"
    assert lines.index("Revenue by region") == table - 1
    assert lines.index("Outlook") == table + 5


def test_a_pdf_gives_the_text_of_all_pages_in_order() -> None:
    """Only the first page used to be the classic mistake."""
    text = read("travel_policy.pdf")
    places = [
        text.index(one) for one in ("Travel and expenses policy", "3. Meals", "5. Exceptions", "travel@example.org")
    ]
    assert places == sorted(places)
    assert "economy class; business class needs the approval of a director for each trip." in text


def test_html_gives_what_a_reader_sees() -> None:
    """Scripts, styles and fallbacks are no content; words in one paragraph stay on one line."""
    assert read("supplier_news.html").splitlines() == [
        "Supplier news – October",
        "Supplier news",
        "Hallberg & Søn raises prices by 4 % from January.",
        "Steel: unchanged",
        "Packaging: up 2 %",
        "Part | Old | New",
        "Valve K2 | 11.40 | 11.86",
    ]


def test_csv_gives_one_line_a_row_whatever_the_delimiter() -> None:
    """Spreadsheets in half of Europe write semicolons; cells may hold line ends and quotes."""
    assert read("figures.csv").splitlines()[1] == "2026-07 | North | 412 | 402100 | 11"
    assert extract_text("a.csv", b'name;note\n"x;y";"two\nlines ""q"""\n') == 'name | note\nx;y | two lines "q"\n'
    assert extract_text("a.csv", b"a\tb\n1\t2,5\n") == "a | b\n1 | 2,5\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("naïve\r\ncafé".encode(), "naïve\ncafé"),
        ("﻿café".encode(), "café"),
        ("café".encode("utf-16"), "café"),
        ("café".encode("utf-16-be").join((b"\xfe\xff", b"")), "café"),
        ("café".encode("utf-32"), "café"),
        ("café’s".encode("cp1252"), "café’s"),
        (b"odd \x81 byte", "odd � byte"),
        (b"a\x1bb\x07c\x0c", "abc"),
    ],
)
def test_text_is_decoded_by_mark_then_utf8_then_windows(data: bytes, expected: str) -> None:
    """Old files from Windows are common; none may fail or turn into rubbish, nor bring control characters along."""
    assert extract_text("notes/Letter.TXT", data) == expected


def test_html_honours_the_declared_charset() -> None:
    """Of transport, page and guess, the transport wins."""
    page = '<meta charset="iso-8859-2"><p>Łódź'.encode("iso-8859-2")
    assert extract_text("a.html", page) == "Łódź\n"
    assert extract_text("a.html", "<meta charset='iso-8859-2'><p>Łódź".encode(), charset="utf-8") == "Łódź\n"
    assert extract_text("a.html", "<meta charset='utf-16'><p>Łódź".encode()) == "Łódź\n"
    assert extract_text("a.html", "<p>Łódź".encode(), charset="no-such-charset") == "Łódź\n"
    assert extract_text("a.txt", b"text", charset="base64") == "text"


def test_what_has_no_text_says_so() -> None:
    """A scan is the commonest document without text: the model must not be asked about nothing."""
    for name in ("empty.txt", "scan.pdf"):
        assert code_of(name, (DATA / name).read_bytes()) == "document_empty"
    assert code_of("a.pdf", b"") == "document_empty"
    assert code_of("a.docx", as_bytes(docx.Document())) == "document_empty"
    for page in (b" \n ", b"<!-- only this", b"<script>only()</script>", b"\xef\xbb\xbf"):
        assert code_of("a.html", page) == "document_empty"


def test_damaged_files_are_unreadable() -> None:
    """Every way in which a file can be broken is one stable code, never a stray exception of a library."""
    report, policy = (DATA / "quarterly_report.docx").read_bytes(), (DATA / "travel_policy.pdf").read_bytes()
    assert code_of("corrupt.pdf", (DATA / "corrupt.pdf").read_bytes()) == "document_unreadable"
    for data in (b"no pdf at all", policy[:40], policy.replace(b"/Pages", b"/Sages")):
        assert code_of("a.pdf", data) == "document_unreadable"
    for data in (b"no zip", report[: len(report) // 2], zipped({"a.xml": b"<a/>"}), policy):
        assert code_of("a.docx", data) == "document_unreadable"
    assert code_of("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") == "document_unreadable"
    assert code_of("a.csv", b"a,b\n" + b"x" * 200_000) == "document_unreadable"


def test_an_encrypted_pdf_is_read_only_if_it_needs_no_password() -> None:
    """Many PDFs are encrypted merely to forbid editing: they open for everyone."""
    assert "expenses policy" in read("encrypted_no_password.pdf")
    assert code_of("encrypted.pdf", (DATA / "encrypted.pdf").read_bytes()) == "document_unreadable"


def test_unknown_endings_are_refused() -> None:
    """The message names what can be read."""
    for name in ("a.exe", "a", "folder.pdf/a", "a.", ".txt.zip"):
        assert code_of(name, b"text") == "document_type_unsupported"


def test_size_is_bounded_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file can hold a huge text."""
    monkeypatch.setattr(extract, "MAX_CHARACTERS", 1000)
    assert code_of("a.txt", b"x" * 1001) == "document_too_large"
    assert code_of("a.csv", b"a,b\n" * 500) == "document_too_large"
    assert code_of("a.pdf", pdf([["word " * 20]] * 20)) == "document_too_large"
    monkeypatch.setattr(extract, "MAX_PAGES", 2)
    assert code_of("a.pdf", pdf([["x"]] * 3)) == "document_too_large"
    monkeypatch.setattr(extract, "MAX_INPUT_BYTES", 10)
    assert code_of("a.txt", b"x" * 11) == "document_too_large"


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as package:
        for name, data in parts.items():
            package.writestr(name, data)
    return stream.getvalue()


def test_a_zip_bomb_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DOCX is a zip: 60 KB of it may unfold to 60 MB, and with bzip2 to far more than it declares."""
    monkeypatch.setattr(extract, "MAX_UNZIPPED_BYTES", 1_000_000)
    assert code_of("a.docx", zipped({"word/document.xml": b" " * 1_000_001})) == "document_too_large"
    assert code_of("a.docx", zipped({f"{i}": b"" for i in range(5001)})) == "document_too_large"
    assert code_of("a.docx", zipped({"word/document.xml": b"<a/>"}, zipfile.ZIP_BZIP2)) == "document_unreadable"


def test_a_zip_that_lies_about_its_sizes_is_unreadable() -> None:
    """The sizes declared are what is checked, so a member that unfolds to more must not get through."""
    honest = (DATA / "quarterly_report.docx").read_bytes()
    with zipfile.ZipFile(io.BytesIO(honest)) as package:
        size = package.getinfo("word/document.xml").file_size
    lying = honest.replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying.count((10).to_bytes(4, "little")) >= 2
    assert code_of("a.docx", lying) == "document_unreadable"


def with_document_xml(xml: str) -> bytes:
    with zipfile.ZipFile(DATA / "quarterly_report.docx") as document:
        parts = {name: document.read(name) for name in document.namelist()}
    return zipped(parts | {"word/document.xml": xml.encode()})


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    """Neither a billion laughs nor a file of this machine may come out of a DOCX."""
    body = f"<w:document {nsdecls('w')}><w:body><w:p><w:r><w:t>before &x; after</w:t></w:r></w:p></w:body></w:document>"
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE d [<!ENTITY l0 "lol">{laughs}<!ENTITY x "&l9;">]>'
    assert code_of("a.docx", with_document_xml(bomb + body)) == "document_unreadable"
    (tmp_path / "secret").write_text("the secret")
    outside = f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    assert "secret" not in extract_text("a.docx", with_document_xml(outside + body))


def test_a_docx_with_merged_nested_and_endless_cells() -> None:
    """python-docx repeats a cell as often as its span says; a span of a billion must not fill the memory."""
    document = docx.Document()
    table = document.add_table(rows=2, cols=3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(0, 2).text = "c"
    table.cell(1, 0).add_table(rows=1, cols=2).cell(0, 1).text = "nested"
    table.cell(1, 2).text = "last"
    cell = table.cell(1, 1)._tc
    cell.get_or_add_tcPr().append(parse_xml(f'<w:gridSpan {nsdecls("w")} w:val="1000000000"/>'))
    lines = [line.replace(" ", "") for line in extract_text("a.docx", as_bytes(document)).splitlines()]
    assert lines == ["wide|c", "|nested||last"]


def test_a_docx_with_tracked_changes_links_and_controls() -> None:
    """Inserted text and content controls count, deleted text does not."""
    document = docx.Document()
    w = nsdecls("w")
    for xml in (
        f"<w:p {w}><w:r><w:t>kept </w:t></w:r><w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:hyperlink><w:r><w:tab/><w:t>link</w:t></w:r></w:hyperlink></w:p>",
        f"<w:sdt {w}><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
    ):
        document.element.body.insert(0, parse_xml(xml))
    assert extract_text("a.docx", as_bytes(document)).splitlines() == ["in a control", "kept new\tlink"]


@pytest.mark.parametrize(
    "piece",
    ["<", "<a ", "<!--", "<![CDATA[", "</", '<a href="', "<?", "<!x", "<div>", "&", "<b>x", "<table><tr><td>", "<pre>"],
)
def test_hostile_html_takes_linear_time(piece: str) -> None:
    """The standard library's parser takes minutes for some of these, in a thread that nothing can stop."""
    page = (piece * (300_000 // len(piece))).encode()
    began = time.monotonic()
    try:
        extract_text("a.html", page)
    except StepFailed as error:
        assert error.code in {"document_empty", "document_unreadable"}
    assert time.monotonic() - began < 3


def test_deeply_nested_html_keeps_its_text() -> None:
    """No recursion, and nothing is lost beyond a depth."""
    assert "deep" in extract_text("a.html", b"<div>" * 50_000 + b"deep" + b"</div>" * 50_000)


async def test_a_cancel_stops_extraction_between_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of a thousand pages must not be read to its end for a cancelled run."""
    token = CancelToken()
    set_current(token)
    read_pages = 0
    joined = extract._joined

    def counting(pieces: object, name: str) -> str:
        def counted():  # type: ignore[no-untyped-def]
            nonlocal read_pages
            for piece in pieces:  # type: ignore[attr-defined]
                read_pages += 1
                if read_pages == 3:
                    token.cancel(Cancellation("test"))
                yield piece

        return joined(counted(), name)

    monkeypatch.setattr(extract, "_joined", counting)
    with pytest.raises(RunCancelled):
        await run_blocking(extract_text, "a.pdf", pdf([["x"]] * 10))
    assert read_pages == 3


def test_half_surrogates_are_replaced() -> None:
    """What comes out must go into JSON and UTF-8."""
    extract_text("a.html", b"<p>x &#xD800; y").encode()
    assert extract._joined(iter(["a\ud800b"]), "x") == "a�b"
