"""The route that lists the tools: what steps and agents may name."""

from __future__ import annotations

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_route, listing
from shared.permissions import Rule
from shared.tools import registry

blueprint = df.Blueprint()


async def list_tools(_call: Call) -> Answer:
    """GET /api/tools: each with its description and the schema of its arguments."""
    found = [registry.get(name) for name in sorted(registry.names())]
    shown = ("name", "description", "parameters", "side_effects")
    return listing([{name: getattr(one, name) for name in shown} for one in found], None)


add_route(blueprint, "tools", "GET", "api/tools", list_tools, Rule.SIGNED_IN)
