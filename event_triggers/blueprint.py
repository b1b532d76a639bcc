"""Every function that time, blobs or queues start."""

from __future__ import annotations

from event_triggers import reconcile

blueprints = (reconcile.blueprint,)
