"""A property-based fuzzer against the API's own description: no answer that isn't described, and never a 500.

Every operation is asked as a user, another user, a member of the user's group, an operator and nobody, about things that are
there and things that aren't, with values that the description allows and values that it doesn't. `make fuzz` asks for
longer, with another seed each time.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shared.permissions import OPERATOR_ROLE
from tests.blackbox.conftest import StartHost, new_client
from tests.support.api import USER_HEADER, Api

EXAMPLES = int(os.environ.get("TRUESTOP_TEST_FUZZ_EXAMPLES", "8"))
SEED = int(os.environ.get("TRUESTOP_TEST_SEED", "1") or random.randrange(10**6))  # set and empty: another each time
PEOPLE = {
    "user": "fuzz-user",
    "other": "fuzz-other",
    "member": "fuzz-member",
    "operator": f"fuzz-operator;Op;roles={OPERATOR_ROLE}",
    "nobody": None,
}
ECHO = {"kind": "tool", "tool": "echo", "arguments": {"value": 1}}
SAVE = {"kind": "write_artifact", "path": "a.txt", "content": "x"}
SLEEP = {"kind": "tool", "tool": "sleep", "arguments": {"seconds": 600}}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@dataclass
class Pool:
    """Things that are there, of the user and of their group."""

    client: httpx.Client
    user: Api
    ids: dict[str, list[str]] = field(default_factory=dict)

    def fill(self) -> None:
        """Make new ones: what was asked before may have deleted the last."""
        user = self.user
        workflow, busy = user.workflow(ECHO, SAVE), user.workflow(SLEEP)
        ended, active = workflow.run(), busy.start()
        cancelled = workflow.start()
        cancelled.cancel()
        user.upload("notes.txt", b"text")
        group = user.ok("POST", "/api/groups", 201, json={"name": "Fuzz"})["id"]
        user.ok("PUT", f"/api/groups/{group}/members/fuzz-member", json={"role": "User"})
        shared = user.ok(
            "POST",
            "/api/group/workflows",
            201,
            params={"group_id": group},
            json={"name": "G", "steps": [{"name": "s1", **ECHO}]},
        )["id"]
        key = user.ok("POST", "/api/keys", (201, 409), json={"name": group, "allows": ["read"]})
        self.ids = {
            "wid": [workflow.id, busy.id, shared],
            "rid": [ended.id, active.id, cancelled.id],
            "gid": [group],
            "oid": ["fuzz-member", "fuzz-user"],
            "id": [key.get("id", "none"), f"{active.id}:s01"],
            "path": ["s01", "notes.txt", "a.txt"],
        }

    def some(self, case: schemathesis.Case, choose: random.Random) -> None:
        """Let the case be about them, mostly."""
        for name in case.path_parameters or {}:
            if name in self.ids and choose.random() < 0.8:
                case.path_parameters[name] = choose.choice(self.ids[name])
        if "/group/" in case.path and choose.random() < 0.8:
            case.query = {**(case.query or {}), "group_id": self.ids["gid"][0]}


def calm(case: schemathesis.Case) -> None:
    """Nothing of a case may make the fuzzer wait: no long windows, no waits for a run's end."""
    if isinstance(case.body, dict) and "wait" in case.body:
        case.body["wait"] = 0


@pytest.fixture(scope="module")
def pool(start_host: StartHost) -> Any:
    """On a host of its own: operators cancel everyone's runs."""
    host = start_host(TRUESTOP_WORKFLOWS_MAX="1000", TRUESTOP_USER_RUNS_MAX="1000", TRUESTOP_KEYS_MAX="1000")
    with new_client(host.base_url) as client:
        yield Pool(client, Api(client, "fuzz-user"))


def test_whatever_is_asked_is_answered_as_described(pool: Pool) -> None:
    """Guards every route, in one bounded run whose seed a failure tells."""
    base = str(pool.client.base_url).rstrip("/")
    description = pool.client.get("/api/openapi.json").json()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(description).get_all_operations()]
    assert len(operations) > 80
    statuses, wrong = Counter[int](), list[str]()
    print(f"seed {SEED}, {EXAMPLES} examples of each of {len(operations)} operations")
    for operation in operations:
        if "text/event-stream" in str(operation.definition.raw):
            continue  # a stream that has nothing to tell answers after 20 seconds
        pool.fill()
        cases = (operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.one_of(*cases), st.sampled_from(list(PEOPLE)), st.integers(0, 2**32))
        def ask(case: schemathesis.Case, who: str, chance: int) -> None:
            pool.some(case, random.Random(chance))
            calm(case)
            user = PEOPLE[who]
            headers = {"X-Requested-With": "truestop"} | ({USER_HEADER: user} if user else {})
            answer = case.call(base_url=base, headers=headers, timeout=30)
            statuses[answer.status_code] += 1
            if answer.status_code == 500:
                wrong.append(f"500 as {who}: {case.as_curl_command()}")
            try:
                case.validate_response(answer, checks=CHECKS)
            except FailureGroup as found:
                wrong.append(f"as {who}: {found}")  # told at the end: what follows may find more

        ask()
    print(dict(statuses))
    assert not wrong, f"seed {SEED}, {len(wrong)} wrong:\n" + "\n".join(wrong[:20])
    assert {200, 401, 403, 404, 422} <= set(statuses)
