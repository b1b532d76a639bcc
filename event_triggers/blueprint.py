"""Every function that time, blobs or queues start."""

from __future__ import annotations

from event_triggers import notifications, reconcile, run_requests

blueprints = tuple(module.blueprint for module in (reconcile, run_requests, notifications))
