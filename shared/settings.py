"""Settings: one table of name, default and help; read from the environment once a process.

The reference page and `local.settings.sample.json` are checked against this table by a test.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Setting(NamedTuple):
    """One setting: its environment variable, default (as text; None: unset) and what it does."""

    name: str
    default: str | None
    help: str


TABLE: tuple[Setting, ...] = (
    Setting("TRUESTOP_STORE", "sqlite", "Where documents live: `sqlite` or `cosmos`."),
    Setting(
        "TRUESTOP_STORAGE",
        "local",
        "Where blobs and queues live: `local`, or `azure` (the account of AzureWebJobsStorage).",
    ),
    Setting("TRUESTOP_DATA", ".data", "Folder of the SQLite file, of local blobs and queues."),
    Setting("TRUESTOP_COSMOS_ENDPOINT", None, "Address of the Cosmos DB account."),
    Setting("TRUESTOP_COSMOS_KEY", None, "Its key. Unset: managed identity."),
    Setting("TRUESTOP_COSMOS_DATABASE", "truestop", "Name of its database."),
    Setting("TRUESTOP_COSMOS_CONTAINER", "truestop", "Name of the container of documents."),
    Setting("TRUESTOP_BLOB_CONTAINER", "truestop", "Name of the container of blobs."),
    Setting("TRUESTOP_MODEL_ENDPOINT", None, "Base URL of an OpenAI-compatible or Azure OpenAI endpoint."),
    Setting("TRUESTOP_MODEL_API_KEY", None, "Its key. Unset: managed identity (Azure endpoints only)."),
    Setting("TRUESTOP_MODEL", None, "Model (or deployment) used where a step names none."),
    Setting(
        "TRUESTOP_MODEL_TIMEOUT_SECONDS", "120", "Longest silence of a model endpoint before a call fails, in seconds."
    ),
    Setting("TRUESTOP_DEV_USER", None, "Who you are on a development host without sign-in. Ignored on Azure."),
    Setting("TRUESTOP_POLL_SECONDS", "0.25", "How often each process looks whether its active runs were cancelled."),
    Setting("TRUESTOP_FENCE_SECONDS", "10", "A heartbeat unchanged for this long has expired; see docs/design.md."),
    Setting("TRUESTOP_LEASE_SECONDS", "900", "How long a run's lock is held without renewal."),
    Setting(
        "TRUESTOP_START_AFTER_SECONDS", "60", "A run still queued after this long is started again by `reconcile`."
    ),
    Setting("TRUESTOP_START_GIVE_UP_SECONDS", "3600", "A run that could not be started for this long is cancelled."),
    Setting("TRUESTOP_RETENTION_DAYS", "90", "How long a run that has ended is kept, with its outputs and artifacts."),
    Setting(
        "TRUESTOP_RECEIPT_DAYS",
        "400",
        "How long it is remembered that a trigger produced a run; longer than runs are kept.",
    ),
    Setting("TRUESTOP_STEP_TIMEOUT_SECONDS", "1500", "Deadline of an operation whose step names none."),
    Setting("TRUESTOP_PARALLEL_MAX", "16", "Most items of one fan-out at work at a time."),
    Setting("TRUESTOP_ITEMS_MAX", "999", "Most items of one fan-out (at most 999)."),
    Setting("TRUESTOP_CHILD_DEPTH_MAX", "5", "How deep child runs may start child runs."),
    Setting("TRUESTOP_AGENT_DEPTH_MAX", "3", "How deep sub-agents may be nested below a step's agent."),
    Setting(
        "TRUESTOP_AGENT_CALLS_MAX", "16", "Most tool and sub-agent calls of one turn; the model is told of the rest."
    ),
    Setting("TRUESTOP_EXECUTIONS_MAX", "5000", "Executions of a run after which its agents take no further turn."),
    Setting("TRUESTOP_DOCUMENT_MAX_BYTES", "20971520", "Largest document that may be uploaded, in bytes."),
    Setting("TRUESTOP_FETCH_MAX_BYTES", "5242880", "Largest page that `fetch_urls` reads, in bytes."),
    Setting("TRUESTOP_FETCH_TIMEOUT_SECONDS", "30", "Longest time for one page, redirects included."),
    Setting("TRUESTOP_FETCH_ALLOW_PRIVATE", "false", "Whether pages on private and loopback addresses may be fetched."),
    Setting(
        "TRUESTOP_WEBHOOK_ALLOW_PRIVATE",
        "false",
        "Whether webhooks may go to private and loopback addresses, and over plain http.",
    ),
    Setting(
        "TRUESTOP_WEBHOOK_BACKOFF_SECONDS",
        "5",
        "Pause after a webhook's first failed attempt; each further one is four times as long, up to 9 attempts.",
    ),
    Setting(
        "TRUESTOP_FILE_SYNC_WAIT_SECONDS",
        "60",
        "Longest that files which keep arriving put off the run of earlier ones.",
    ),
    Setting(
        "TRUESTOP_FILE_SYNC_BUSY_SECONDS",
        "86400",
        "How long files wait for a busy workflow before a `skipped` run says that they weren't worked on.",
    ),
    Setting("TRUESTOP_FILE_SYNC_BUSY_TRIES", "500", "How often they try before that, at most 5 minutes apart."),
    Setting(
        "TRUESTOP_SCHEDULE_MIN_SECONDS",
        "10",
        "Shortest time between two slots of a schedule. Slots are looked for every 10 seconds.",
    ),
    Setting(
        "TRUESTOP_SCHEDULE_CATCH_UP",
        "true",
        "Whether, after a time in which slots were missed, the latest of them runs.",
    ),
    Setting("TRUESTOP_PERSONAL_WORKFLOWS", "true", "Whether people may have workflows of their own."),
    Setting("TRUESTOP_GROUP_WORKFLOWS", "true", "Whether groups may have workflows."),
    Setting(
        "TRUESTOP_WEDGED_SECONDS", "3600", "An operation in flight for longer is among what operators see as wedged."
    ),
    Setting("TRUESTOP_KEYS_MAX", "20", "Most machine keys of one person or group."),
    Setting("TRUESTOP_KEY_DAYS_MAX", "365", "Longest life of a machine key, in days."),
    Setting(
        "TRUESTOP_STARTS_PER_MINUTE", "120", "Starts and resumes that one user or key may ask for, in each process."
    ),
    Setting("TRUESTOP_CANCELS_PER_MINUTE", "1200", "Cancels that one user or key may ask for, in each process."),
    Setting("TRUESTOP_WORKFLOWS_MAX", "200", "Most workflows of one person or group (at most 1000)."),
    Setting("TRUESTOP_STEPS_MAX", "64", "Most steps of a workflow (at most 64)."),
    Setting("TRUESTOP_USER_RUNS_MAX", "100", "Most active runs in a person's own scope when another is asked for."),
    Setting("TRUESTOP_GROUP_RUNS_MAX", "200", "The same in a group."),
    Setting("TRUESTOP_TOOL_MODULES", "", "Modules with further tools, comma-separated; imported at start."),
)

_DEFAULTS = {setting.name: setting.default for setting in TABLE}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, typed. Field `x` is the variable `TRUESTOP_X` (`fetch_max_bytes`: `TRUESTOP_FETCH_MAX_BYTES`)."""

    store: str
    storage: str
    data: Path
    cosmos_endpoint: str | None
    cosmos_key: str | None
    cosmos_database: str
    cosmos_container: str
    blob_container: str
    model_endpoint: str | None
    model_api_key: str | None
    model: str | None
    model_timeout_seconds: float
    dev_user: str | None
    poll_seconds: float
    fence_seconds: float
    lease_seconds: float
    start_after_seconds: float
    start_give_up_seconds: float
    retention_days: float
    receipt_days: float
    step_timeout_seconds: float
    parallel_max: int
    items_max: int
    child_depth_max: int
    agent_depth_max: int
    agent_calls_max: int
    executions_max: int
    document_max_bytes: int
    fetch_max_bytes: int
    fetch_timeout_seconds: float
    fetch_allow_private: bool
    webhook_allow_private: bool
    webhook_backoff_seconds: float
    file_sync_wait_seconds: float
    file_sync_busy_seconds: float
    file_sync_busy_tries: int
    schedule_min_seconds: float
    schedule_catch_up: bool
    personal_workflows: bool
    group_workflows: bool
    wedged_seconds: float
    keys_max: int
    key_days_max: int
    starts_per_minute: float
    cancels_per_minute: float
    workflows_max: int
    steps_max: int
    user_runs_max: int
    group_runs_max: int
    tool_modules: tuple[str, ...]


