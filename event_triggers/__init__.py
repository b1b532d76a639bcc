"""Functions that time, blobs and queues start. Thin: each calls a pure body in `shared/`."""
