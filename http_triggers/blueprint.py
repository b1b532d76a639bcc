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
    live,
    resume,
    runs,
    workflows,
)

_MODULES = (workflows, runs, cancels, aliases, resume, history, live, deliveries, documents, groups, admin, health)
blueprints = tuple(module.blueprint for module in _MODULES)
