"""An agent's turns: each is a model call, and then the calls of tools and sub-agents that the model asked for.

An agent is a container: `take_turn` opens it with its first turn and closes it with its last. Every model call and every
tool call is an operation of its own; a sub-agent is a container within. What a turn comes to is decided from the record of
its model call (`shared/agents.py`), so a redelivery decides the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from activities.containers import close_container, find_node, open_container
from activities.tools import tool_context
from activities.values import step_of, values_for
from shared import templates
from shared.agents import (
    CANCELLED,
    Answer,
    Calls,
    Turn,
    decide,
    failed_result,
    offered,
    parsed_arguments,
    read_turn,
    size,
    transcript,
    turn_record,
)
from shared.branches import cancelled_branch, refusal
from shared.cancellation import run_blocking
from shared.children import Child, start_child
from shared.errors import ConditionFailed, Conflict, StepFailed
from shared.executions import ExecutionSpec, RunRef, ancestors, split_call_path, turn_call_path, turn_model_path
from shared.ids import from_text
from shared.model_answers import ToolCall
from shared.model_client import ModelRequest
from shared.names import OUTCOME_BRANCH_CANCELLED, OUTCOME_TURN, RUN_WORKFLOW, DocumentType, Kind
from shared.operation_context import OperationContext
from shared.outputs import as_text, keep, load, preview
from shared.services import Services
from shared.states import UNFINISHED_EXECUTION
from shared.states import ExecutionStatus as Ex
from shared.steps import AgentOptions, AgentStep
from shared.store.paging import every
from shared.store.port import Document, FieldIn, Prefix, Query
from shared.supervisor import AGAIN, Outcome, outcome_of, supervise
from shared.tools import registry


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent of a run. `seconds_left`: until its deadline, or that of an agent above it."""

    path: str
    step: AgentStep
    options: AgentOptions
    name: str
    seconds_left: float
    call: ToolCall | None
    """The call that a sub-agent answers."""


async def take_turn(services: Services, ref: RunRef, path: str, turn: int) -> Outcome:
    """Take a turn (from 1) of the agent at `path`. Answers its end, or `turn` with the `calls` to make before the next."""
    run, step = await step_of(services, ref, path)
    container = await find_node(services, ref, path)
    if container is not None and container["status"] not in UNFINISHED_EXECUTION:
        return await outcome_of(services, ref, container)
    agent = await _find(services, ref, step, path)
    briefing = await _brief(services, run, ref, agent)
    if container is None or container["status"] == Ex.PENDING:
        kind = Kind.STEP if agent.call is None else Kind.AGENT
        try:
            node = ExecutionSpec(path, kind, agent.name, preview(briefing.given))
            await open_container(services, ref, node, container)
        except (ConditionFailed, Conflict) as error:
            return await refusal(services, ref, path) if error.op_index == 0 else AGAIN
    outcome = await _taken(services, ref, run, agent, briefing, turn)
    if outcome["status"] == Ex.FAILED:
        return await close_container(services, ref, path, Ex.FAILED, None, outcome["error"])
    if outcome["status"] == OUTCOME_BRANCH_CANCELLED:
        # The agent, or only its model call: without that it can't go on either.
        return await close_container(services, ref, path, Ex.CANCELLED, None, None)
    return outcome


async def _taken(
    services: Services, ref: RunRef, run: Document, agent: Agent, briefing: _Briefing, turn: int
) -> Outcome:
    """A turn of an open agent. Answers `failed` where that ends the agent, which is yet to be closed."""
    try:
        if briefing.failure is not None:
            raise briefing.failure
        options, turns = agent.options, await _turns(services, ref, run, agent.path, turn - 1)
        messages = await _computed(options, transcript, options, briefing.instructions, briefing.given, turns)
        outcome = await _ask(services, ref, run, agent, turns, messages)
        return outcome if outcome["status"] != Ex.COMPLETED else await _conclude(services, ref, agent, turns)
    except StepFailed as error:
        return {"status": Ex.FAILED, "error": error.facts()}


