"""Every function that time, blobs or queues start."""

from __future__ import annotations

from event_triggers import notifications, reconcile, retention, run_requests, schedule

blueprints = tuple(module.blueprint for module in (reconcile, retention, schedule, run_requests, notifications))
