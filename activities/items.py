"""Fan-outs: a step whose work is one item each (a page, a document), at most `parallel` at a time.

`open_items` opens the step and creates its items, `run_item` runs one, `close_items` gathers what came out. The step itself
is a container, never in flight; each item is an operation.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from activities.containers import close_container, open_container
from activities.file_sync import bring, gathered, source_paths
from activities.steps import ask_model, document_names, messages, model_call
from activities.values import step_of, values_for
from shared import templates, web
from shared.branches import cancelled_branch, refusal
from shared.cancellation import run_blocking
from shared.documents import Documents
from shared.errors import ConditionFailed, Conflict, StepFailed
from shared.executions import ExecutionSpec, RunRef, item_path, new_execution
from shared.names import DocumentType, Kind
from shared.operation_context import OperationContext
from shared.operations import run_guard
from shared.outputs import keep, load
from shared.services import Services
from shared.states import UNFINISHED_EXECUTION, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.steps import AnalyzeDocumentsStep, FetchUrlsStep, FileSyncStep
from shared.store.paging import every
from shared.store.port import Create, Document, FieldIn, Op, Patch, Prefix, Query
from shared.supervisor import Outcome, outcome_of, supervise

CREATE_BATCH = 90
"""Items created in one transaction."""
AnyFanOut = FileSyncStep | FetchUrlsStep | AnalyzeDocumentsStep


async def open_items(services: Services, ref: RunRef, path: str) -> dict[str, Any]:
    """Open the fan-out at `path`. Answers `status` and, when it runs, how many `items` and `lanes` it has."""
    run, step = await step_of(services, ref, path)
    container = await services.store.get(ref.partition, ref.execution_id(path))
    if container["status"] not in UNFINISHED_EXECUTION:
        return await outcome_of(services, ref, container)
    if run["status"] != RunStatus.RUNNING or cancelled_branch(run, path) is not None:
        return await refusal(services, ref, path)  # before the documents are looked through
    names: list[str] = []
    failure: dict[str, str] | None = None
    items = await _items(services, ref, path)
    try:
        if items and len(items) == container["items_total"]:
            names = [item["name"] for item in items]  # delivered again, or resumed: what was listed then counts
        else:
            names = await _item_names(services, ref, run, step)
    except StepFailed as error:
        failure = error.facts()
    try:
        if container["status"] == Ex.PENDING:
            await open_container(
                services, ref, ExecutionSpec(path, Kind.STEP, step.name), container, items_total=len(names)
            )
        if failure is not None:
            return await close_container(services, ref, path, Ex.FAILED, None, failure)
        count = await _create_items(services, ref, path, names)
    except ConditionFailed:
        return await refusal(services, ref, path)
    return {"status": Ex.RUNNING, "items": count, "lanes": min(step.parallel, services.settings.parallel_max, count)}


async def _item_names(services: Services, ref: RunRef, run: Document, step: AnyFanOut) -> list[str]:
    if isinstance(step, FetchUrlsStep):
        values = await values_for(services, run, ref, step)
        # One that is too long is told by its item, whose name it is.
        return [templates.render(url, values)[: web.MAX_URL + 1] for url in step.urls]
    if isinstance(step, FileSyncStep):
        return await source_paths(services, ref, run, step)
    return await document_names(services, run, ref, step.documents)


async def _items(services: Services, ref: RunRef, path: str) -> list[Document]:
    """All items of the fan-out at `path`, in order."""
    where = (Prefix("id", ref.execution_id(f"{path}.i")), FieldIn("kind", (Kind.ITEM,)))
    query = Query(DocumentType.EXECUTION, ref.partition, where, limit=500)
    return [item async for item in every(services.store, query)]


async def _create_items(services: Services, ref: RunRef, path: str, names: list[str]) -> int:
    """Create the items that aren't there yet. A redelivery goes on where the first stopped; answers how many there are."""
    while True:
        there = await _items(services, ref, path)
        batch = _missing(names, there)[:CREATE_BATCH]
        if not batch:
            return len(there)
        ops: list[Op] = [
            Patch(
                ref.run_id,
                increment={"counts.total": len(batch), "counts.pending": len(batch)},
                when=run_guard(ref, (RunStatus.RUNNING,), path),
            )
        ]
        for index, name in enumerate(batch, start=len(there)):
            spec = ExecutionSpec(item_path(path, index), Kind.ITEM, name)
            ops.append(Create(new_execution(ref, spec, Ex.PENDING, operation=False)))
        try:
            await services.store.transact(ref.partition, ops)
        except Conflict:
            pass  # another delivery of this activity created them


