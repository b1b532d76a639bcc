"""What a function's bindings ask of the host, and what is refused: an app that can't be served whole isn't started."""

from __future__ import annotations

import inspect
import os
import re
import typing
from collections.abc import Callable, Mapping

from devhost.functions import HostedFunction

_SETTING = re.compile("%([^%]*)%")


class Unserved(Exception):
    """The app asks for something that this host does not have; it must not start without saying so."""

    def __init__(self, function: str, what: str) -> None:
        super().__init__(function, what)
        self.function, self.what = function, what

    def __str__(self) -> str:
        return f"function {self.function!r} needs {self.what}, which devhost does not serve"


class BadBinding(Exception):
    """A function's trigger is given something that no host could work with. The message says what to change."""

    def __init__(self, function: str, problem: str) -> None:
        super().__init__(function, problem)
        self.function, self.problem = function, problem

    def __str__(self) -> str:
        return f"function {self.function!r}: {self.problem}"


def client_parameters(function: HostedFunction) -> tuple[str, ...]:
    """The parameters that receive a Durable client. Raises `Unserved` for any other binding beside the trigger."""
    names = []
    for binding in function.bindings:
        if binding.type == "durableClient":
            names.append(binding.name)
        elif binding.type != "http" or function.kind != "httpTrigger":
            raise Unserved(function.name, f"a binding of type {binding.type!r}")
    return tuple(names)


def is_disabled(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the setting `AzureWebJobs.NAME.Disabled` keeps this function's trigger from firing."""
    return environment.get(f"AzureWebJobs.{name}.Disabled", "").lower() in ("true", "1")


def resolved(function: HostedFunction, text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A trigger's property with each `%NAME%` replaced by that setting, as the host does. Raises `BadBinding`."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if not found:
            raise BadBinding(function.name, f"{text!r} names the setting {match[1]!r}, which is not set")
        return found

    return _SETTING.sub(value, text)


def check_annotation(function: HostedFunction, can_be: Callable[[type], bool]) -> None:
    """Refuse, as the worker does, a parameter annotated with a type that it can't be. Raises `BadBinding`."""
    try:
        annotation = typing.get_type_hints(function.function).get(function.parameter)
    except Exception as error:  # an annotation is any code
        raise BadBinding(function.name, f"its annotations can't be read: {error}") from error
    if inspect.isclass(annotation) and not can_be(annotation):
        raise BadBinding(
            function.name, f"parameter {function.parameter!r} can't be a {annotation.__name__} with a {function.kind}"
        )
