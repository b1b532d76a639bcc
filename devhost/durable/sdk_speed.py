"""Three costs of the SDK's replay, paid once instead of at every call. Nothing that it answers changes.

Each time an orchestrator is called, azure-functions-durable 1.7 parses the time of every event of the history with
dateutil's guess-any-format parser, makes a new namedtuple class, and looks up a setting in the environment for each
value. Measured: 85 % of a replay. All are functions of their arguments (or of the environment that the process started
with), so here their results are kept, and our own time format is read directly.
"""

from __future__ import annotations

import functools
import importlib
from datetime import datetime
from typing import Any

_OUR_FORMAT = "2026-11-20T21:47:08.003685Z"
_KEPT = 10_000


def install() -> None:
    """Make the SDK in this process use the faster functions. An SDK that no longer has them stays as it is."""
    _replace("azure.durable_functions.models.history.HistoryEvent", "dt_parse", _faster_parse)
    _replace("azure.durable_functions.models.TaskOrchestrationExecutor", "namedtuple", functools.lru_cache)
    _replace("azure.functions._durable_functions", "_is_strict_mode", functools.cache)


def _replace(module_name: str, name: str, faster: Any) -> None:
    module = importlib.import_module(module_name)
    original = getattr(module, name, None)
    if original is not None and not hasattr(original, "__wrapped__"):
        setattr(module, name, faster(original))


def _faster_parse(original: Any) -> Any:
    zone = original(_OUR_FORMAT).tzinfo

    @functools.wraps(original)
    @functools.lru_cache(_KEPT)
    def parse(text: str) -> datetime:
        if len(text) == len(_OUR_FORMAT) and text[-1] == "Z" and text[10] == "T" and text[19] == ".":
            return datetime.fromisoformat(text[:-1]).replace(tzinfo=zone)
        answer: datetime = original(text)
        return answer

    return parse
