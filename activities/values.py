"""The values that a step's templates may name, loaded from the run: its input and the outputs of earlier steps."""

from __future__ import annotations

from typing import Any

from shared import templates
from shared.branches import cancelled_branch
from shared.executions import RunRef, step_path
from shared.outputs import load
from shared.services import Services
from shared.states import ExecutionStatus
from shared.steps import Step, parse_step
from shared.store.port import Document


async def step_of(services: Services, ref: RunRef, path: str) -> tuple[Document, Any]:
    """The run, and the definition of the step at or above `path`."""
    run = await services.store.get(ref.partition, ref.run_id)
    index = int(path.partition(".")[0][1:]) - 1
    return run, parse_step(run["definition"]["steps"][index])


async def values_for(services: Services, run: Document, ref: RunRef, step: Step) -> dict[str, Any]:
    """`input` and `steps`, with only those outputs that the step's templates name.

    A step that did not complete (it failed or was cancelled, and the run went on) has the empty output, whatever it left.
    """
    wanted = {
        reference.path[1]
        for _, text, _ in step.texts()
        for reference in templates.references(text)
        if reference.path[0] == "steps"
    }
    outputs = {name: {"output": await output_of(services, run, ref, name)} for name in wanted}
    return {"input": run["input"], "steps": outputs}


async def output_of(services: Services, run: Document, ref: RunRef, name: str) -> Any:
    """The output of the step of that name; empty if it did not complete."""
    index = [step["name"] for step in run["definition"]["steps"]].index(name)
    execution = await services.store.get(ref.partition, ref.execution_id(step_path(index)))
    if execution["status"] != ExecutionStatus.COMPLETED or cancelled_branch(run, execution["path"]):
        return ""
    return await load(services.blobs, execution)
