"""Resuming a run that was cancelled or failed: a new run that reuses what had finished and repeats the rest.

1. `resume_run` starts the new run, which names the old one and what of it to repeat. By default it has the old run's
   definition.
2. Before the new run begins, `copy_finished` writes the old run's finished executions into it, outputs by reference. It is
   idempotent, in batches, and counts as it goes. An operation that finds its record ended adopts it (`operations.begin`), so
   nothing else has to know of resuming.

What is repeated: whatever never began, and of what ended badly the kinds that were asked for (`items`). A step whose
templates name a step that is repeated has other inputs now, so it is repeated from its beginning; so is every step from
`from_step` on. Within an agent, a call whose outcome the model was told is past, however it ended.

A side effect is not done twice: an operation that ended badly after one was done counts as done, and says so as its output.
One that was only announced may not have happened, and is tried again. An artifact of an operation that did not complete was
never visible: it is written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from shared import templates
from shared.branches import below
from shared.errors import ConditionFailed, Conflict, NotFound, Problem
from shared.executions import (
    ExecutionSpec,
    RunRef,
    ancestors,
    new_execution,
    run_ref,
    step_path,
    turn_model_path,
)
from shared.jsontext import dumps
from shared.names import ARTIFACT, Kind
from shared.operations import run_guard
from shared.outputs import Output, as_text, preview
from shared.services import Services
from shared.starting import Start, start_run
from shared.states import ACTIVE_RUN, RunStatus
from shared.states import ExecutionStatus as Ex
from shared.steps import FANS_OUT, parse_step
from shared.store.limits import utf8_size
from shared.store.port import Create, Document, Op, Partition, Patch

COPY_BATCH, COPY_BYTES = 80, 1024 * 1024
"""Executions copied in one transaction, and the most that they hold: a transaction takes 2 MB."""
REUSED = (
    *(
        "attempt",
        "failures",
        "started_at",
        "ended_at",
        "input_preview",
        "output_preview",
        "output_ref",
        "output_format",
    ),
    *("error", "side_effects"),
)
"""What a reused execution says as it did in the old run."""
_TURN = re.compile(r"\.t([0-9]+)(?=\.)")


class Items(StrEnum):
    """Which of the executions that ended badly are repeated."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Resume:
    """What to repeat. `from_step`: the name of the step from which everything is."""

    items: Items = Items.BOTH
    from_step: str | None = None
    use_current: bool = False
    """Whether the new run has the workflow's definition of now. A step that was changed or moved after is repeated."""


async def resume_run(
    services: Services, partition: Partition, workflow: Document, old: Document, start: Start, resume: Resume
) -> tuple[Document, bool]:
    """Start a run that goes on where `old` ended. Answers it, and whether this call created it.

    Raises as `start_run` does; `Problem` 409 `run_active`, `nothing_to_resume`, 422 `invalid` for an unknown step.
    """
    if old["status"] in ACTIVE_RUN:
        raise Problem(409, "run_active", f"the run has not ended: {old['status']}", extra={"state": old["status"]})
    definition = workflow["definition"] if resume.use_current else old["definition"]
    plan = _plan(run_ref(old), old, definition, resume, await below(services, run_ref(old), None, *Ex))
    if old["status"] == RunStatus.SKIPPED or not plan.repeats:
        raise Problem(409, "nothing_to_resume", "nothing of that run is left to repeat", extra={"state": old["status"]})
    how = {"items": resume.items, "from_step": resume.from_step}
    return await start_run(
        services,
        partition,
        {**workflow, "definition": definition},
        replace(start, input=old["input"], resumed_from=old["id"], resume=how),
    )


async def copy_finished(services: Services, run: Document) -> None:
    """Write what the queued `run` reuses into it. Idempotent; does nothing once the run isn't queued any more."""
    ref = run_ref(run)
    try:
        old = await services.store.get(ref.partition, run["resumed_from"])
    except NotFound:
        return  # it is no longer kept: everything is repeated
    resume = Resume(Items(run["resume"]["items"]), run["resume"]["from_step"])
    copies = _plan(ref, old, run["definition"], resume, await below(services, run_ref(old), None, *Ex)).copies
    left = await _missing(services, ref, copies)
    while left:
        batch = _batch(left)
        try:
            await services.store.transact(ref.partition, _write(ref, batch))
        except Conflict:
            left = await _missing(services, ref, copies)  # another delivery of this is at it
        except ConditionFailed:
            return  # cancelled meanwhile
        else:
            left = left[len(batch) :]


async def _missing(services: Services, ref: RunRef, copies: list[Document]) -> list[Document]:
    there = {one["path"] for one in await below(services, ref, None, *Ex)}
    return [copy for copy in copies if copy["path"] not in there]


def _batch(copies: list[Document]) -> list[Document]:
    """The first of them that fit into one transaction, at least one."""
    size, count = 0, 0
    for one in copies[:COPY_BATCH]:
        size += utf8_size(dumps(one))
        if count and size > COPY_BYTES:
            break
        count += 1
    return copies[:count]


