"""Truestop: AI workflow runs whose Cancel really stops the work."""

from importlib.metadata import version

__version__ = version("truestop")
