"""The steps that are one operation: a model call, a tool call, a comparison, an artifact, a notification."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from activities import publishing
from activities.tools import tool_context
from activities.values import output_of, step_of, values_for
from shared import templates
from shared.cancellation import checkpoint
from shared.documents import Documents
from shared.errors import StepFailed
from shared.events import event
from shared.executions import ExecutionSpec, RunRef, item_path
from shared.model_client import ModelRequest
from shared.names import EventType, Kind
from shared.operation_context import OperationContext
from shared.outputs import as_text, preview
from shared.services import Services
from shared.steps import (
    CompareDocumentsStep,
    ModelOptions,
    ModelStep,
    NotifyStep,
    ToolStep,
    WriteArtifactStep,
)
from shared.steps import Documents as Chosen
from shared.store.port import Document
from shared.supervisor import Body, Outcome, fail, supervise
from shared.tools import registry

TRUNCATED = {"truncated": True, "message": "the answer was cut off at max_tokens, or at the model's own limit"}
Values = dict[str, Any]
Prepared = tuple[list[ExecutionSpec], Body]
"""The executions of an operation, and its body."""


async def run(services: Services, ref: RunRef, path: str) -> Outcome:
    """Run the step at `path`. Answers its outcome."""
    document, step = await step_of(services, ref, path)
    try:
        values = await values_for(services, document, ref, step)
        group, body = _PREPARE[step.kind](step, path, values)
    except StepFailed as error:
        return await fail(services, ref, [ExecutionSpec(path, Kind.STEP, step.name)], error, step.retries)
    return await supervise(
        services,
        ref,
        group,
        body,
        timeout_seconds=step.timeout_seconds or services.settings.step_timeout_seconds,
        retries=step.retries,
    )


def messages(options: ModelOptions, values: Values) -> list[dict[str, Any]]:
    """The messages of a model call, rendered."""
    found = [{"role": "user", "content": templates.render(options.prompt, values)}]
    if options.system is not None:
        found.insert(0, {"role": "system", "content": templates.render(options.system, values)})
    return found


async def ask_model(context: OperationContext, options: ModelOptions, asked: list[dict[str, Any]], path: str) -> str:
    """Call the model; its text shows in the execution at `path` as it comes."""
    request = ModelRequest(messages=asked, model=options.model, max_tokens=options.max_tokens)
    answer = await context.services.model.complete(request, context.writer(path))
    if answer.finish_reason == "length":
        execution_id = context.ref.execution_id(path)
        context.events.append(event(context.ref.run_id, EventType.EXECUTION_OUTPUT, execution_id, **TRUNCATED))
    return answer.text


def model_call(options: ModelOptions, path: str, prompt: str) -> ExecutionSpec:
    """The node of a model call."""
    return ExecutionSpec(f"{path}.m", Kind.MODEL_CALL, options.model or "model", preview(prompt))


def _model(step: ModelStep, path: str, values: Values) -> Prepared:
    asked = messages(step, values)
    call = model_call(step, path, asked[-1]["content"])

    async def body(context: OperationContext) -> str:
        return await ask_model(context, step, asked, call.path)

    return [ExecutionSpec(path, Kind.STEP, step.name), call], body


def _tool(step: ToolStep, path: str, values: Values) -> Prepared:
    arguments = templates.render_value(step.arguments, values)
    shown = preview(as_text(arguments)[0])

    async def body(context: OperationContext) -> Any:
        return await registry.get(step.tool).call(arguments, tool_context(context))

    return [
        ExecutionSpec(path, Kind.STEP, step.name),
        ExecutionSpec(f"{path}.c0", Kind.TOOL_CALL, step.tool, shown),
    ], body


def _compare(step: CompareDocumentsStep, path: str, values: Values) -> Prepared:
    asked = messages(step, values)

    async def body(context: OperationContext) -> str:
        documents = Documents(context.services.blobs, context.ref.scope)
        wanted = await document_names(context.services, context.begun.run, context.ref, step.documents)
        parts = [asked[-1]["content"]]
        for index, name in enumerate(wanted):
            checkpoint()
            spec = ExecutionSpec(item_path(path, index), Kind.ITEM, name)
            text = await context.inner(spec, _reading(documents, name))
            parts.append(f"# Document: {name}\n\n{text}")
        whole = [*asked[:-1], {"role": "user", "content": "\n\n".join(parts)}]
        call = model_call(step, path, whole[-1]["content"])
        answer: str = await context.inner(call, lambda: ask_model(context, step, whole, call.path))
        return answer

    return [ExecutionSpec(path, Kind.STEP, step.name)], body


def _reading(documents: Documents, name: str) -> Callable[[], Awaitable[str]]:
    return lambda: documents.read_text(name)


async def document_names(services: Services, run: Document, ref: RunRef, chosen: Chosen) -> list[str]:
    """The names of the documents that a step asks for, in order. Raises `StepFailed` `too_many_documents`."""
    if chosen.names is not None:
        return list(chosen.names)
    if chosen.step is not None:
        brought = await output_of(services, run, ref, chosen.step)
        return list(brought["documents"]) if brought else []
    return list(await Documents(services.blobs, ref.scope).names(chosen.prefix or "", services.settings.items_max))


def _artifact(step: WriteArtifactStep, path: str, values: Values) -> Prepared:
    content = templates.render(step.content, values)

    async def body(context: OperationContext) -> Any:
        return await publishing.write_artifact(context, step.path, content)

    return [ExecutionSpec(path, Kind.STEP, step.name, preview(content))], body


def _notify(step: NotifyStep, path: str, values: Values) -> Prepared:
    subject, message = templates.render(step.subject, values), templates.render(step.message, values)

    async def body(context: OperationContext) -> Any:
        return await publishing.notify(context, subject, message)

    return [ExecutionSpec(path, Kind.STEP, step.name, preview(message))], body


_PREPARE: dict[str, Callable[[Any, str, Values], Prepared]] = {
    "model": _model,
    "tool": _tool,
    "compare_documents": _compare,
    "write_artifact": _artifact,
    "notify": _notify,
}
"""What each kind of step does; a fan-out's kinds are in `items.py`."""
