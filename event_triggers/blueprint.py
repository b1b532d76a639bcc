"""Every function that time, blobs or queues start."""

from __future__ import annotations

from event_triggers import file_sync, notifications, operator_jobs, reconcile, retention, run_requests, schedule

blueprints = tuple(
    module.blueprint
    for module in (reconcile, retention, schedule, file_sync, run_requests, notifications, operator_jobs)
)
