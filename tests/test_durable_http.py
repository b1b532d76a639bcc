"""The management API against the recordings: the same scenarios, the same statuses, headers and answers."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.durable_functions import DurableOrchestrationClient, OrchestrationRuntimeStatus

from devhost.durable import DurableEngine
from tests.durable_host import GOLDEN, IGNORED_WARNINGS, functions_of, running_engine, served
from tests.support.waiting import eventually

pytestmark = [pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS]

HOOKS = "/runtime/webhooks/durabletask"
# Peculiar to the recorded backend (golden README): other outcomes are tested below by name.
PECULIAR = {"unknown_activity", "event_null"}
PECULIAR_EDGES = {"bad id"}


# Half as long as recorded, so that the test isn't: the length of a step, in milliseconds, before and now.
SHORTER = {"reused_wait": (4000, 2000), "run_cancel_grace_expires": (6000, 3000)}


def load_scenarios() -> list[Any]:
    """Name, orchestrator, input, and steps [(seconds after the start or "end", name, method, path, body)]."""
    spec = importlib.util.spec_from_file_location("golden_scenarios", GOLDEN / "scenarios.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scenarios = [scenario for scenario in module.scenario_list() if scenario[0] not in PECULIAR]
    for name, _, given, steps in scenarios:
        if name in SHORTER:
            given["ms"] = SHORTER[name][1]
        if name == "reused_wait":
            steps[0] = (steps[0][0] / 2, *steps[0][1:])
    return scenarios


def recordings() -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in (GOLDEN / "http.jsonl").read_text().splitlines():
        text = line.replace("connection=emulator", "connection=Storage").replace("code=key", "code=devhost")
        name = json.loads(text)["scenario"]
        for before, now in [SHORTER[name]] if name in SHORTER else []:
            text = text.replace(f'"ms":{before}', f'"ms":{now}')
        found[name].append(json.loads(text))
    return found


def comparable(value: Any) -> Any:
    """Without times; a list of known functions in a fixed order."""
    if isinstance(value, dict):
        return {key: "(time)" if key.endswith(("Time", "Timestamp")) else comparable(v) for key, v in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, str) and "known orchestrator functions" in value:
        return sorted(value.split("'"))
    return value


class Driver:
    """Does what golden/scenarios.py does, for many scenarios at once."""

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self.http, self.base = http, base

    async def call(self, method: str, path: str, body: Any = None, instance: str = "") -> dict[str, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        response = await self.http.request(method, path, content=content, headers=headers)

        def mask(text: str) -> str:
            text = text.replace(self.base, "{base}")
            return text.replace(instance, "{id}") if instance else text

        try:
            answer = json.loads(mask(response.text))
        except ValueError:
            answer = response.text
        kept = ("Location", "Retry-After", "Content-Type")
        shown = {key: mask(response.headers[key]) for key in kept if key in response.headers}
        return {"status": response.status_code, "headers": shown, "answer": comparable(answer)}

    async def wait(self, instance: str) -> None:
        async with asyncio.timeout(20):
            while (await self.http.get(f"{HOOKS}/instances/{instance}")).status_code == 202:
                await asyncio.sleep(0.05)

    async def scenario(self, name: str, orchestrator: str, body: Any, steps: list[Any]) -> list[dict[str, Any]]:
        instance, loop = f"{name}-0000abcd", asyncio.get_running_loop()
        begun = loop.time()
        seen = [await self.call("POST", f"{HOOKS}/orchestrators/{orchestrator}/{instance}", body, instance)]
        for at, _, method, suffix, payload in steps:
            if at == "end":
                await self.wait(instance)
            else:
                await asyncio.sleep(max(0.0, begun + at - loop.time()))
            if method == "START":
                path = f"{HOOKS}/orchestrators/{suffix}/{instance}"
                seen.append(await self.call("POST", path, payload, instance))
            else:
                seen.append(await self.call(method, f"{HOOKS}/instances/{instance}{suffix}", payload, instance))
        await self.wait(instance)
        return [*seen, await self.call("GET", f"{HOOKS}/instances/{instance}", None, instance)]


async def assert_conforms(base: str) -> None:
    """What the real extension answered, the host at `base` answers (all scenarios at once)."""
    expected, scenarios = recordings(), load_scenarios()
    async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False) as http:
        driver = Driver(http, base)
        results = await asyncio.gather(*(driver.scenario(*scenario) for scenario in scenarios))
        edges = [
            (line, await driver.call(line["method"], line["path"], line["body"]))
            for line in expected["edges"]
            if line["step"] not in PECULIAR_EDGES
        ]
    got = {scenario[0]: seen for scenario, seen in zip(scenarios, results, strict=True)}
    wanted = {
        name: [
            {"status": line["status"], "headers": line["headers"], "answer": comparable(line["answer"])}
            for line in expected[name]
        ]
        for name in got
    }
    for name, answers in got.items():
        assert answers == wanted[name], name
    for line, seen in edges:
        if line["step"] == "start through the app":  # the recording's harness set the content type
            del seen["headers"]["Content-Type"], line["headers"]["Content-Type"]
        assert seen == {"status": line["status"], "headers": line["headers"], "answer": comparable(line["answer"])}


async def test_every_recorded_scenario_gets_the_recorded_answers(tmp_path: Path) -> None:
    """Guards conformance, in one process (`test_devhost_workers.py` has three)."""
    functions = functions_of()
    async with running_engine(tmp_path / "hub.db", functions) as engine, served(engine, functions) as base:
        await assert_conforms(base)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[DurableEngine]:
    async with running_engine(tmp_path / "hub.db") as engine:
        yield engine


@pytest.fixture
async def base(engine: DurableEngine) -> AsyncIterator[str]:
    async with served(engine, functions_of()) as base:
        yield base


@pytest.fixture
async def http(base: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base + HOOKS, timeout=10) as http:
        yield http


@pytest.fixture
def client(engine: DurableEngine, base: str) -> DurableOrchestrationClient:
    """What a function with `durable_client_input` gets."""
    return DurableOrchestrationClient(engine.client_binding(base))


def test_the_client_binding_has_the_recorded_shape(engine: DurableEngine) -> None:
    """Guards against a field that the SDK's client reads and we forget."""
    recorded = (GOLDEN / "client_binding.json").read_text().replace("{base}", "http://h").replace("{rpc}", "http://h")
    recorded = recorded.replace("connection=emulator", "connection=Storage").replace("code=key", "code=devhost")
    ours, theirs = json.loads(engine.client_binding("http://h")), json.loads(recorded)
    assert ours == theirs


