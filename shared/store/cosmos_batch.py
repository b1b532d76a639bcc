"""A port transaction as a Cosmos DB transactional batch, and a batch's answer as the port's.

**Guards.** A batch's replace, delete and read can't carry a condition on fields, and a conditional read in a batch is not
enforced by the service (azure-cosmos-dotnet-v3 issue 1581). Only a patch has a filter predicate. So a condition becomes the
predicate of the patch itself, or of a *guard*: a patch of a store-owned field in front of the operation, or in its place
for a check. All of a batch happens at one moment, so it doesn't matter that a guard is an operation of its own.

**Versions.** A guard changes Cosmos' own etag although it must change nothing. The port's etag is therefore a field of the
store's, `_v`: the transaction's marker and the operation's place in it. Guards leave it as it is.

**Limits.** Cosmos' 100 operations count after this expansion. A replace, a delete or an append with conditions takes two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from shared.errors import ConditionFailed, Conflict, NotFound, TooLarge, Unavailable
from shared.jsontext import copied, loads
from shared.store.cosmos_sql import VERSION, guard, path
from shared.store.limits import field_parts
from shared.store.port import (
    MAX_BYTES,
    MAX_CHANGES,
    MAX_OPERATIONS,
    Check,
    Create,
    Delete,
    Document,
    Op,
    Patch,
    Replace,
)

BORN = "_born"
"""Store-owned field: the transaction that created the document. Patches leave it."""
_GUARDED = "_g"
_TOUCH = {"op": "set", "path": f"/{_GUARDED}", "value": True}


def shown(document: Mapping[str, Any]) -> Document:
    """A document as the port answers it: of what stores own, only `_etag`."""
    found = {key: value for key, value in document.items() if not key.startswith("_")}
    # A document that was put there by other means has no version; its own etag serves until it is written.
    found["_etag"] = document.get(VERSION) or document.get("_etag", "")
    return found


class _Step(NamedTuple):
    """One operation of the batch. `fits`: its predicate says that the change fits the document, not a condition."""

    source: int
    kind: str
    arguments: tuple[Any, ...]
    predicate: str | None = None
    fits: bool = False


@dataclass(slots=True)
class Batch:
    """A transaction, expanded. `marker` is unique to it."""

    ops: Sequence[Op]
    marker: str
    steps: list[_Step] = field(default_factory=list)

    def operations(self) -> list[tuple[Any, ...]]:
        """For the SDK. Made anew for each attempt: it empties the options that it is given, predicates included."""
        return [
            (step.kind, step.arguments, {"filter_predicate": step.predicate} if step.predicate else {})
            for step in self.steps
        ]

    @property
    def read_only(self) -> bool:
        """Whether it consists of checks."""
        return all(isinstance(op, Check) for op in self.ops)

    @property
    def births(self) -> set[str]:
        """Ids of the documents that show by being there that the batch was applied, and keep it from being applied twice."""
        gone = {op_id(op) for op in self.ops if isinstance(op, (Delete, Replace))}
        return {op_id(op) for op in self.ops if isinstance(op, Create)} - gone

    @property
    def ids(self) -> list[str]:
        """Ids of all documents that it is about."""
        return list(dict.fromkeys(op_id(op) for op in self.ops))

    def wrote(self, document: Mapping[str, Any]) -> bool:
        """Whether the document shows that this batch was applied."""
        return document.get(BORN) == self.marker or str(document.get(VERSION)).startswith(f"{self.marker}.")

    def answers(self, results: Sequence[Mapping[str, Any]]) -> list[Document | None]:
        """The port's answer, from the results of a batch that was applied."""
        bodies = {step.source: result.get("resourceBody") for step, result in zip(self.steps, results, strict=True)}
        answers: list[Document | None] = []
        for index, op in enumerate(self.ops):
            body = bodies[index]
            if not isinstance(op, Delete) and body is None:
                raise Unavailable("Cosmos DB answered a write without its document (is content response switched off?)")
            answers.append(None if body is None or isinstance(op, Delete) else shown(body))
        return answers

    def answers_from(self, documents: Mapping[str, Mapping[str, Any]]) -> list[Document | None]:
        """The port's answer for a batch that was applied but whose answer was lost, from the documents as they are now."""
        answers: list[Document | None] = []
        for op in self.ops:
            found = documents.get(op_id(op))
            if found is None and not isinstance(op, Delete):
                raise Unavailable(f"the answer was lost, and document {op_id(op)!r} is gone since")
            answers.append(None if found is None or isinstance(op, Delete) else shown(found))
        return answers

    def refuse(self, results: Sequence[Mapping[str, Any]]) -> NoReturn:
        """Raise the port's error for a batch that was not applied, from its results."""
        position = next(
            (i for i, one in enumerate(results) if one["statusCode"] >= 400 and one["statusCode"] != 424), 0
        )
        step, status = self.steps[position], results[position]["statusCode"]
        document_id = op_id(self.ops[step.source])
        if status == 404:
            raise NotFound(document_id, step.source)
        if status == 409:
            raise Conflict(document_id, step.source)
        if status == 412 and not step.fits:
            raise ConditionFailed(document_id, step.source)
        if status == 413:
            raise TooLarge(f"bytes in document {document_id!r}", MAX_BYTES + 1, MAX_BYTES)
        if status in (400, 412):
            raise ValueError(
                f"a change of document {document_id!r} (operation {step.source}) doesn't fit what is there"
            )
        raise Unavailable(f"Cosmos DB refused operation {step.source} with status {status}")


