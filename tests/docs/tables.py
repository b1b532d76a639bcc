"""Tables of the reference pages that the source writes: `python -m tests.docs.tables` brings the pages up to date.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. A test compares each with what would be written.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, get_args

from pydantic import BaseModel

from http_triggers import blueprint as _registered  # noqa: F401 - it registers every route
from http_triggers.api import ROUTES, Route
from http_triggers.contract import Operation, operation_of, problems_of
from shared import names, states, steps, triggers
from shared.definitions import Definition
from tests.support.pages import ROOT, pages, text_of

MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Rows as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def members(kind: type[StrEnum]) -> dict[str, str]:
    """The values of an enumeration, each with its docstring on one line."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    last = ""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            last = str(node.value.value)
            found[last] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            found[last] = " ".join(str(node.value.value).split())
    return found


def meanings(kind: type[StrEnum]) -> Callable[[], str]:
    """What each value of an enumeration means."""
    return lambda: table(("value", "means"), ((f"`{value}`", says) for value, says in members(kind).items()))


def transitions(kind: type[StrEnum], allowed: Any) -> Callable[[], str]:
    """What each status means, and which may follow it."""

    def rows() -> Iterator[Sequence[str]]:
        for value, says in members(kind).items():
            following = [str(one) for one in kind if one in allowed[kind(value)]]
            yield f"`{value}`", says, ", ".join(f"`{one}`" for one in following) or "nothing"

    return lambda: table(("status", "means", "may become"), rows())


def fields(model: type[BaseModel], but: frozenset[str] = frozenset()) -> str:
    """The fields of a model, required ones first, others with their default."""
    required, optional = [], []
    for name, field in model.model_fields.items():
        if name in but:
            continue
        if field.is_required():
            required.append(f"`{name}`")
        elif isinstance(field.default, str | int | float) and field.default != "":
            optional.append(f"`{name}? = {json.dumps(field.default)}`")
        else:
            optional.append(f"`{name}?`")
    return ", ".join((*required, *optional))


def kinds(union: Any, base: type[BaseModel]) -> Callable[[], str]:
    """The kinds of a discriminated union, each with its fields and what its docstring says first."""
    inherited = frozenset(base.model_fields) | {"kind"}

    def rows() -> Iterator[Sequence[str]]:
        for model in get_args(get_args(union)[0]):
            kind = get_args(model.model_fields["kind"].annotation)[0]
            says = " ".join(inspect.cleandoc(model.__doc__).split("\n\n")[0].split())
            yield f"`{kind}`", says, fields(model, inherited) or "none"

    return lambda: table(("kind", "does", "fields"), rows())


def routes() -> str:
    """Every route: what it takes, what it answers, what it refuses with."""

    def rows() -> Iterator[Sequence[str]]:
        for name, route in sorted(ROUTES.items(), key=lambda item: _order(item[1])):
            if "api/group/" in route.route or not route.route.startswith("api/"):
                continue
            operation = operation_of(name)
            path = re.sub("^/api/user/", "{base}/", f"/{route.route}").replace("{*path}", "{path}")
            answers = ", ".join(str(status) for status in sorted(operation.answers))
            refusals = ", ".join(str(status) for status in sorted(problems_of(name) - {401, 403, 500, 503}))
            yield f"{route.method} `{path}`", _taken(operation), answers, refusals

    return table(("route", "takes", "answers", "refuses with"), rows())


def _order(route: Route) -> tuple[int, str, str]:
    """One's own workflows first, what is the operators' last."""
    first = 0 if route.route.startswith("api/user/") else 2 if route.route.startswith("api/admin/") else 1
    return first, route.route, route.method


def _taken(operation: Operation) -> str:
    query = [*operation.query, *(("limit", "after") if operation.paged else ())]
    asked = f"`?{'&'.join(f'{name}=' for name in query)}`" if query else ""
    if operation.body is Definition:
        body = "[a definition](#a-workflows-definition)"
    elif isinstance(operation.body, type):
        body = fields(operation.body)
    else:
        body = {None: "", "object": "a merge patch"}.get(operation.body, "the content")
    return " ".join(part for part in (asked, body) if part)


TABLES: dict[str, Callable[[], str]] = {
    "routes": routes,
    "definition": lambda: fields(Definition) + "\n",
    "every_step": lambda: fields(steps.Step) + "\n",
    "step_kinds": kinds(steps.AnyStep, steps.Step),
    "trigger_kinds": kinds(triggers.AnyTrigger, BaseModel),
    "run_statuses": transitions(states.RunStatus, states.RUN_TRANSITIONS),
    "execution_statuses": transitions(states.ExecutionStatus, states.EXECUTION_TRANSITIONS),
    "workflow_statuses": meanings(states.WorkflowStatus),
    "outcomes": meanings(names.CancelOutcome),
    "started_by": meanings(names.TriggerKind),
}


def up_to_date(text: str) -> str:
    """A page with its tables as the source would write them."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Write the tables into the pages."""
    for page in pages():
        before = text_of(page)
        if (after := up_to_date(before)) != before:
            (ROOT / page).write_text(after, "utf-8")
            print(page)


if __name__ == "__main__":
    main()