async def _find(services: Services, ref: RunRef, step: AgentStep, path: str) -> Agent:
    """The agent at `path`: its definition is found along the calls that led to it."""
    first, *below = ancestors(path)
    options: AgentOptions = step
    name, call = step.name, None
    seconds = [await _seconds_left(services, ref, first, step.timeout_seconds)]
    for one in below:
        call = await _call_at(services, ref, one)
        sub = next(agent for agent in options.agents if agent.name == call.name)
        options, name = sub, sub.name
        seconds.append(await _seconds_left(services, ref, one, sub.timeout_seconds))
    return Agent(path, step, options, name, min(seconds), call)


@dataclass(frozen=True, slots=True)
class _Briefing:
    """What an agent is told at first, or why it can't be."""

    instructions: str = ""
    given: str = ""
    failure: StepFailed | None = None


async def _brief(services: Services, run: Document, ref: RunRef, agent: Agent) -> _Briefing:
    try:
        values = await values_for(services, run, ref, agent.step)
        given = templates.render(agent.step.input, values) if agent.call is None else _input(agent.call)
        return _Briefing(templates.render(agent.options.instructions, values), given)
    except StepFailed as error:
        return _Briefing(failure=error)


def _input(call: ToolCall) -> str:
    """The text that a sub-agent is called with. Raises `StepFailed` `tool_arguments_invalid`."""
    arguments = parsed_arguments(call) or {}
    if list(arguments) != ["input"] or not isinstance(arguments["input"], str):
        raise StepFailed("tool_arguments_invalid", f'{call.name}: write {{"input": "…"}}, with a text and nothing else')
    return arguments["input"]


async def _seconds_left(services: Services, ref: RunRef, path: str, timeout: float | None) -> float:
    """As exact as machines' clocks agree: another may have noted the start. No clock makes it longer than the timeout."""
    if timeout is None:
        return float("inf")
    container = await find_node(services, ref, path)
    if container is None or container["started_at"] is None:
        return timeout
    return timeout - max(0.0, (datetime.now(UTC) - from_text(container["started_at"])).total_seconds())


async def _call_at(services: Services, ref: RunRef, path: str) -> ToolCall:
    """The call that the model asked for at `path`."""
    agent, turn, index = split_call_path(path)
    asked = await services.store.get(ref.partition, ref.execution_id(turn_model_path(agent, turn)))
    return ToolCall(**(await load(services.blobs, asked))["tool_calls"][index])


async def _turns(services: Services, ref: RunRef, run: Document, path: str, count: int) -> list[Turn]:
    """The first `count` turns of the agent at `path`, with what their calls answered."""
    if count == 0:
        return []
    where = (Prefix("id", ref.execution_id(f"{path}.t")), FieldIn("parent", (path,)))
    query = Query(DocumentType.EXECUTION, ref.partition, where, limit=100)
    found = {one["path"]: one async for one in every(services.store, query)}
    return list(await asyncio.gather(*(_turn(services, run, path, number + 1, found) for number in range(count))))


async def _turn(services: Services, run: Document, path: str, turn: int, found: dict[str, Document]) -> Turn:
    said = read_turn(await load(services.blobs, found[turn_model_path(path, turn)]))
    made = [turn_call_path(path, turn, index) for index in range(min(len(said.calls), said.allowed))]
    results = [await _result(services, run, call, found.get(call)) for call in made]
    return Turn(said.text, said.calls, said.allowed, said.tokens, said.finish_reason, tuple(results))


async def _result(services: Services, run: Document, path: str, execution: Document | None) -> str:
    """What the model is told of a call. One without a record was cancelled before it began."""
    if execution is None or cancelled_branch(run, path) is not None:
        return CANCELLED
    if execution["status"] == Ex.COMPLETED:
        return as_text(await load(services.blobs, execution))[0]
    return failed_result(execution["error"]) if execution["status"] == Ex.FAILED else CANCELLED


async def _ask(
    services: Services, ref: RunRef, run: Document, agent: Agent, turns: Sequence[Turn], messages: list[dict[str, Any]]
) -> Outcome:
    """The model call of the turn after `turns`. Raises `StepFailed` when it may not be made."""
    path = turn_model_path(agent.path, len(turns) + 1)
    failure = _too_late(services, run, agent)
    # Finished beats the deadline: a call that is on record, of a turn that is delivered again, keeps its outcome.
    if failure is not None and await find_node(services, ref, path) is None:
        raise failure
    options, spent = agent.options, sum(turn.tokens for turn in turns)
    limits = [options.max_tokens, options.max_total_tokens and max(1, options.max_total_tokens - spent)]
    request = ModelRequest(
        messages=messages,
        model=options.model,
        max_tokens=min((limit for limit in limits if limit), default=None),
        tools=offered(options),
    )

    async def body(context: OperationContext) -> dict[str, Any]:
        answer = await services.model.complete(request, context.writer())
        return turn_record(answer, services.settings.agent_calls_max, size(messages))

    shown = preview(str(messages[-1]["content"]))
    spec = ExecutionSpec(path, Kind.MODEL_CALL, options.model or "model", shown)
    return await _supervised(services, ref, spec, agent, body)


