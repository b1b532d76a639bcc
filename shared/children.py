"""Child runs: another workflow's run that a run starts and waits for, linked both ways.

1. `start_child` begins an operation in the parent, guarded as every other, whose execution names the child run before that
   exists. Then it creates the child. A cancel that comes between finds the name, and leaves a tombstone under it.
2. The parent's orchestration waits for the child's, a sub-orchestration.
3. Whoever ends the child's run reports it to the parent (`settling.report_to_parent`): the operation ends as the child did.
   `end_child` does so again, in case that process died.

The operation has no supervisor and no heartbeat: it is in flight for as long as its child is not ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shared.branches import refusal
from shared.errors import NotFound, Problem, StepFailed
from shared.executions import ExecutionSpec, RunRef, run_ref
from shared.ids import derived_ulid, from_text
from shared.names import CHILD_SUFFIX, OUTCOME_RETRY, CancelSource, Kind
from shared.operations import Begun, Busy, Ending, Recorded, Superseded, begin, finish
from shared.outputs import as_text, preview
from shared.persistence import patiently
from shared.runs import CancelRequest, request_cancel
from shared.services import Services
from shared.settling import begun_again, report_to_parent, settle
from shared.starting import child_start, start_run
from shared.states import TERMINAL_RUN, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.steps import Retries
from shared.store.port import Document, Partition
from shared.supervisor import Outcome, outcome_of
from shared.workflows import partition_of

MAX_INPUT_BYTES = 256 * 1024
LOOK_AGAIN_SECONDS = 5.0
"""How long to wait for a child whose orchestration ended before its run did: its own instance was terminated, say."""


@dataclass(frozen=True, slots=True)
class Child:
    """Which workflow of the same scope to run, with what input, and how often to try again while it is busy."""

    workflow_id: str
    input: Any
    retries: Retries


def child_link(run: Document, path: str, workflow_id: str) -> dict[str, str]:
    """The child run of the node at `path`: the same each time, so that it can be named before it exists."""
    name = f"child:{run['scope']}:{run['workflow_id']}:{run['id']}:{path}:{workflow_id}"
    run_id = derived_ulid(from_text(run["created_at"]), name)
    return {"scope": run["scope"], "workflow_id": workflow_id, "run_id": run_id}


async def start_child(services: Services, ref: RunRef, node: ExecutionSpec, child: Child) -> Outcome:
    """Begin the child run of `node`. Answers `running` with `child` (what its orchestration needs), or how it came out."""
    run = await services.store.get(ref.partition, ref.run_id)
    link = child_link(run, node.path, child.workflow_id)
    shown = preview(as_text(child.input)[0])
    leaf = ExecutionSpec(f"{node.path}.{CHILD_SUFFIX}", Kind.CHILD_RUN, child.workflow_id, shown, link)
    begun = await patiently(lambda: begin(services.store, ref, [node, leaf]))
    if isinstance(begun, Recorded):
        return await _outcome(services, ref, leaf.path)
    if isinstance(begun, Busy):
        begun = await begun_again(services, ref, begun.execution)  # delivered again: the child may be there or not
    if not isinstance(begun, Begun):
        return await refusal(services, ref, leaf.path)
    try:
        created = await patiently(lambda: _create(services, run, link, node.path, child))
    except StepFailed as error:
        return await _failed(services, begun, child, error)
    if created["status"] in TERMINAL_RUN:
        await patiently(lambda: report_to_parent(services, created))  # a tombstone, or a redelivery after its end
        return await _outcome(services, ref, leaf.path)
    return {"status": Ex.RUNNING, "child": {**run_ref(created)._asdict(), "instance_id": created["instance_id"]}}


async def _create(services: Services, run: Document, link: dict[str, str], path: str, child: Child) -> Document:
    """The child's run, created now or before. Raises `StepFailed`."""
    if len(json.dumps(child.input)) > MAX_INPUT_BYTES:
        raise StepFailed("child_input_too_large", f"the child run's input is over {MAX_INPUT_BYTES} bytes")
    await _refuse_cycle(services, run, child.workflow_id)
    if run["depth"] >= services.settings.child_depth_max:
        raise StepFailed("child_too_deep", f"it is {run['depth']} child runs deep already, the most there may be")
    start = child_start(run, f"{run['id']}:{path}.{CHILD_SUFFIX}", link["run_id"], child.input)
    try:
        partition = partition_of(link["scope"], link["workflow_id"])
        workflow = await services.store.get(partition, "workflow")
        return (await start_run(services, partition, workflow, start))[0]
    except NotFound:
        raise StepFailed("child_workflow_missing", f"there is no workflow {child.workflow_id} here") from None
    except Problem as problem:
        if problem.code == "workflow_busy":
            raise StepFailed("child_busy", problem.detail, retryable=True) from None
        raise StepFailed("child_workflow_missing", f"there is no workflow {child.workflow_id} here") from None


