"""What a process does once before its first function: it finds out at once what is wrong, not in the middle of a run."""

from __future__ import annotations

import importlib

from shared import logs
from shared.settings import SettingsError, get_settings


def prepare() -> None:
    """Read the settings and import the tool modules. Raises `SettingsError` that names all that is wrong."""
    logs.install()
    settings = get_settings()
    for name in settings.tool_modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingsError(f"TRUESTOP_TOOL_MODULES names {name!r}, which can't be imported: {error}") from error
