"""What the app finds in its environment: the machine's, then `local.settings.json`, then what devhost itself offers.

The environment wins over the file, as with Core Tools.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devhost.triggers.queue_options import DEFAULT_BLOBS, DEFAULT_QUEUES, QueueOptions, blob_options, queue_options

_OVERRIDE = "azurefunctionsjobhost__"
DEFAULT_PREFIX = "api"
DEFAULT_HUB = "TestHubName"


class SettingsFileError(Exception):
    """`path` (host.json or local.settings.json) can't be used. The message says what to change."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What devhost heeds of host.json: the prefix of HTTP routes (without slashes at its ends), the Durable task hub,
    and how queues and blobs are read."""

    route_prefix: str
    hub: str
    queues: QueueOptions = DEFAULT_QUEUES
    blobs: QueueOptions = DEFAULT_BLOBS


def host_settings(directory: Path, environment: Mapping[str, str] = os.environ) -> HostSettings:
    """Read host.json; without one, the host's defaults. Raises `SettingsFileError`.

    As in the host, a setting `AzureFunctionsJobHost__a__b` takes the place of what is there at `a.b`.
    """
    path = directory / "host.json"
    content = _read(path)
    for name, value in environment.items():
        if name.lower().startswith(_OVERRIDE):
            _override(content, name[len(_OVERRIDE) :].split("__"), value)
    extensions = _section(path, content, "extensions")
    prefix = _found(_section(path, extensions, "http"), "routePrefix", DEFAULT_PREFIX)
    hub = _found(_section(path, extensions, "durableTask"), "hubName", DEFAULT_HUB)
    if not isinstance(prefix, str) or not isinstance(hub, str) or not hub:
        raise SettingsFileError(path, "extensions.http.routePrefix and extensions.durableTask.hubName must be texts")
    try:
        queues = queue_options(_section(path, extensions, "queues"))
        blobs = blob_options(_section(path, extensions, "blobs"))
    except ValueError as error:
        raise SettingsFileError(path, f"extensions: {error}") from error
    return HostSettings(prefix.strip("/"), hub, queues, blobs)


def local_values(directory: Path) -> dict[str, str]:
    """`Values` of local.settings.json; none without the file. Raises `SettingsFileError`."""
    path = directory / "local.settings.json"
    content = _read(path)
    if not content:
        return {}
    # Core Tools take a file that doesn't say for an encrypted one.
    if content.get("IsEncrypted", True) is not False:
        raise SettingsFileError(path, 'devhost reads plain settings only; set "IsEncrypted": false')
    values = _section(path, content, "Values")
    for name, value in values.items():
        if not isinstance(value, str):
            raise SettingsFileError(path, f"the value of {name} must be a text (put it in quotes)")
    return values


def prepare_environment(
    environment: MutableMapping[str, str], values: Mapping[str, str], *, data: Path, base_url: str
) -> None:
    """Fill in what the app needs and nobody has set. App Service authentication is always on: devhost plays it."""
    defaults = {
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
        "TRUESTOP_STORE": "sqlite",
        "TRUESTOP_DATA": str(data),
        "TRUESTOP_MODEL_ENDPOINT": f"{base_url}/dev/model/v1",
        "TRUESTOP_MODEL_API_KEY": "dev",
        "TRUESTOP_MODEL": "scripted",
    }
    if environment.get("TRUESTOP_MODEL_ENDPOINT") or values.get("TRUESTOP_MODEL_ENDPOINT"):
        # Somebody's own endpoint: a made-up key or model would only hide that theirs is missing.
        del defaults["TRUESTOP_MODEL_API_KEY"], defaults["TRUESTOP_MODEL"]
    for name, value in [*values.items(), *defaults.items()]:
        if not environment.get(name):
            environment[name] = value
    environment["WEBSITE_AUTH_ENABLED"] = "true"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsFileError(path, f"can't be read: {error}") from error
    if not isinstance(content, dict):
        raise SettingsFileError(path, "must hold a JSON object")
    return content


def _override(section: dict[str, Any], keys: Sequence[str], value: str) -> None:
    """Set the value at the end of `keys`, which are found in any case."""
    key = _key(section, keys[0])
    if len(keys) == 1:
        section[key] = value
        return
    if not isinstance(section.get(key), dict):
        section[key] = {}
    _override(section[key], keys[1:], value)


def _section(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = _found(content, name, None) or {}
    if not isinstance(section, dict):
        raise SettingsFileError(path, f"{name} must be a JSON object")
    return section


def _found(section: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of `name`, which is found in any case, as the host finds it."""
    return section.get(_key(section, name), default)


def _key(section: Mapping[str, Any], name: str) -> str:
    return next((one for one in section if one.lower() == name.lower()), name)