def _missing(names: list[str], there: list[Document]) -> list[str]:
    """The names that no item has yet; a name that is listed twice has two."""
    left = Counter(item["name"] for item in there)
    missing = []
    for name in names:
        if left[name]:
            left[name] -= 1
        else:
            missing.append(name)
    return missing


async def run_item(services: Services, ref: RunRef, path: str) -> Outcome:
    """Run the item at `path`. Answers its outcome."""
    run, step = await step_of(services, ref, path)
    container = path.rpartition(".")[0]
    if cancelled_branch(run, container) is not None:
        return {"status": Ex.SKIPPED}  # the whole fan-out is: its lanes end
    item = await services.store.get(ref.partition, ref.execution_id(path))
    spec = ExecutionSpec(path, Kind.ITEM, item["name"])

    async def body(context: OperationContext) -> Any:
        if isinstance(step, FileSyncStep):
            return await bring(context, step, spec.name)
        if isinstance(step, FetchUrlsStep):
            return await _fetch(context, spec.name)
        return await _analyze(context, run, step, spec)

    stops = step.on_error == "stop"
    return await supervise(
        services,
        ref,
        [spec],
        body,
        timeout_seconds=step.timeout_seconds or services.settings.step_timeout_seconds,
        retries=step.retries,
        unless_halted=container if stops else None,
        halts=container if stops else None,
    )


async def _fetch(context: OperationContext, url: str) -> str:
    return await run_blocking(web.fetched_text, await web.fetch(url, limits=context.services.fetch_limits))


async def _analyze(context: OperationContext, run: Document, step: AnalyzeDocumentsStep, spec: ExecutionSpec) -> str:
    services, name = context.services, spec.name
    text = await Documents(services.blobs, context.ref.scope).read_text(name)
    values = await values_for(services, run, context.ref, step)
    values["document"] = {"name": name, "text": text}
    asked = messages(step, values)
    if not any(reference.path == ("document", "text") for reference in templates.references(step.prompt)):
        asked[-1]["content"] += f"\n\n# Document: {name}\n\n{text}"
    call = model_call(step, spec.path, asked[-1]["content"])
    answer: str = await context.inner(call, lambda: ask_model(context, step, asked, call.path))
    return answer


async def close_items(services: Services, ref: RunRef, path: str) -> Outcome:
    """Gather the items' outputs as the step's and end it. Answers its outcome."""
    _, step = await step_of(services, ref, path)
    items = await _items(services, ref, path)
    failed = [item for item in items if item["status"] == Ex.FAILED]
    completed = [item for item in items if item["status"] == Ex.COMPLETED]
    if failed and (step.on_error == "stop" or not completed):
        error = failed[0]["error"]
        message = f"{failed[0]['name']}: {error['message']}"
        if len(failed) > 1:
            message += f" (and {len(failed) - 1} more items failed)"
        return await close_container(services, ref, path, Ex.FAILED, None, {"code": error["code"], "message": message})
    outputs = [await load(services.blobs, item) for item in completed]
    whole: Any
    if isinstance(step, FileSyncStep):
        whole = gathered(outputs)
    else:
        whole = "\n\n".join(f"## {item['name']}\n\n{text}" for item, text in zip(completed, outputs, strict=True))
    output = await keep(services.blobs, ref, path, 1, whole)
    return await close_container(services, ref, path, Ex.COMPLETED, output, None)
