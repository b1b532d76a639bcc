"""The step that runs another workflow: begin its run, tell how it ended."""

from __future__ import annotations

from activities.values import step_of, values_for
from shared import templates
from shared.children import Child, start_child
from shared.errors import StepFailed
from shared.executions import ExecutionSpec, RunRef
from shared.names import Kind
from shared.services import Services
from shared.supervisor import Outcome, fail


async def start(services: Services, ref: RunRef, path: str) -> Outcome:
    """Begin the child run of the step at `path`. Answers `running` with what its orchestration needs, or its outcome."""
    document, step = await step_of(services, ref, path)
    node = ExecutionSpec(path, Kind.STEP, step.name)
    try:
        given = templates.render_value(step.input, await values_for(services, document, ref, step))
    except StepFailed as error:
        return await fail(services, ref, [node], error, step.retries)
    return await start_child(services, ref, node, Child(step.workflow_id, given, step.retries))
