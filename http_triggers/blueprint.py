"""Every HTTP route."""

from __future__ import annotations

from http_triggers import documents, health, history, runs, workflows

blueprints = (workflows.blueprint, runs.blueprint, history.blueprint, documents.blueprint, health.blueprint)
