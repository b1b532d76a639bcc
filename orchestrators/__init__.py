"""Orchestrators: they only sequence. No text, no I/O, no clock, no randomness; they carry references."""
