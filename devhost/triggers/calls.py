"""Calls a function that a timer, a queue message or a blob triggered. What it does reaches no further than its answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from devhost.bindings import client_parameters
from devhost.functions import HostedFunction

log = logging.getLogger("devhost.triggers")


class Caller:
    """One function with all that its parameters receive beside the trigger."""

    def __init__(self, function: HostedFunction, client_binding: str) -> None:
        """`client_binding` is what a durableClient parameter receives. Raises `Unserved`."""
        self.function = function
        self._arguments: dict[str, Any] = dict.fromkeys(client_parameters(function), client_binding)

    async def __call__(self, given: Any) -> bool:
        """Call the function with what triggered it; whether it succeeded. Raises only `CancelledError`: we are stopping."""
        function = self.function
        try:
            await function.call(**self._arguments, **{function.parameter: given})
        except BaseException:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            log.exception("function %s failed", function.name)
            return False
        return True
