"""Makes the sample documents, with the libraries that read them or by hand: `python tests/data/make_documents.py`.

They are committed; run this after a change here. Tests read all of them; the demo uses the four in `devhost/demo_data`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import docx
import pypdf

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "devhost" / "demo_data"

QUARTER = [
    ("North", "1,240,500", "1,198,300", "+3.5 %"),
    ("South", "870,200", "912,750", "-4.7 %"),
    ("Export", "2,015,900", "1,754,100", "+14.9 %"),
    ("Total", "4,126,600", "3,865,150", "+6.8 %"),
]

NOTES = """# Review meeting, 9 October 2026

Present: Ana Ruiz (chair), Jonas Berg, Mei Lin, Oluwaseun Ade.

## Decisions

1. The export price list changes on 1 December; customers hear of it by 10 November.
2. The Porto warehouse stays open through March. Jonas reports on its costs each month.
3. No further supplier moves to net-60 terms before the audit.

## Open points

- Returns in the South region doubled in August. *Mei* finds out why before the next meeting.
- The forecast assumed a rate of 1.09; it was 1.05 at the end of the quarter.
- Two invoices of Hallberg & Søn (total €18,420) are still disputed.

Next meeting: 13 November 2026, 10:00.
"""

FIGURES = """month,region,orders,revenue_eur,returns
2026-07,North,412,402100,11
2026-07,South,301,298400,14
2026-07,Export,188,655200,3
2026-08,North,398,391900,9
2026-08,South,287,281300,31
2026-08,Export,201,668400,4
2026-09,North,455,446500,12
2026-09,South,296,290500,27
2026-09,Export,214,692300,5
"""

POLICY = [
    [
        "Travel and expenses policy",
        "",
        "Valid from 1 January 2026. Replaces the policy of 2023.",
        "",
        "1. Who it is for",
        "Everyone who travels for the company, including contractors whose contract",
        "says so. Ask your manager before you book anything above 1,500 EUR.",
        "",
        "2. Booking",
        "Trains are the default for journeys under five hours. Flights are booked in",
        "economy class; business class needs the approval of a director for each trip.",
        "Hotels may cost up to 160 EUR a night, 220 EUR in capital cities.",
    ],
    [
        "3. Meals",
        "The allowance is 45 EUR for a full day and 22 EUR for a day of arrival or",
        "departure. No receipts are needed within it. Meals with customers are claimed",
        "separately, with the names of those present.",
        "",
        "4. Claims",
        "Claims are due within 30 days after the trip. A claim that comes later than 90",
        "days is not paid. Claims above 500 EUR are checked by a second person.",
    ],
    [
        "5. Exceptions",
        "Only the chief financial officer grants exceptions, in writing and before the",
        "cost arises. Each exception is listed in the yearly report to the audit",
        "committee.",
        "",
        "Questions: travel@example.org",
    ],
]

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Supplier news &ndash; October</title>
<style>body { font-family: serif } .hidden { display: none }</style>
<script>var tracking = "<p>this is no text</p>";</script></head>
<body><h1>Supplier news</h1>
<p>Hallberg &amp; S&oslash;n <b>raises</b> prices by 4&nbsp;% from January.</p>
<ul><li>Steel: unchanged</li><li>Packaging: up 2 %</li></ul>
<table><tr><th>Part</th><th>Old</th><th>New</th></tr>
<tr><td>Valve K2</td><td>11.40</td><td>11.86</td></tr></table>
<noscript>Please enable scripts.</noscript>
</body></html>
"""


def quarterly_report() -> bytes:
    """A report with headings, running text and a table between two paragraphs."""
    document = docx.Document()
    document.add_heading("Quarterly report, third quarter of 2026", 0)
    document.add_paragraph(
        "Revenue grew by 6.8 % against the same quarter of last year. Growth came from export; the South region fell "
        "short of its plan for the second time in a row."
    )
    document.add_heading("Revenue by region", 1)
    table = document.add_table(rows=1, cols=4)
    for cell, text in zip(table.rows[0].cells, ("Region", "Q3 2026 (EUR)", "Q3 2025 (EUR)", "Change"), strict=True):
        cell.text = text
    for row in QUARTER:
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text
    document.add_heading("Outlook", 1)
    document.add_paragraph("We expect revenue between 4.2 and 4.4 million EUR in the fourth quarter. Risks:")
    for risk in (
        "the exchange rate, which moved 4 % in September",
        "returns in the South region",
        "one disputed invoice",
    ):
        document.add_paragraph(risk, style="List Bullet")
    document.add_paragraph("Lisbon, 5 October 2026")
    return _bytes(document.save)


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF with selectable text, one list of lines a page, written out by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        escaped = [line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)") for line in lines]
        shown = "".join(f"({line}) Tj T*\n" for line in escaped)
        content = f"BT /F1 11 Tf 15 TL 72 770 Td\n{shown}ET".encode("cp1252")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def encrypted(data: bytes, password: str) -> bytes:
    """The PDF, readable only with `password` (by anyone if it is empty)."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    return _bytes(writer.write)


def _bytes(save: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def main() -> None:
    """Write all of them."""
    policy = pdf(POLICY)
    samples = {
        "quarterly_report.docx": quarterly_report(),
        "meeting_notes.md": NOTES.encode(),
        "figures.csv": FIGURES.encode(),
        "travel_policy.pdf": policy,
    }
    DEMO.mkdir(exist_ok=True)
    for name, data in samples.items():
        (DEMO / name).write_bytes(data)
    samples |= {
        "supplier_news.html": PAGE.encode(),
        "letter.txt": "Dear Ms Lin,\r\n\r\nthe café’s invoice is enclosed.\r\n".encode("cp1252"),
        "encrypted.pdf": encrypted(policy, "secret"),
        "encrypted_no_password.pdf": encrypted(policy, ""),
        "scan.pdf": pdf([[]]),
        "corrupt.pdf": policy[:600].replace(b"obj", b"obx"),
        "empty.txt": b"",
    }
    for name, data in samples.items():
        (HERE / name).write_bytes(data)


if __name__ == "__main__":
    main()
