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
    outputs: dict[str, Any] = {}
    for index, one in enumerate(run["definition"]["steps"]):
        if one["name"] in wanted:
            execution = await services.store.get(ref.partition, ref.execution_id(step_path(index)))
            completed = execution["status"] == ExecutionStatus.COMPLETED and not cancelled_branch(
                run, execution["path"]
            )
            outputs[one["name"]] = {"output": await load(services.blobs, execution) if completed else ""}
    return {"input": run["input"], "steps": outputs}
