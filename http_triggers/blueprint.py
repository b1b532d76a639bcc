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
    page,
    tools,
)
blueprints = tuple(module.blueprint for module in _MODULES)
