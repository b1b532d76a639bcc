"""The Durable orchestrators."""

from __future__ import annotations

import azure.durable_functions as df

from orchestrators.agent import agent, tool_call
from orchestrators.items import items
from orchestrators.pipeline import pipeline
from orchestrators.run import run
from shared import names

blueprint = df.Blueprint()
for name, body in (
    (names.ORCHESTRATOR_RUN, run),
    (names.ORCHESTRATOR_PIPELINE, pipeline),
    (names.ORCHESTRATOR_ITEMS, items),
    (names.ORCHESTRATOR_AGENT, agent),
    (names.ORCHESTRATOR_TOOL_CALL, tool_call),
):
    blueprint.orchestration_trigger(context_name="context", orchestration=name)(body)
