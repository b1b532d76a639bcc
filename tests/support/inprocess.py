"""The app's HTTP functions, called in this process as a host would: with a request and the platform's headers."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import azure.functions as func

from devhost.auth import DevUser, principal_headers
from devhost.functions import HostedFunction, load_app
from tests.support.orchestrations import FakeOrchestrations

ROOT = Path(__file__).parents[2]


@functools.cache
def http_functions() -> dict[str, HostedFunction]:
    """Every HTTP function of the app, by its name."""
    return {one.name: one for one in load_app(ROOT) if one.kind == "httpTrigger"}


@dataclass(frozen=True)
class Reply:
    """What a function answered."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str | None:
        """The code of a problem."""
        return self.body.get("code") if isinstance(self.body, dict) else None


@dataclass
class App:
    """The functions, with an orchestration client that is a fake."""

    client: FakeOrchestrations = field(default_factory=FakeOrchestrations)

    async def call(
        self,
        name: str,
        user: str | None,
        /,
        body: Any = None,
        *,
        roles: tuple[str, ...] = (),
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        **route: str,
    ) -> Reply:
        """Call the function `name` as `user` (None: nobody signed in). `route`: the parameters of its route."""
        function = http_functions()[name]
        path: str = function.trigger.route
        for key, value in route.items():
            path = path.replace(f"{{*{key}}}", quote(value)).replace(f"{{{key}}}", quote(value))
        given = dict(principal_headers(DevUser(user, user.title(), roles))) if user is not None else {}
        request = func.HttpRequest(
            method=function.trigger.methods[0].value,
            url=f"http://test/{path}?{urlencode(query or {})}",
            headers={**given, **(headers or {})},
            params=dict(query or {}),
            route_params={key: value for key, value in route.items() if value},
            body=body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode(),
        )
        wants_client = any(binding.name == "client" for binding in function.bindings)
        # Below what makes the SDK's own client of a connection string.
        run = inspect.unwrap(function.function)
        answer = await run(request=request, **({"client": self.client} if wants_client else {}))
        said = answer.get_body()
        is_json = said and (answer.mimetype or "").endswith("json")
        return Reply(answer.status_code, json.loads(said) if is_json else said, dict(answer.headers))