MOST = 1000
"""What is counted is counted in one page of the store."""
CHOICES = {"TRUESTOP_STORE": ("sqlite", "cosmos"), "TRUESTOP_STORAGE": ("local", "azure")}


class SettingsError(ValueError):
    """Settings have values that can't be used; the message names each."""


def _convert(kind: str, name: str, text: str | None) -> Any:
    if kind == "Path":
        return Path(text or ".")
    if kind == "tuple[str, ...]":
        return tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is None:
        return None
    value: float
    try:
        if kind == "int":
            value = int(text)
        elif kind == "float":
            value = float(text)
        elif kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
        else:
            return text
    except (ValueError, KeyError):
        raise SettingsError(f"{name} must be a {kind}, not {text!r}") from None
    if not 0 < value < float("inf"):
        raise SettingsError(f"{name} must be above 0, not {text!r}")
    return value


def _wrong_about_cosmos(endpoint: str | None, key: str | None) -> Iterator[str]:
    """What the SDK would only complain of in the middle of a request. Names no secret."""
    if endpoint is None:
        yield "TRUESTOP_COSMOS_ENDPOINT must be set when TRUESTOP_STORE is cosmos"
    elif urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        yield f"TRUESTOP_COSMOS_ENDPOINT must be the address of an account (https://…), not {endpoint!r}"
    try:
        base64.b64decode(key or "", validate=True)
    except ValueError:
        yield "TRUESTOP_COSMOS_KEY must be an account's key as it is shown: Base64, and not a connection string"


def load(environment: Mapping[str, str]) -> Settings:
    """Read the settings; an empty value counts as unset. Raises `SettingsError` with all that is wrong."""
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for one in fields(Settings):
        name = f"TRUESTOP_{one.name.upper()}"
        text = environment.get(name) or _DEFAULTS[name]
        try:
            values[one.name] = _convert(str(one.type), name, text)
        except SettingsError as error:
            wrong.append(str(error))
        if name in CHOICES and text not in CHOICES[name]:
            wrong.append(f"{name} must be one of {', '.join(CHOICES[name])}, not {text!r}")
    if values.get("store") == "cosmos":
        wrong += _wrong_about_cosmos(values["cosmos_endpoint"], values["cosmos_key"])
    for name in ("workflows_max", "user_runs_max", "group_runs_max"):
        if values.get(name, 0) > MOST:
            wrong.append(f"TRUESTOP_{name.upper()} must be at most {MOST}")
    if not wrong and values["receipt_days"] <= values["retention_days"]:
        wrong.append("TRUESTOP_RECEIPT_DAYS must be more than TRUESTOP_RETENTION_DAYS")
    if wrong:
        raise SettingsError("; ".join(wrong))
    return Settings(**values)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings."""
    return load(os.environ)