async def test_an_unknown_activity_fails_its_caller(engine: DurableEngine) -> None:
    """Guards against an orchestration that waits for ever because of a misspelt name."""
    await engine.start_instance("unknown_activity", "i", None)
    await eventually(lambda: engine.instance("i").ended, what="it has ended")
    assert engine.instance("i").status == "Failed"
    output = engine.instance("i").output_json or ""
    assert "Activity function 'no_such_activity' failed: The function 'no_such_activity' doesn't exist" in output


@pytest.mark.parametrize("bad", ["@bad", "a%2Fb", "a%23b", "a%3Fb", "a%5Cb", "x" * 257])
async def test_an_id_that_azure_refuses_is_refused(http: httpx.AsyncClient, bad: str) -> None:
    """Guards against ids that work here and fail once deployed."""
    response = await http.post(f"/orchestrators/sequence/{bad}")
    assert response.status_code in (400, 404)


async def test_bodies_that_are_not_json_are_refused(http: httpx.AsyncClient, engine: DurableEngine) -> None:
    """Guards the hub against text that no orchestrator could read, and an event without a body against a guess."""
    assert (await http.post("/orchestrators/sequence", content=b"{")).status_code == 400
    await engine.start_instance("timer_or_event", "i", None)
    json_type = {"Content-Type": "application/json"}
    for content, headers in [(b"{", json_type), (b"", json_type), (b"{}", {"Content-Type": "text/plain"})]:
        refused = await http.post("/instances/i/raiseEvent/go", content=content, headers=headers)
        assert refused.status_code == 400
        assert refused.json()["Message"]


async def test_what_is_not_supported_says_so(http: httpx.AsyncClient, engine: DurableEngine) -> None:
    """Guards against a silent no-op."""
    await engine.start_instance("timer_or_event", "i", None)
    assert (await http.post("/instances/i/rewind")).json()["Message"] == "rewind is not supported by devhost"
    assert (await http.delete("/instances/i")).status_code == 409


async def test_instances_are_listed_and_purged_by_filter(
    client: DurableOrchestrationClient, engine: DurableEngine
) -> None:
    """Guards what operators and `reconcile` ask for through the SDK."""
    await engine.start_instance("sequence", "done-1", None)
    await engine.start_instance("timer_or_event", "waits-1", None)
    await eventually(lambda: engine.instance("done-1").ended, what="it has ended")
    created = (await client.get_status("done-1")).created_time
    completed, running = OrchestrationRuntimeStatus.Completed, OrchestrationRuntimeStatus.Running
    assert {s.instance_id for s in await client.get_status_all()} == {"done-1", "waits-1"}
    assert [s.instance_id for s in await client.get_status_by(created, None, [running])] == ["waits-1"]
    assert [s.instance_id for s in await client.get_status_by(None, None, [completed], "done")] == ["done-1"]
    assert (await client.purge_instance_history_by(created, None, [completed])).instances_deleted == 1
    assert (await client.purge_instance_history("done-1")).instances_deleted == 0
    assert not await client.get_status("done-1")
    assert await client.get_status("waits-1")


async def test_the_sdk_client_starts_raises_suspends_resumes_and_terminates(
    client: DurableOrchestrationClient, engine: DurableEngine
) -> None:
    """Guards the calls that the app makes; an event that the SDK sends arrives encoded twice, as recorded."""
    assert await client.start_new("timer_or_event", "i", {"a": 1}) == "i"
    with pytest.raises(Exception, match="already exists"):
        await client.start_new("timer_or_event", "i")
    await client.suspend("i", "why not")
    await eventually(lambda: engine.instance("i").status == "Suspended", what="it is suspended")
    await client.resume("i", "go on")
    await eventually(lambda: engine.instance("i").status == "Running", what="it runs again")
    await client.raise_event("i", "go", {"by": "u"})
    await eventually(lambda: engine.instance("i").ended, what="it has ended")
    status = await client.get_status("i", show_history=True, show_history_output=True, show_input=True)
    assert status.output == {"event": '{"by": "u"}'}
    assert json.loads(status.input_) == {"a": 1}
    with pytest.raises(Exception, match="gone"):
        await client.raise_event("i", "go")
    with pytest.raises(Exception, match="No instance"):
        await client.raise_event("none", "go")
    again = await client.start_new("timer_or_event", "i")
    await client.terminate(again, "enough")
    await eventually(lambda: engine.instance("i").ended, what="it has ended")
    assert (await client.get_status("i")).output == "enough"
    await client.terminate("i", "ended already")
    assert (await client.start_new("sequence")) != ""