def _too_late(services: Services, run: Document, agent: Agent) -> StepFailed | None:
    """Why no further model call may be made."""
    if agent.seconds_left <= 0:
        return StepFailed("timeout", "its time was over before it had an answer")
    if run["counts"]["total"] >= services.settings.executions_max:
        return StepFailed("run_too_large", f"the run has over {services.settings.executions_max} executions")
    return None


async def _computed(options: AgentOptions, function: Any, *arguments: Any) -> Any:
    """`function(*arguments)`, in a thread where it checks answers against a schema, which may take a while."""
    return function(*arguments) if options.output_schema is None else await run_blocking(function, *arguments)


async def _conclude(services: Services, ref: RunRef, agent: Agent, turns: Sequence[Turn]) -> Outcome:
    """What the turn after `turns`, whose model call has ended, comes to. Raises `StepFailed` as `decide` does."""
    path, turn = agent.path, len(turns) + 1
    asked = await services.store.get(ref.partition, ref.execution_id(turn_model_path(path, turn)))
    said = read_turn(await load(services.blobs, asked))
    decision = await _computed(agent.options, decide, agent.options, [*turns, said])
    if isinstance(decision, Answer):
        output = await keep(services.blobs, ref, path, 1, decision.value)
        return await close_container(services, ref, path, Ex.COMPLETED, output, None)
    indexes = decision.indexes if isinstance(decision, Calls) else ()
    subs = {one.name for one in agent.options.agents}
    calls = [{"path": turn_call_path(path, turn, i), "agent": said.calls[i].name in subs} for i in indexes]
    return {"status": OUTCOME_TURN, "calls": calls}


async def call_tool(services: Services, ref: RunRef, path: str) -> Outcome:
    """Make the tool call at `path`. A tool that fails is an outcome for the model to read, not the agent's failure."""
    _, step = await step_of(services, ref, path)
    agent = await _find(services, ref, step, split_call_path(path)[0])
    call = await _call_at(services, ref, path)

    spec = ExecutionSpec(path, Kind.TOOL_CALL, call.name or "unknown", preview(call.arguments))
    child = _child(agent, call)
    if child is not None:
        seconds = None if agent.seconds_left == float("inf") else max(0.0, agent.seconds_left)
        return {**await start_child(services, ref, spec, child), "seconds": seconds}

    async def body(context: OperationContext) -> Any:
        if call.name not in agent.options.tools:
            known = ", ".join([*agent.options.tools, *(one.name for one in agent.options.agents)]) or "none"
            raise StepFailed("tool_unknown", f"there is no tool named {call.name!r}; known are: {known}")
        arguments = parsed_arguments(call)
        if arguments is None:
            raise StepFailed("tool_arguments_invalid", f"{call.name}: the arguments are not a JSON object")
        return await registry.get(call.name).call(arguments, tool_context(context))

    return await _supervised(services, ref, spec, agent, body)


def _child(agent: Agent, call: ToolCall) -> Child | None:
    """The child run that a call asks for; None for any other call, and for one whose arguments are wrong."""
    arguments = parsed_arguments(call)
    if call.name != RUN_WORKFLOW or RUN_WORKFLOW not in agent.options.tools or arguments is None:
        return None
    try:
        given = registry.get(call.name).validated(arguments)
    except StepFailed:
        return None
    return Child(given["workflow_id"], given["input"], agent.step.retries)


async def _supervised(services: Services, ref: RunRef, spec: ExecutionSpec, agent: Agent, body: Any) -> Outcome:
    return await supervise(
        services,
        ref,
        [spec],
        body,
        timeout_seconds=max(0.0, min(agent.seconds_left, services.settings.step_timeout_seconds)),
        retries=agent.step.retries,
    )
