"""Every HTTP route."""

from __future__ import annotations

from http_triggers import aliases, cancels, deliveries, documents, health, history, runs, workflows

_MODULES = (workflows, runs, cancels, aliases, history, deliveries, documents, health)
blueprints = tuple(module.blueprint for module in _MODULES)
