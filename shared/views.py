"""Documents as the HTTP API shows them: only what callers may rely on, never what the store or the protocol keeps."""

from __future__ import annotations

from typing import Any

from shared.names import ARTIFACT
from shared.states import ExecutionStatus as Ex
from shared.states import RunStatus
from shared.store.port import Document

MAX_ACTIVE = 50
"""Operations named in the answer to a narrow cancel."""
RUN_FIELDS = (
    "id",
    "workflow_id",
    "scope",
    "status",
    "trigger",
    "requested_by",
    "created_at",
    "started_at",
    "ended_at",
    "input",
    "output_preview",
    "error",
    "counts",
    "resumed_from",
    "parent",
)
RUN_LINKS = ("executions", "items", "events", "artifacts", "cancel", "cancellation")
EXECUTION_FIELDS = (
    "id",
    "path",
    "parent",
    "depth",
    "kind",
    "name",
    "status",
    "attempt",
    "started_at",
    "ended_at",
    "input_preview",
    "output_preview",
    "output_ref",
    "error",
    "cancel",
    "child",
    "reused_from",
)
DELIVERY_FIELDS = (
    "id",
    "run_id",
    "execution_id",
    "webhook",
    "event",
    "message_id",
    "payload",
    "status",
    "attempts",
    "created_at",
    "ended_at",
    "error",
)


def etag(workflow: Document) -> str:
    """The etag of a workflow's definition: runs don't change it."""
    return f'"{workflow["revision"]}"'


def workflow_view(workflow: Document) -> dict[str, Any]:
    """A workflow: its definition, with id, etag and runtime."""
    return {
        "id": workflow["workflow_id"],
        "scope": workflow["scope"],
        "etag": etag(workflow),
        **workflow["definition"],
        "created_at": workflow["created_at"],
        "updated_at": workflow["updated_at"],
        "runtime": workflow["runtime"],
    }


def link(scope: str, *parts: str) -> str:
    """The path below a scope's workflows, such as of a workflow's run."""
    kind, _, name = scope.partition(":")
    path = "/".join((f"/api/{kind}/workflows", *parts))
    return path if kind == "user" else f"{path}?group_id={name}"


def run_view(run: Document, receipt: dict[str, Any] | None) -> dict[str, Any]:
    """A run."""
    scope, own = run["scope"], (run["workflow_id"], "runs", run["id"])
    return {
        **{name: run[name] for name in RUN_FIELDS},
        "cancel": receipt,
        "links": {
            "self": link(scope, *own),
            "workflow": link(scope, run["workflow_id"]),
            **{name: link(scope, *own, name) for name in RUN_LINKS},
        },
    }


def side_effects(execution: Document) -> list[dict[str, Any]]:
    """What an execution did that others can see; with `done` false, what it may have done."""
    others = [effect for effect in execution["side_effects"] if effect["kind"] != ARTIFACT]
    return [
        {key: effect[key] for key in ("execution_id", "kind", "what", "at", "done")}
        for effect in others + artifacts(execution)
    ]


def artifacts(execution: Document) -> list[dict[str, Any]]:
    """The artifacts of an execution: those of the attempt that completed, and none before it has."""
    if execution["status"] != Ex.COMPLETED:
        return []
    attempt = execution["attempt"]
    return [one for one in execution["side_effects"] if one["kind"] == ARTIFACT and one["attempt"] == attempt]


def execution_view(execution: Document) -> dict[str, Any]:
    """A node of a run's tree."""
    return {**{name: execution[name] for name in EXECUTION_FIELDS}, "side_effects": side_effects(execution)}


def narrow_cancel_view(run: Document, execution: Document, active: list[Document], whole: str) -> dict[str, Any]:
    """The answer to a narrow cancel: what was cancelled, what of the run goes on, and `whole`, which cancels that too."""
    goes_on = run["status"] == RunStatus.RUNNING
    warning = (
        f"Only {execution['path']} and what is below it was cancelled; the run goes on. To stop the run: POST {whole}"
    )
    return {
        "scope": "execution",
        "execution_id": execution["id"],
        "status": execution["status"],
        "run_id": run["id"],
        "run_status": run["status"],
        "remaining_active_in_run": len(active),
        "active": [{name: one[name] for name in ("id", "kind", "name", "started_at")} for one in active[:MAX_ACTIVE]],
        "suggested_endpoint": whole,
        "warning": warning if goes_on else "The whole run is being cancelled.",
    }


def event_view(event: Document) -> dict[str, Any]:
    """An event of a run."""
    return {
        "id": event["id"],
        "type": event["event_type"],
        "run_id": event["run_id"],
        "execution_id": event["execution_id"],
        "at": event["at"],
        "data": event["data"],
    }


def delivery_view(delivery: Document) -> dict[str, Any]:
    """A notification to a webhook. `next_attempt_at` is null once it has ended."""
    ended = delivery["ended_at"] is not None
    return {
        **{name: delivery[name] for name in DELIVERY_FIELDS},
        "next_attempt_at": None if ended else delivery["due_at"],
    }


def group_view(group: Document, role: str | None) -> dict[str, Any]:
    """A group, as a member with this role sees it."""
    return {
        "id": group["group_id"],
        "name": group["name"],
        "role": role,
        "members": group["members"],
        "created_at": group["created_at"],
        "updated_at": group["updated_at"],
    }
