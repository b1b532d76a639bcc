"""The route that resumes a run: a new run that reuses what had finished."""

from __future__ import annotations

from typing import Annotated

import azure.durable_functions as df
from pydantic import BaseModel, ConfigDict, Field

from http_triggers.api import Answer, Call, add_scoped_route
from http_triggers.runs import RUN, answer_start, read_run, start_of
from http_triggers.workflows import partition_of
from shared import workflows
from shared.permissions import Rule
from shared.quotas import refuse_more_runs
from shared.resume import Items, Resume, resume_run

blueprint = df.Blueprint()


class ResumeBody(BaseModel):
    """What a resume takes. `items`: which executions that ended badly are repeated; `from_step`: all from there on."""

    model_config = ConfigDict(extra="forbid")
    items: Items = Items.BOTH
    from_step: Annotated[str, Field(strict=True, max_length=64)] | None = None
    use_current: Annotated[bool, Field(strict=True)] = False
    run_id: Annotated[str, Field(strict=True, min_length=1, max_length=64)] | None = None
    wait: Annotated[float, Field(ge=0, le=20)] = 0


async def resume(call: Call) -> Answer:
    """POST {base}/{wid}/runs/{rid}/resume."""
    body, old, partition = call.parse(ResumeBody), await read_run(call), partition_of(call)
    workflow = await workflows.get(call.services, partition)
    start, how = start_of(call, body.run_id, None, partition), Resume(body.items, body.from_step, body.use_current)
    await refuse_more_runs(call.services, partition, start.run_id)
    return await answer_start(call, lambda: resume_run(call.services, partition, workflow, old, start, how), body.wait)


add_scoped_route(blueprint, "run_resume", "POST", RUN + "/resume", resume, Rule.WORKFLOW_RUN, starts_or_wakes=True)
