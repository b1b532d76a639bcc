"""The built-in tools."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from pydantic import Field

from shared import web
from shared.cancellation import checkpoint, run_blocking
from shared.errors import StepFailed
from shared.tools.registry import ToolContext, tool

MAX_TEXT = 200_000
MAX_SEARCHED = 999
_AROUND = 120


@tool
async def sleep(seconds: Annotated[float, Field(ge=0, le=3600)], blocking: bool = False) -> float:
    """Wait, and answer for how many seconds.

    Args:
        seconds: How long, at most an hour.
        blocking: Wait in a way that nothing can interrupt: a cancel then waits for the end of it, as for any tool that
            ignores cancels. For trying out what happens.
    """
    if blocking:
        await run_blocking(time.sleep, seconds)
    else:
        await asyncio.sleep(seconds)
    return seconds


@tool
async def fetch_url(url: str, context: ToolContext) -> str:
    """Fetch a web page or a document on the web and answer its text.

    Args:
        url: An http or https address.
    """
    fetched = await web.fetch(url, limits=context.fetch_limits, client=context.web_client)
    return _bounded(await run_blocking(web.fetched_text, fetched))


@tool
async def read_document(name: str, context: ToolContext) -> str:
    """Read one of the documents and answer its text.

    Args:
        name: The document's full name, such as reports/march.pdf.
    """
    return _bounded(await context.documents.read_text(name))


@tool
async def search_documents(
    query: Annotated[str, Field(min_length=1, max_length=500)],
    context: ToolContext,
    prefix: str = "",
    limit: Annotated[int, Field(ge=1, le=100)] = 10,
) -> list[dict[str, str]]:
    """Find the documents whose text holds some words, exactly as given but for upper and lower case.

    Answers a list of {name, snippet}. Documents that can't be read as text are passed over.

    Args:
        query: The words.
        prefix: Search only documents whose names begin so.
        limit: How many documents to answer at most.
    """
    found: list[dict[str, str]] = []
    for name in await context.documents.names(prefix, MAX_SEARCHED):
        checkpoint()
        try:
            text = await context.documents.read_text(name)
        except StepFailed:
            continue
        snippet = await run_blocking(_snippet, text, query)
        if snippet is not None:
            found.append({"name": name, "snippet": snippet})
            if len(found) == limit:
                break
    return found


@tool(side_effects=("artifact",))
async def write_artifact(
    path: Annotated[str, Field(min_length=1, max_length=300)], content: str, context: ToolContext
) -> dict[str, Any]:
    """Write a file for people to read: an artifact of this run. Writing the same path again replaces it.

    Args:
        path: Its name, such as notes/summary.md.
        content: Its text.
    """
    return await context.write_artifact(path, content)


@tool(side_effects=("notification",))
async def notify(
    subject: Annotated[str, Field(min_length=1, max_length=500)], message: str, context: ToolContext
) -> dict[str, Any]:
    """Tell the people who watch this workflow something.

    Args:
        subject: What it is about, in a few words.
        message: What to tell them.
    """
    return await context.notify(subject, message)


@tool
async def echo(value: Any) -> Any:
    """Answer the value given. For trying things out.

    Args:
        value: Any JSON.
    """
    return value


@tool
async def run_workflow(  # its arguments are what its schema is made of
    workflow_id: Annotated[str, Field(pattern=r"^[a-z0-9]{26}$")],  # noqa: ARG001
    input: Any = None,  # noqa: ARG001
) -> Any:
    """Run another workflow, wait for its end and answer its output.

    Args:
        workflow_id: Which one.
        input: What it is given: any JSON.
    """
    # An agent's call of it is a child run, which an orchestration waits for, not a tool's body.
    raise StepFailed("tool_not_here", "only an agent can call this tool; a workflow has the step child_run")


def _bounded(text: str) -> str:
    """The text, or its beginning with a note that says so: a model should know that it has not read all."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}\n[cut here: these are the first {MAX_TEXT} of {len(text)} characters]"


def _snippet(text: str, query: str) -> str | None:
    """What stands around the first place where `query` occurs, on one line; None where it doesn't.

    By `str.find`, which is linear: a regular expression would hold the interpreter, and so every cancel, for seconds.
    """
    text, query = " ".join(text.split()), " ".join(query.split()).lower()
    lowered = text.lower()
    at = lowered.find(query) if query else -1
    if at < 0:
        return None
    shown = text if len(text) == len(lowered) else lowered  # a few letters grow when lowered, which shifts what follows
    start, end = max(0, at - _AROUND), min(len(shown), at + len(query) + _AROUND)
    return f"{'…' if start else ''}{shown[start:end].strip()}{'…' if end < len(shown) else ''}"