async def _refuse_cycle(services: Services, run: Document, workflow_id: str) -> None:
    """Raise `StepFailed` when the workflow is the run's own or that of a run above it: it would wait for itself."""
    while True:
        if run["workflow_id"] == workflow_id:
            raise StepFailed("child_cycle", f"workflow {workflow_id} is waiting for this run")
        above = run["parent"]
        if above is None:
            return
        run = await services.store.get(Partition(above["scope"], above["workflow_id"]), above["run_id"])


async def _failed(services: Services, begun: Begun, child: Child, error: StepFailed) -> Outcome:
    """End the operation whose child could not be created; while its workflow is busy, perhaps to try again."""
    again = error.retryable and begun.failures < child.retries.max
    facts = error.facts()
    ending = Ending(Ex.PENDING if again else Ex.FAILED, error=facts)
    try:
        run = await patiently(lambda: finish(services.store, begun, ending))
    except Superseded:
        return await _outcome(services, begun.ref, begun.leaf.path)
    if run["status"] == RunStatus.CANCELLING and run["in_flight"] == 0:
        await settle(services, begun.ref)
    if again:
        pause = child.retries.backoff_seconds * 2**begun.failures
        return {"status": OUTCOME_RETRY, "after_seconds": pause}
    return await _outcome(services, begun.ref, begun.leaf.path)


async def end_child(services: Services, ref: RunRef, path: str) -> Outcome:
    """How the child run of the node at `path` came out, once it has ended; until then `retry`."""
    leaf = await services.store.get(ref.partition, ref.execution_id(f"{path}.{CHILD_SUFFIX}"))
    link = leaf["child"]
    try:
        child = await services.store.get(Partition(link["scope"], link["workflow_id"]), link["run_id"])
    except NotFound:
        child = {"id": link["run_id"], "status": None, "parent": {**ref._asdict(), "execution_id": leaf["id"]}}
    if child["status"] is not None and child["status"] not in TERMINAL_RUN:
        return {"status": OUTCOME_RETRY, "after_seconds": LOOK_AGAIN_SECONDS}
    await patiently(lambda: report_to_parent(services, child))
    return await _outcome(services, ref, leaf["path"])


async def _outcome(services: Services, ref: RunRef, path: str) -> Outcome:
    return await outcome_of(services, ref, await services.store.get(ref.partition, ref.execution_id(path)))


async def cancel_child(services: Services, ref: RunRef, path: str) -> Outcome:
    """Cancel the child run of the node at `path`, whose step is past its deadline."""
    run = await services.store.get(ref.partition, ref.run_id)
    leaf = await services.store.get(ref.partition, ref.execution_id(f"{path}.{CHILD_SUFFIX}"))
    link = leaf["child"]
    request = CancelRequest(run["requested_by"], CancelSource.PARENT, "its parent's step is past its deadline")
    try:
        await request_cancel(services, Partition(link["scope"], link["workflow_id"]), link["run_id"], request)
    except (NotFound, Problem):
        pass  # it has ended: `end_child` tells how
    return {"status": Ex.CANCELLED}
