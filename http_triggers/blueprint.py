"""Every HTTP route."""

from __future__ import annotations

from http_triggers import (
    admin,
    aliases,
    cancels,
    deliveries,
    documents,
    groups,
    health,
    history,
    keys,
    live,
    openapi,
    page,
    resume,
    runs,
    tools,
    workflows,
)

_MODULES = (
    workflows,
    runs,
    cancels,
    aliases,
    resume,
    history,
    keys,
    admin,
    deliveries,
    documents,
    groups,
    health,
    live,
    openapi,
    page,
    tools,
)
blueprints = tuple(module.blueprint for module in _MODULES)
