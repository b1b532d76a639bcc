"""Finds the functions of an app, as the Functions Python worker does, and calls them as it does.

The app must not notice which host runs it: so sync functions go to one shared thread pool **without** a copy of the
caller's context variables, an app that can't be indexed has no function at all, and names and parameters are checked
before anything runs.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions import FunctionRegister
from azure.functions.decorators.core import Binding, Trigger

SCRIPT = "function_app.py"
_RETURN = "$return"


class IndexingError(Exception):
    """The app in `directory` can't be served. The message says what to change."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(directory, reason)
        self.directory, self.reason = directory, reason

    def __str__(self) -> str:
        return f"Worker failed to index functions of {self.directory / SCRIPT}: {self.reason}"


@dataclass(frozen=True, slots=True)
class HostedFunction:
    """One function of the app.

    `kind` is the trigger's binding type ("httpTrigger", "activityTrigger", …), `parameter` the name under which
    `function` takes what triggered it; `bindings` are all others, outputs ("$return") included.
    """

    name: str
    kind: str
    trigger: Trigger
    parameter: str
    bindings: tuple[Binding, ...]
    function: Callable[..., Any]
    is_async: bool

    async def call(self, **arguments: Any) -> Any:
        """Run the function and return what it returns. Cancelling the caller can't stop a sync function's thread."""
        if self.is_async:
            return await self.function(**arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(thread_pool(), functools.partial(self.function, **arguments))


@functools.cache
def thread_pool() -> ThreadPoolExecutor:
    """The pool that every sync function shares: as large as the worker's."""
    given = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
    size = int(given) if given.isdigit() and int(given) > 0 else min(32, (os.cpu_count() or 1) + 4)
    return ThreadPoolExecutor(max_workers=size, thread_name_prefix="function")


def load_app(directory: Path) -> list[HostedFunction]:
    """Import `function_app.py` of `directory` (put on `sys.path`) and list its functions. Raises `IndexingError`."""
    app = _find_app(directory, _import_script(directory))
    try:
        functions = app.get_functions()
    except Exception as error:
        raise IndexingError(directory, str(error)) from error
    return [_hosted(directory, function) for function in functions]


def _import_script(directory: Path) -> dict[str, Any]:
    path = directory.resolve() / SCRIPT
    if not path.is_file():
        raise IndexingError(directory, "there is no such file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("function_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["function_app"] = module  # classes defined in it must be found when payloads are decoded
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise IndexingError(directory, f"{type(error).__name__}: {error}") from error
    return vars(module)


def _find_app(directory: Path, names: dict[str, Any]) -> FunctionRegister:
    apps = {id(value): value for value in names.values() if isinstance(value, FunctionRegister)}
    if len(apps) != 1:
        raise IndexingError(directory, f"one FunctionApp or DFApp object is needed, {len(apps)} were found")
    return next(iter(apps.values()))


def _hosted(directory: Path, function: Any) -> HostedFunction:
    trigger, call = function.get_trigger(), function.get_user_function()
    name, kind = function.get_function_name(), trigger.type
    if kind == "entityTrigger":
        raise IndexingError(directory, f"function {name!r} is a durable entity; devhost does not run entities")
    if function.get_settings_dict("retry_policy"):
        raise IndexingError(directory, f"function {name!r} has a retry policy; devhost does not follow those")
    bindings = tuple(binding for binding in function.get_bindings() if binding is not trigger)
    _check_parameters(directory, name, call, (trigger, *bindings))
    return HostedFunction(name, kind, trigger, trigger.name, bindings, call, inspect.iscoroutinefunction(call))


def _check_parameters(directory: Path, name: str, call: Callable[..., Any], bindings: Sequence[Binding]) -> None:
    declared = inspect.signature(call).parameters
    bound = {binding.name for binding in bindings if binding.name != _RETURN}
    for missing in sorted(bound - set(declared)):
        raise IndexingError(directory, f"function {name!r} binds {missing!r} but has no parameter of that name")
    unbound = {key for key, parameter in declared.items() if parameter.default is inspect.Parameter.empty} - bound
    for extra in sorted(unbound):
        raise IndexingError(directory, f"parameter {extra!r} of function {name!r} has no binding that fills it")
