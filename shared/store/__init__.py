"""The document store: the port and its implementations."""
