"""Benchmarks: figures that a timed test could not give honestly. `make bench` prints a table."""
