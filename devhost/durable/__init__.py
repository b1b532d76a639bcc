"""Durable orchestrations on one machine: the extension's protocol and management API, with SQLite as its task hub."""

from devhost.durable.engine import DurableEngine

__all__ = ["DurableEngine"]
