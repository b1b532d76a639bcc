"""Repairs of what no orchestrator can mend, one small module each. `shared/reconcile.py` calls them."""
