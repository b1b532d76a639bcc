"""What each route takes and answers, beyond what its rule and its shape say: the API's description is made of this table.

A key of it is a function's name; `group_…` of a route that serves both kinds of scope is described by the same entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from http_triggers import answers as a
from http_triggers import operator_answers as o
from http_triggers.admin import CancelRunsBody
from http_triggers.api import MAX_PAGE, ROUTES, SAFE_METHODS, Route
from http_triggers.cancels import CancelBody, ReasonBody
from http_triggers.groups import ActiveGroupBody, GroupBody, MemberBody
from http_triggers.keys import KeyBody
from http_triggers.resume import ResumeBody
from http_triggers.runs import StartBody
from shared.definitions import Definition
from shared.deliveries import DeliveryStatus
from shared.names import QUEUES, TriggerKind
from shared.permissions import Place, Rule
from shared.states import ExecutionStatus, RunStatus, WorkflowStatus

JSON, OBJECT, BYTES = "application/json", "object", "application/octet-stream"
HTML, EVENTS, LINES = "text/html", "text/event-stream", "application/jsonl"
Shape = type[BaseModel] | str | None
"""A model; a media type of other content; `OBJECT`: any JSON object; None: no body."""
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SECONDS: Schema = {"type": "number", "minimum": 0}
TIME: Schema = {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class Operation:
    """What is special about a route.

    `problems`: refusals that its shape doesn't tell; `absent`: what it names may be missing (404); `checked`: its query may
    be wrong (422); `items`: of a route that ends in an optional path, what it lists without one.
    """

    answers: Mapping[int, Shape]
    body: Shape = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    problems: tuple[int, ...] = ()
    paged: bool = False
    absent: bool = True
    checked: bool = True
    items: Shape = None


def choice(*values: str) -> Schema:
    """A query parameter that is one of these."""
    return {"type": "string", "enum": [str(value) for value in values]}


def _list(item: type[BaseModel], **query: Schema) -> Operation:
    return Operation({200: a.Listing[item]}, query=query, paged=True)  # type: ignore[valid-type]


def _cancel(answer: Shape, both: bool = True) -> Operation:
    return Operation({202: answer, **({200: answer} if both else {})}, CancelBody, problems=(409,))


RUN_STATUS = choice(*RunStatus)
NARROW = Operation({202: a.NarrowCancel}, ReasonBody, problems=(409,))
OPERATIONS: Mapping[str, Operation] = {
    "workflows_list": _list(a.WorkflowAnswer, status=choice(*WorkflowStatus), enabled=choice("true", "false"), q=TEXT),
    "workflows_create": Operation(
        {201: a.WorkflowAnswer, 200: a.DryRun}, Definition, {"dry_run": choice("true", "false")}, (409,)
    ),
    "workflows_get": Operation({200: a.WorkflowAnswer}),
    "workflows_replace": Operation({200: a.WorkflowAnswer}, Definition, problems=(412,)),
    "workflows_merge": Operation({200: a.WorkflowAnswer}, OBJECT, problems=(412,)),
    "workflows_delete": Operation({204: None}, problems=(409, 412)),
    "workflows_deliveries": _list(a.DeliveryAnswer, status=choice(*DeliveryStatus), run_id=TEXT),
    "run_start": Operation({202: a.RunAnswer, 200: a.RunAnswer}, StartBody, problems=(409,)),
    "run_resume": Operation({202: a.RunAnswer, 200: a.RunAnswer}, ResumeBody, problems=(409,)),
    "run_cancel_active": _cancel(a.Receipt),
    "run_cancel": _cancel(a.Receipt),
    "execution_cancel": NARROW,
    "runs_list": _list(a.RunAnswer, status=RUN_STATUS, trigger=TEXT, **{"from": TIME, "to": TIME}),
    "runs_get": Operation({200: a.RunAnswer}),
    "runs_executions": _list(a.ExecutionAnswer),
    "runs_items": _list(a.ExecutionAnswer, status=choice(*ExecutionStatus)),
    "runs_events": _list(a.EventAnswer),
    "runs_cancellation": Operation({200: a.Receipt}),
    "runs_artifacts": Operation({200: BYTES}, items=a.ArtifactAnswer),
    "live_activity": Operation({200: a.ActivityAnswer}, query={"run_id": TEXT}, checked=False),
    "live_stream": Operation({200: EVENTS, 204: None}, query={"run_id": TEXT, "after": TEXT}),
    "documents_read": Operation({200: BYTES}, query={"prefix": TEXT}, paged=True, items=a.DocumentAnswer),
    "documents_put": Operation({200: a.DocumentAnswer}, BYTES, absent=False),
    "documents_delete": Operation({204: None}, problems=(422,)),
    "alias_cancel": _cancel(a.Receipt),
    "alias_workflow_cancel": _cancel(a.Receipt),
    "alias_stop": _cancel(a.Stopping),
    "alias_cancel_tree": _cancel(a.TreeAnswer),
    "alias_execution_cancel": NARROW,
    "groups_list": _list(a.GroupAnswer),
    "groups_create": Operation({201: a.GroupAnswer}, GroupBody, problems=(409,)),
    "groups_get": Operation({200: a.GroupAnswer}),
    "groups_rename": Operation({200: a.GroupAnswer}, GroupBody),
    "groups_delete": Operation({204: None}, problems=(409,)),
    "groups_set_member": Operation({200: a.GroupAnswer}, MemberBody, problems=(409,)),
    "groups_remove_member": Operation({204: None}, problems=(409,)),
    "me": Operation({200: a.Me}),
    "me_active_group": Operation({200: a.ActiveGroup}, ActiveGroupBody, problems=(404,)),
    "health": Operation({200: a.Health, 503: a.Health}),
    "tools": Operation({200: a.Listing[a.ToolAnswer]}),
    "keys_list": Operation({200: a.Listing[a.KeyAnswer]}),
    "keys_make": Operation({201: a.NewKey}, KeyBody, problems=(409,)),
    "keys_revoke": Operation({204: None}),
    "keys_events": _list(a.KeyEvent),
    "admin_runs": _list(
        a.RunAnswer,
        status=choice("active", *RunStatus),
        scope=TEXT,
        workflow_id=TEXT,
        older_than=SECONDS,
        trigger=choice(*TriggerKind),
    ),
    "admin_cancel": Operation({200: o.CancelResults, 202: o.CancelResults}, CancelRunsBody),
    "admin_trail": Operation({200: o.Trail}, query={"scope": TEXT, "workflow_id": TEXT}, problems=(409,)),
    "admin_export": Operation({200: LINES}, query={"scope": TEXT, "workflow_id": TEXT, "after": TEXT}, problems=(409,)),
    "admin_wedged": Operation({200: o.Wedged}, query={"limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}}),
    "admin_rejected": _list(o.Rejected, queue=choice(*QUEUES)),
    "admin_events": _list(o.OperatorEvent, run_id=TEXT),
    "admin_jobs": _list(o.Job),
    "admin_job": Operation({200: o.Job}),
    "admin_job_results": Operation({200: a.Listing[o.CancelResult]}, query={"after": TEXT}),
    "admin_job_stop": Operation({200: o.Job}),
    "page": Operation({200: HTML}),
    "page_views": Operation({200: HTML}),
    "page_assets": Operation({200: BYTES}, problems=(404,)),
    "openapi": Operation({200: OBJECT}),
    "openapi_docs": Operation({200: HTML}),
}
RATE_LIMITED = (Rule.WORKFLOW_RUN, Rule.WORKFLOW_CANCEL)


def operation_of(name: str) -> Operation:
    """The entry of a function. Raises `KeyError` when it has none."""
    for prefix in ("", "group_", "groups_"):
        if name.startswith(prefix) and (found := OPERATIONS.get(name.removeprefix(prefix))) is not None:
            return found
    raise KeyError(name)


def problems_of(name: str) -> frozenset[int]:
    """The statuses of a function's refusals."""
    route, operation = ROUTES[name], operation_of(name)
    found = set(operation.problems)
    if route.access.rule is Rule.ANYONE:
        return frozenset(found)
    found |= {401, 403, 500, 503}
    if operation.body is not None:
        found |= {413, 422} if operation.body == BYTES else {400, 413, 422}
    if (operation.query and operation.checked) or operation.paged:
        found.add(422)
    found |= _of_place(route, operation)
    if route.access.rule in RATE_LIMITED:
        found.add(429)
    return frozenset(found)


def _of_place(route: Route, operation: Operation) -> set[int]:
    """The refusals of what the route names, and of where it must be."""
    named = "{" in route.route and operation.absent
    match route.access.place:
        case Place.GROUP:
            return {404, 422}
        case Place.NAMED_GROUP:
            return {404}
    return {404} if named else set()


def statuses_of(name: str) -> frozenset[int]:
    """Every status that a function may answer."""
    return frozenset(operation_of(name).answers) | problems_of(name)


def changes_something(route: Route) -> bool:
    """Whether a browser's request must carry our header."""
    return route.method not in SAFE_METHODS
