"""Outcomes that can't be stored as they are: the operation ends on record all the same, so that its run can end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import MAX_CODE, MAX_DETAIL, StepFailed
from shared.tools import registry
from tests.support.agents import Play, agent, calls, results, sub_agent
from tests.support.world import World, open_world, streaming

STEP = {"kind": "tool", "tool": "odd"}
HALF_A_PAIR = "no file \udc80.txt"
"""What Python makes of a file's name that is no UTF-8."""


@pytest.mark.parametrize(
    "error", [OSError(HALF_A_PAIR), StepFailed("odd_failed", HALF_A_PAIR), StepFailed("c" * 9000, "d" * 3_000_000)]
)
async def test_an_error_that_can_not_be_stored_is_told_as_text_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Guards the end of a failed operation: a store refuses half of a surrogate pair, and over 2 MB."""
    monkeypatch.setattr(registry, "_tools", dict(registry._tools))

    async def odd() -> None:
        raise error

    registry.tool(odd)
    async with open_world(tmp_path) as world:
        ref = await world.start(await world.workflow(STEP))
        assert await world.drive(ref) == "failed"
        call = (await world.executions(ref))["s01.c0"]["error"]
        assert (await world.run(ref))["in_flight"] == 0
        assert len(call["code"]) <= MAX_CODE
        assert len(call["message"]) <= MAX_DETAIL
        call["message"].encode()


async def test_an_output_that_can_not_be_kept_fails_its_operation(tmp_path: Path) -> None:
    """Guards the end of an operation whose whole or partial output the blob store refuses for good."""
    async with open_world(tmp_path, streaming(4000, 0)) as world:
        refuse(world)
        ref = await world.start(await world.workflow({"kind": "model", "prompt": "Go"}))
        assert await world.drive(ref) == "failed"
        model = (await world.executions(ref))["s01.m"]
        assert (model["status"], model["error"]["code"]) == ("failed", "internal_error")
        assert (await world.run(ref))["in_flight"] == 0


def refuse(world: World) -> None:
    """Let the world's blob store take nothing."""

    async def put(name: str, data: bytes, content_type: str) -> Any:
        raise ValueError(f"{name!r} can't be a name")

    world.services.blobs.put = put  # type: ignore[method-assign]


async def test_an_address_of_any_length_is_told_by_its_item(tmp_path: Path) -> None:
    """Guards items, whose name is their address: rendered of an output it may be as long as that."""
    long = {"kind": "tool", "tool": "echo", "arguments": {"value": "x" * 200_000}}
    pages = {"kind": "fetch_urls", "urls": ["https://example.org/{{steps.step0.output}}"] * 20}
    async with open_world(tmp_path) as world:
        ref = await world.start(await world.workflow(long, pages))
        assert await world.drive(ref) == "failed"
        item = (await world.executions(ref))["s02.i001"]
        assert item["error"]["code"] == "fetch_url_invalid"


@pytest.mark.parametrize("wrong", ['"\\ud800"', "1e999", "NaN"])
async def test_what_a_model_writes_that_is_no_json_is_its_own_to_mend(tmp_path: Path, wrong: str) -> None:
    """Guards arguments and answers: Python's parser takes what no store does, and the agent broke on it."""
    play = Play(
        main=[calls(("helper", f'{{"input": {wrong}}}'), ("echo", f'{{"value": {wrong}}}')), wrong, '"Done."'],
        helper=["never"],
    )
    async with open_world(tmp_path, play.script) as world:
        step = agent(tools=["echo"], agents=[sub_agent("helper")], output_schema={})
        ref = await world.start(await world.workflow(step))
        assert await world.drive(ref) == "completed"
        assert (await world.executions(ref))["s01"]["output_preview"] == "Done."
    assert ["tool_arguments_invalid" in one for one in results(play.requests["main"][1])] == [True, True]
    assert "not JSON" in play.requests["main"][2].messages[-1]["content"]
    assert "helper" not in play.requests
