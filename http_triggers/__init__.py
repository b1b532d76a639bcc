"""The HTTP API: thin triggers that parse, decide who may, call the domain, and answer with its shapes."""