def _write(ref: RunRef, batch: list[Document]) -> list[Op]:
    counts = {"counts.total": len(batch)}
    for one in batch:
        counts[f"counts.{one['status']}"] = counts.get(f"counts.{one['status']}", 0) + 1
    run = Patch(ref.run_id, increment=counts, when=run_guard(ref, (RunStatus.QUEUED,)))
    return [run, *(Create(one) for one in batch)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a resumed run gets of the old one."""

    copies: list[Document]
    repeats: bool
    """Whether anything is left to do."""


def _plan(ref: RunRef, old: Document, definition: Mapping[str, Any], resume: Resume, tree: list[Document]) -> _Plan:
    """What to copy of the old run's `tree`, which is in path order. Raises `Problem` 422 for an unknown `from_step`."""
    tree = _as_done(_as_told(tree, old["cancelled_executions"]))
    unchanged = _same_steps(old["definition"], definition)
    copies: list[Document] = []
    repeated: set[str] = set()
    fresh = stops = False
    for index, step in enumerate(definition["steps"]):
        fresh = fresh or step["name"] == resume.from_step
        source = unchanged.get(index)
        own = [one for one in tree if one["path"].partition(".")[0] == source]
        if fresh or not own or _names_one_of(step, repeated):
            repeated.add(step["name"])
            continue
        reused = _Step(step, own, resume.items)
        if not reused.whole:
            repeated.add(step["name"])
        copies.extend(_copy(ref, one, own[0]["path"], step_path(index)) for one in reused.copies())
        stops = stops or reused.fails_again
    if resume.from_step is not None and not fresh:
        errors = [{"field": "from_step", "message": f"the run has no step {resume.from_step!r}"}]
        raise Problem(422, "invalid", "the body is not valid", errors=errors)
    return _Plan(copies, bool(repeated) and not stops)


def _same_steps(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[int, str]:
    """Index in the new definition → path in the old run, of the steps that are the same in both."""
    before = {step["name"]: (i, step) for i, step in enumerate(old["steps"])}
    found = {}
    for index, step in enumerate(new["steps"]):
        known = before.get(step["name"])
        if known is not None and known[1] == step:
            found[index] = step_path(known[0])
    return found


def _names_one_of(step: Mapping[str, Any], names: set[str]) -> bool:
    references = (one for _, text, _ in parse_step(step).texts() for one in templates.references(text))
    return any(one.path[0] == "steps" and one.path[1] in names for one in references)


def _told(known: Mapping[str, Document], path: str) -> bool:
    """Whether a model was told how `path` came out: it is past, in an agent that completed or took another turn."""
    agents = [(path[: match.start()], int(match[1])) for match in _TURN.finditer(path)]
    return any(
        known[agent]["status"] == Ex.COMPLETED or turn_model_path(agent, turn + 1) in known
        for agent, turn in agents
        if agent in known
    )


def _as_told(tree: list[Document], cancelled: Sequence[str]) -> list[Document]:
    """The tree; a call that was cancelled alone and finished all the same is what its model was told: cancelled."""
    known = {one["path"]: one for one in tree}
    told = {path for path in cancelled if path in known and _told(known, path)}
    return [{**one, "status": Ex.CANCELLED} if one["path"] in told else one for one in tree]


def _as_done(tree: list[Document]) -> list[Document]:
    """The tree; what ended badly after a side effect counts as done, with the containers that begin and end with it."""
    done: dict[str, dict[str, Any]] = {}
    known = {one["path"]: one for one in tree}
    for one in tree:
        if _told(known, one["path"]):
            continue  # it is never repeated, and the model knows it as it is
        effects = [effect for effect in one["side_effects"] if effect["kind"] != ARTIFACT and effect["done"]]
        if effects and one["status"] in (Ex.FAILED, Ex.CANCELLED):
            said = [{key: effect[key] for key in ("kind", "what", "at")} for effect in effects]
            text, form = as_text({"already_done": said})
            ended = {"status": Ex.COMPLETED, "error": None, **Output(preview(text), form).fields()}
            done |= {one["path"]: ended, one["top"] or one["path"]: ended}
    return [{**one, **done.get(one["path"], {})} for one in tree]


class _Step:
    """What of one step is reused."""

    def __init__(self, step: Mapping[str, Any], own: list[Document], items: Items) -> None:
        self._kind, self._own, self._items = step["kind"], own, items
        self._paths = {one["path"]: one for one in own}
        repeated = [one["path"] for one in own if not self._kept(one)]
        reopened = {above for path in repeated for above in ancestors(path)}
        self._reused = [one for one in own if one["path"] not in reopened]
        self.whole = not repeated
        ended = [one for one in self._reused if one["status"] == Ex.FAILED and one["depth"] <= 1]
        self.fails_again = step.get("on_error", "stop") == "stop" and bool(ended)

    def copies(self) -> Iterator[Document]:
        """What the new run gets; the items of a fan-out all keep their places, those that are repeated as pending."""
        yield from self._reused
        reused = {one["path"] for one in self._reused}
        if self._kind in FANS_OUT:
            for one in self._own:
                if one["path"] not in reused and one["depth"] <= 1:
                    yield {**one, "status": Ex.PENDING}

    def _kept(self, one: Document) -> bool:
        if one["status"] == Ex.COMPLETED or _told(self._paths, one["path"]):
            return True
        if one["started_at"] is None or one["status"] not in (Ex.FAILED, Ex.CANCELLED):
            return False
        return self._items == (Items.CANCELLED if one["status"] == Ex.FAILED else Items.FAILED)


def _copy(ref: RunRef, one: Document, source: str, target: str) -> Document:
    """An execution of the old run as the new one has it."""
    spec = ExecutionSpec(target + one["path"].removeprefix(source), Kind(one["kind"]), one["name"], child=one["child"])
    blank = new_execution(ref, spec, Ex(one["status"]), one["operation"])
    blank["items_total"] = one["items_total"]
    if one["status"] == Ex.PENDING:
        return {**blank, "operation": False}
    kept = {name: one[name] for name in REUSED}
    top = one["top"] and target + one["top"].removeprefix(source)
    return {**blank, **kept, "top": top, "reused_from": one["reused_from"] or one["id"]}
