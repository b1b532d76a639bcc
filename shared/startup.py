"""What a process does once before its first function: it finds out at once what is wrong, not in the middle of a run."""

from __future__ import annotations

import importlib
import os

from shared import logs
from shared.settings import SettingsError, get_settings, load


def prepare() -> None:
    """Read the settings and import the tool modules. Raises `SettingsError` that names all that is wrong.

    That a store can be reached is not asked: the app starts without it, says so in `/api/health`, and waits for it.
    """
    logs.install()
    _check_settings()
    settings = get_settings()
    for name in settings.tool_modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingsError(f"TRUESTOP_TOOL_MODULES names {name!r}, which can't be imported: {error}") from error


def _check_settings() -> None:
    wrong: list[str] = []
    try:
        load(os.environ)
    except SettingsError as error:
        wrong.append(str(error))
    if os.environ.get("TRUESTOP_STORAGE") == "azure":
        from shared.azure_storage import connection_from  # its SDKs take long to import

        try:
            connection_from(os.environ).check()
        except SettingsError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError("; ".join(wrong))
