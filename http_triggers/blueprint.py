"""Every HTTP route."""

from __future__ import annotations

from http_triggers import cancels, documents, health, history, runs, workflows

blueprints = tuple(module.blueprint for module in (workflows, runs, cancels, history, documents, health))
