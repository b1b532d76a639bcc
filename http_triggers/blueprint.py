"""Every HTTP route."""

from __future__ import annotations

from http_triggers import cancels, deliveries, documents, health, history, runs, workflows

blueprints = tuple(module.blueprint for module in (workflows, runs, cancels, history, deliveries, documents, health))
