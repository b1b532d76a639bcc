"""Timer, queue and blob triggers: one process of a data folder listens and calls, see `leader.py`."""