def op_id(op: Op) -> str:
    """The id of the document that an operation is about."""
    document_id: str = op.document["id"] if isinstance(op, (Create, Replace)) else op.id
    return document_id


def expand(ops: Sequence[Op], texts: Sequence[str | None], marker: str) -> Batch:
    """The batch for a transaction that `check_transaction` let pass; `texts` is what that answered.

    Raises `TooLarge` when its conditions make it more than 100 operations, `ValueError` for a change that can't be.
    """
    batch = Batch(ops, marker)
    for index, op in enumerate(ops):
        version = f"{marker}.{index}"
        if isinstance(op, Patch):
            batch.steps += _patch(op, index, version)
            continue
        predicate = None if isinstance(op, Create) else guard(op.when, op.etag)
        if predicate is not None:
            batch.steps.append(_Step(index, "patch", (op_id(op), [_TOUCH]), predicate))
        text = texts[index]
        if text is not None:
            body = loads(text) | {VERSION: version}
            if isinstance(op, Create):
                batch.steps.append(_Step(index, "create", (body | {BORN: marker},)))
            else:
                batch.steps.append(_Step(index, "replace", (body["id"], body)))
        elif isinstance(op, Delete):
            batch.steps.append(_Step(index, "delete", (op.id,)))
        elif predicate is None:
            batch.steps.append(_Step(index, "read", (op_id(op),)))
    if len(batch.steps) > MAX_OPERATIONS:
        raise TooLarge("operations in a transaction, with those for conditions", len(batch.steps), MAX_OPERATIONS)
    return batch


def _patch(op: Patch, index: int, version: str) -> list[_Step]:
    """A patch as one patch, or more where it has more than nine changes, or appends.

    An append comes after everything else, with a predicate that says that the array is there: to Cosmos, appending to an
    object would be a field named `-`.
    """
    changes = [{"op": "set", "path": _pointer(name), "value": copied(value)} for name, value in op.set.items()]
    for name, amount in op.increment.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise ValueError(f"can't add {amount!r} to field {name!r} of document {op.id!r}")
        changes.append({"op": "incr", "path": _pointer(name), "value": amount})
    appends = [
        {"op": "add", "path": f"{_pointer(name)}/-", "value": copied(value)} for name, value in op.append.items()
    ]
    predicate = guard(op.when, op.etag)
    stamp = {"op": "set", "path": f"/{VERSION}", "value": version}
    steps: list[_Step] = []
    if changes or predicate or not appends:
        if not appends:
            changes.append(stamp)
        changes = changes or [_TOUCH]
        for start in range(0, len(changes), MAX_CHANGES):
            arguments = (op.id, changes[start : start + MAX_CHANGES])
            steps.append(_Step(index, "patch", arguments, None if start else predicate))
    if appends:
        arrays = "FROM c WHERE " + " AND ".join(f"IS_ARRAY({path(name)})" for name in op.append)
        appends.append(stamp)
        for start in range(0, len(appends), MAX_CHANGES):
            arguments = (op.id, appends[start : start + MAX_CHANGES])
            steps.append(_Step(index, "patch", arguments, arrays, fits=True))
    return steps


def _pointer(name: str) -> str:
    """A dotted field as a path of a patch. Cosmos would read a number or `-` as a place in an array."""
    parts = field_parts(name)
    if any(part.isdigit() or part == "-" or "/" in part or "~" in part for part in parts):
        raise ValueError(f"field {name!r} can't be patched: a part of it means something else to Cosmos DB")
    return "/" + "/".join(parts)
