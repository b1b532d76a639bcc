"""A scope's documents: names, isolation between scopes, and their text."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.blobs import LocalBlobs
from shared.cancellation import CancelToken, set_current
from shared.documents import Documents, validate_name
from shared.errors import Cancellation, NotFound, RunCancelled, StepFailed

DATA = Path(__file__).parent / "data"


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


@pytest.fixture
def documents(blobs: LocalBlobs) -> Documents:
    return Documents(blobs, "user:ana")


async def test_a_document_is_put_read_listed_and_deleted(documents: Documents) -> None:
    """Callers see names within the scope, never the blob's."""
    info = await documents.put("reports/march.txt", b"hello", "text/plain")
    assert (info.name, info.size, info.content_type) == ("reports/march.txt", 5, "text/plain")
    blob = await documents.get("reports/march.txt")
    assert (blob.info, blob.data) == (info, b"hello")
    assert [one.name for one in (await documents.list()).items] == ["reports/march.txt"]
    await documents.delete("reports/march.txt")
    await documents.delete("reports/march.txt")
    with pytest.raises(NotFound) as caught:
        await documents.get("reports/march.txt")
    assert caught.value.document_id == "reports/march.txt"


async def test_scopes_do_not_see_each_other(blobs: LocalBlobs) -> None:
    """One scope's name may begin with another's."""
    ana, anabel = Documents(blobs, "user:ana"), Documents(blobs, "user:anabel")
    await ana.put("a.txt", b"ana", "text/plain")
    await anabel.put("a.txt", b"anabel", "text/plain")
    assert await ana.names() == ("a.txt",)
    assert (await ana.get("a.txt")).data == b"ana"
    for scope in ("", "user:ana/x"):
        with pytest.raises(ValueError, match="not a scope"):
            Documents(blobs, scope)


@pytest.mark.parametrize(
    "name", ["a", "a/b/c.txt", "…/été 1.md", "a b", "v1.2/x", ".hidden", "a..b", "%2e%2e/x", "x" * 300]
)
def test_names_that_are_allowed(name: str) -> None:
    """People's file names are let in as they are."""
    assert validate_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "x" * 301, "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/..", "a.", "a./b"),
        *("a\\b", "a\0b", "a\nb", "a\x7fb", "a\x85b", "\ud800", "a\ue000", "a\U00105799", "a\uffff"),
    ],
)
async def test_names_that_are_refused(name: str, documents: Documents) -> None:
    """None may climb out of the scope, hide in a listing, or be refused later by the blob service."""
    with pytest.raises(ValueError):
        validate_name(name)
    with pytest.raises(ValueError):
        await documents.put(name, b"", "text/plain")
    with pytest.raises(StepFailed, match="document_name_invalid"):
        await documents.read_text(name)


async def test_a_prefix_can_not_climb_out_either(blobs: LocalBlobs, documents: Documents) -> None:
    """A model may choose the prefix of a search."""
    await Documents(blobs, "user:ben").put("secret.txt", b"x", "text/plain")
    for prefix in ("../user:ben/", "../", "/", "a//", "..\\"):
        with pytest.raises(ValueError):
            await documents.list(prefix)
        with pytest.raises(StepFailed, match="document_name_invalid"):
            await documents.names(prefix)


async def test_all_names_come_in_order_through_pages(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that reads a prefix must miss none, and must refuse what would be too much rather than cut it."""
    monkeypatch.setattr("shared.documents.PAGE", 3)
    for i in reversed(range(10)):
        await documents.put(f"r/{i}.txt", b"x", "text/plain")
    await documents.put("other.txt", b"x", "text/plain")
    expected = tuple(f"r/{i}.txt" for i in range(10))
    assert await documents.names("r/") == expected
    assert await documents.names("r/", at_most=10) == expected
    assert await documents.names("none/") == ()
    with pytest.raises(StepFailed) as caught:
        await documents.names("r/", at_most=9)
    assert (caught.value.code, caught.value.retryable) == ("too_many_documents", False)
    page = await documents.list("r/", limit=4)
    assert [one.name for one in page.items] == list(expected[:4])
    assert [one.name for one in (await documents.list("r/", 4, page.next)).items] == list(expected[4:8])


async def test_the_text_of_a_document(documents: Documents) -> None:
    """By its format; what can't be read fails the step with a code."""
    await documents.put("policy.pdf", (DATA / "travel_policy.pdf").read_bytes(), "application/pdf")
    await documents.put("broken.pdf", b"?", "application/pdf")
    assert "economy class" in await documents.read_text("policy.pdf")
    with pytest.raises(StepFailed, match="document_unreadable"):
        await documents.read_text("broken.pdf")
    with pytest.raises(StepFailed, match="document_missing"):
        await documents.read_text("gone.pdf")


async def test_a_document_that_could_not_be_read_is_not_taken(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better to refuse the upload than each run that reads it."""
    monkeypatch.setattr("shared.documents.MAX_INPUT_BYTES", 3)
    with pytest.raises(StepFailed, match="document_too_large"):
        await documents.put("a.txt", b"four", "text/plain")


async def test_a_cancelled_run_reads_nothing(documents: Documents) -> None:
    """Reading is an operation too."""
    await documents.put("a.txt", b"x", "text/plain")
    token = CancelToken()
    set_current(token)
    token.cancel(Cancellation("test"))
    with pytest.raises(RunCancelled):
        await documents.read_text("a.txt")
    with pytest.raises(RunCancelled):
        await documents.names()
