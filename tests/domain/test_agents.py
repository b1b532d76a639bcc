"""Agents: turns, tools, sub-agents, and what becomes of a model that misbehaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import StepFailed
from shared.executions import RunRef
from shared.model_answers import ModelAnswer
from shared.tools import registry
from tests.support.agents import Play, agent, calls, results, sub_agent
from tests.support.world import World, open_world

ECHO = ["echo"]


def echo(value: Any) -> tuple[str, Any]:
    """A call of the tool `echo`."""
    return "echo", {"value": value}


async def run_of(world: World, *steps: dict[str, Any], **given: Any) -> RunRef:
    """A run of these steps, driven to its end."""
    ref = await world.start(await world.workflow(*steps), given=given)
    await world.drive(ref)
    return ref


async def error_of(world: World, step: dict[str, Any]) -> str:
    """The code with which a run of one agent fails."""
    ref = await run_of(world, step)
    run = await world.run(ref)
    assert (run["status"], run["in_flight"]) == ("failed", 0)
    assert (await world.executions(ref))["s01"]["error"] == run["error"]
    assert await world.idle(ref)
    return str(run["error"]["code"])


async def test_an_agent_calls_tools_and_ends_with_an_answer(tmp_path: Path) -> None:
    """Guards the whole of it: each call is its own execution, results reach the model, the answer flows on."""
    play = Play(main=[calls(echo("a"), echo({"b": 1}), text="Let me see."), calls(echo("c")), "The answer."])
    async with open_world(tmp_path, play.script) as world:
        step = agent(name="think", instructions="main {{input.how}}", input="About {{input.what}}", tools=ECHO)
        save = {"kind": "write_artifact", "path": "a.md", "content": "{{steps.think.output}}"}
        ref = await run_of(world, step, save, how="well", what="cats")
        run, tree = await world.run(ref), await world.executions(ref)
    assert run["status"] == "completed"
    assert run["counts"] == {**dict.fromkeys(run["counts"], 0), "total": len(tree), "completed": len(tree)}
    nodes = {path: (one["kind"], one["parent"], one["depth"], one["output_preview"]) for path, one in tree.items()}
    assert nodes.pop("s02")
    assert {path: facts[:3] for path, facts in nodes.items()} == {
        "s01": ("step", None, 0),
        **{f"s01.t0{turn}.m": ("model_call", "s01", 1) for turn in (1, 2, 3)},
        **dict.fromkeys(("s01.t01.c0", "s01.t01.c1", "s01.t02.c0"), ("tool_call", "s01", 1)),
    }
    assert nodes["s01"][3] == "The answer."
    assert json.loads(nodes["s01.t01.m"][3])["text"] == "Let me see."
    first, second, third = play.requests["main"]
    assert [message["content"] for message in first.messages] == ["main well", "About cats"]
    assert [tool["function"]["name"] for tool in first.tools] == ["echo"]
    assert results(second) == ["a", '{"b":1}']
    assert third.messages[: len(second.messages)] == second.messages
    assert results(third)[-1] == "c"


async def test_a_sub_agent_works_in_its_own_nodes_and_answers_its_caller(tmp_path: Path) -> None:
    """Guards sub-agents: own instructions and turns, nothing of the caller's transcript, the answer as a tool's result."""
    play = Play(
        main=[calls(("checker", {"input": "Is it so?"}), echo("x")), "Done."],
        checker=[calls(("digger", {"input": "Dig."})), "It is so."],
        digger=[calls(echo("deep")), "Found."],
    )
    async with open_world(tmp_path, play.script) as world:
        digger = sub_agent("digger", tools=ECHO)
        ref = await run_of(world, agent(tools=ECHO, agents=[sub_agent("checker", agents=[digger])]))
        run, tree = await world.run(ref), await world.executions(ref)
    assert run["status"] == "completed"
    assert run["counts"]["completed"] == run["counts"]["total"] == len(tree)
    kinds = {path: (one["kind"], one["name"], one["parent"]) for path, one in tree.items()}
    assert kinds["s01.t01.c0"] == ("agent", "checker", "s01")
    assert kinds["s01.t01.c0.t01.c0"] == ("agent", "digger", "s01.t01.c0")
    assert kinds["s01.t01.c0.t01.c0.t01.c0"] == ("tool_call", "echo", "s01.t01.c0.t01.c0")
    assert results(play.requests["main"][1]) == ["It is so.", "x"]
    assert results(play.requests["checker"][1]) == ["Found."]
    assert [message["content"] for message in play.requests["checker"][0].messages] == ["checker", "Is it so?"]
    assert tree["s01.t01.c0"]["input_preview"] == "Is it so?"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("no_such_tool", {}), "tool_unknown"),
        (("fetch_url", {"url": "http://x.test/"}), "tool_unknown"),
        (("", {}), "tool_unknown"),
        (("echo", "{not json"), "tool_arguments_invalid"),
        (("echo", "[1]"), "tool_arguments_invalid"),
        (("echo", {}), "tool_arguments_invalid"),
        (("sleep", {"seconds": "1"}), "tool_arguments_invalid"),
        (("read_document", {"name": "none.txt"}), "document_missing"),
        (("helper", {"text": "x"}), "tool_arguments_invalid"),
        (("helper", "{"), "tool_arguments_invalid"),
    ],
)
async def test_a_call_that_is_wrong_is_an_error_for_the_model_and_the_agent_goes_on(
    call: tuple[str, Any], code: str, tmp_path: Path
) -> None:
    """Guards against a model's slip ending a run, and against a tool that this agent wasn't given."""
    play = Play(main=[calls(call, echo("fine")), "Well."], helper=["never"])
    tools = ["echo", "sleep", "read_document"]
    async with open_world(tmp_path, play.script) as world:
        ref = await run_of(world, agent(tools=tools, agents=[sub_agent("helper")]))
        tree = await world.executions(ref)
        assert (await world.run(ref))["status"] == "completed"
    assert (tree["s01.t01.c0"]["status"], tree["s01.t01.c0"]["error"]["code"]) == ("failed", code)
    told = results(play.requests["main"][1])
    assert (json.loads(told[0])["error"]["code"], told[1]) == (code, "fine")
    assert "helper" not in play.requests
    for message in play.requests["main"][1].messages:
        for one in message.get("tool_calls", ()):  # endpoints refuse a request that echoes nonsense
            assert one["function"]["name"]
            assert isinstance(json.loads(one["function"]["arguments"]), dict)


async def test_a_sub_agent_that_fails_is_an_error_for_its_caller(tmp_path: Path) -> None:
    """Guards that a failure stays where it is, as that of a tool does."""
    play = Play(main=[calls(("checker", {"input": "x"})), "Without it."], checker=[calls(echo(1))])
    async with open_world(tmp_path, play.script) as world:
        ref = await run_of(world, agent(agents=[sub_agent("checker", tools=ECHO, max_turns=2)]))
        tree = await world.executions(ref)
        assert (await world.run(ref))["status"] == "completed"
    assert tree["s01.t01.c0"]["error"]["code"] == "agent_turn_limit"
    assert json.loads(results(play.requests["main"][1])[0])["error"]["code"] == "agent_turn_limit"


async def test_an_agent_stops_at_its_turn_limit_without_making_the_last_calls(tmp_path: Path) -> None:
    """Guards against a model that never comes to an end; the calls of the last turn could help nobody."""
    numbered = [calls(echo(number)) for number in range(10)]
    async with open_world(tmp_path, Play(main=numbered).script) as world:
        ref = await run_of(world, agent(tools=ECHO, max_turns=3))
        assert (await world.run(ref))["error"]["code"] == "agent_turn_limit"
        assert sorted(await world.executions(ref)) == [
            "s01", "s01.t01.c0", "s01.t01.m", "s01.t02.c0", "s01.t02.m", "s01.t03.m",
        ]  # fmt: skip


async def test_a_model_that_makes_the_same_calls_again_and_again_is_told_and_then_stopped(tmp_path: Path) -> None:
    """Guards against a loop that costs."""
    play = Play(main=[calls(echo(1))])
    async with open_world(tmp_path, play.script) as world:
        assert await error_of(world, agent(tools=ECHO, max_turns=50)) == "agent_loop"
    assert len(play.requests["main"]) == 5
    assert results(play.requests["main"][-1])[:3] == ["1", "1", "1"]
    assert results(play.requests["main"][-1])[3].startswith("Not called")


async def test_the_same_calls_with_other_results_are_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an agent that asks again and again whether something is ready."""
    monkeypatch.setattr(registry, "_tools", dict(registry._tools))
    looks: list[int] = []

    @registry.tool
    def progress() -> int:
        """Tell how far it is."""
        looks.append(1)
        return len(looks)

    look = calls(("progress", {}))
    async with open_world(tmp_path, Play(main=[look] * 7 + ["Ready."]).script) as world:
        ref = await run_of(world, agent(tools=["progress"]))
        assert (await world.run(ref))["status"] == "completed"
    assert len(looks) == 7


async def test_a_model_that_heeds_the_warning_goes_on(tmp_path: Path) -> None:
    """Guards that being told is no verdict."""
    same = calls(echo(1))
    async with open_world(tmp_path, Play(main=[same, same, same, same, "Enough."]).script) as world:
        ref = await run_of(world, agent(tools=ECHO))
        tree = await world.executions(ref)
        assert (await world.run(ref))["status"] == "completed"
        assert "s01.t03.c0" in tree
        assert "s01.t04.c0" not in tree


async def test_calls_beyond_a_turns_limit_are_not_made_and_the_model_is_told(tmp_path: Path) -> None:
    """Guards breadth."""
    play = Play(main=[calls(*(echo(number) for number in range(5))), "Done."])
    async with open_world(tmp_path, play.script, agent_calls_max="2") as world:
        ref = await run_of(world, agent(tools=ECHO))
        assert (await world.run(ref))["counts"]["total"] == 5
    told = results(play.requests["main"][1])
    assert told[:2] == ["0", "1"]
    assert all(one.startswith("Not called: too many") for one in told[2:])
    assert len(told) == 5


async def test_a_run_that_grew_too_large_goes_no_further(tmp_path: Path) -> None:
    """Guards against agents that call agents that call agents."""
    play = Play(main=[calls(*(("helper", {"input": str(i)}) for i in range(4)))], helper=[calls(echo(1), echo(2))])
    async with open_world(tmp_path, play.script, executions_max="12") as world:
        ref = await run_of(world, agent(agents=[sub_agent("helper", tools=ECHO)]))
        run = await world.run(ref)
        assert run["error"]["code"] == "run_too_large"
        assert run["counts"]["total"] < 12 + 4 * 4  # each of the four may have been on its way


@pytest.mark.parametrize(
    ("answer", "options", "code"),
    [
        (ModelAnswer("Cut", "length", None, "m"), {}, "model_truncated"),
        (calls(echo(1), reason="length"), {}, "model_truncated"),
        (calls(echo(1), tokens=60), {"max_total_tokens": 50}, "agent_token_limit"),
        (ModelAnswer("Cut", "length", {"total_tokens": 60}, "m"), {"max_total_tokens": 50}, "agent_token_limit"),
        (calls(echo("x" * 4000)), {"max_total_tokens": 1000}, "agent_token_limit"),
        (calls(echo("x" * 4000)), {"max_turns": 1}, "agent_turn_limit"),
    ],
)
async def test_limits_end_an_agent_with_a_code(
    answer: ModelAnswer, options: dict[str, Any], code: str, tmp_path: Path
) -> None:
    """Guards bounds on what an agent may cost, also where the endpoint doesn't count tokens."""
    async with open_world(tmp_path, Play(main=[answer]).script) as world:
        assert await error_of(world, agent(tools=ECHO, **options)) == code


async def test_the_tokens_that_are_left_bound_the_next_answer(tmp_path: Path) -> None:
    """Guards that a budget isn't overrun by one long answer."""
    play = Play(main=[calls(echo(1), tokens=70), "Done."])
    async with open_world(tmp_path, play.script) as world:
        await run_of(world, agent(tools=ECHO, max_tokens=90, max_total_tokens=100))
    assert [request.max_tokens for request in play.requests["main"]] == [90, 30]


@pytest.mark.parametrize("code", ["model_refused", "model_filtered", "model_rejected"])
async def test_a_model_that_will_not_answer_fails_the_agent_with_its_reason(code: str, tmp_path: Path) -> None:
    """Guards that a refusal is told as it is, and at once."""

    async def refuse(_request: Any) -> str:
        raise StepFailed(code, "no")

    play = Play(main=[refuse])
    async with open_world(tmp_path, play.script) as world:
        assert await error_of(world, agent()) == code
    assert len(play.requests["main"]) == 1


async def test_a_model_call_that_fails_retryably_is_tried_again_with_the_same_transcript(tmp_path: Path) -> None:
    """Guards retries within a turn: nothing is called twice, and the model is told the same."""
    tries: list[Any] = []

    async def flaky(request: Any) -> str:
        tries.append(request.messages)
        if len(tries) == 1:
            raise StepFailed("model_unavailable", "down", retryable=True)
        return "Done."

    async with open_world(tmp_path, Play(main=[calls(echo(1)), flaky]).script) as world:
        ref = await run_of(world, agent(tools=ECHO, retries={"max": 1, "backoff_seconds": 0.01}))
        tree = await world.executions(ref)
        assert (await world.run(ref))["status"] == "completed"
    assert tries[0] == tries[1]
    assert (tree["s01.t02.m"]["attempt"], tree["s01.t01.c0"]["attempt"]) == (2, 1)


SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["true", "false"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


async def test_an_answer_that_does_not_match_its_schema_is_sent_back(tmp_path: Path) -> None:
    """Guards structured answers: what is kept matches, is JSON for later steps, and a fenced block is forgiven."""
    play = Play(main=["It is true.", '{"verdict": "maybe"}', '```json\n{"verdict": "true"}\n```'])
    async with open_world(tmp_path, play.script) as world:
        say = {"kind": "tool", "tool": "echo", "arguments": {"value": "{{steps.check.output.verdict}}"}}
        ref = await run_of(world, agent(name="check", output_schema=SCHEMA), say)
        tree = await world.executions(ref)
        assert (await world.run(ref))["status"] == "completed"
    assert json.loads(tree["s01"]["output_preview"]) == {"verdict": "true"}
    assert tree["s02"]["output_preview"] == "true"
    assert json.dumps(SCHEMA) in play.requests["main"][0].messages[0]["content"]
    told = [message["content"] for message in play.requests["main"][2].messages if message["role"] == "user"][1:]
    assert "not JSON" in told[0]
    assert "verdict" in told[1]


async def test_an_answer_that_never_matches_fails_after_two_corrections(tmp_path: Path) -> None:
    """Guards against paying for ever."""
    play = Play(main=["No."])
    async with open_world(tmp_path, play.script) as world:
        assert await error_of(world, agent(output_schema=SCHEMA)) == "agent_answer_invalid"
    assert len(play.requests["main"]) == 3


async def test_an_agent_past_its_deadline_fails_and_so_does_what_is_below_it(tmp_path: Path) -> None:
    """Guards the deadline of all turns together; a sub-agent has no longer than its caller."""
    sleep = calls(("sleep", {"seconds": 30}))
    play = Play(main=[calls(("helper", {"input": "x"}))], helper=[sleep])
    async with open_world(tmp_path, play.script) as world:
        step = agent(timeout_seconds=0.3, agents=[sub_agent("helper", tools=["sleep"])])
        assert await error_of(world, step) == "timeout"


async def test_a_template_that_names_nothing_fails_the_agent(tmp_path: Path) -> None:
    """Guards what only the run can know."""
    async with open_world(tmp_path, Play(main=["x"]).script) as world:
        assert await error_of(world, agent(input="{{input.missing}}")) == "template_unknown_path"


async def test_large_texts_pass_by_reference(tmp_path: Path) -> None:
    """Guards the 16 KB limit of documents: results, arguments and answers are whole for the model and the next step."""
    large = "é" * 30_000
    play = Play(main=[calls(echo(large)), large])
    async with open_world(tmp_path, play.script) as world:
        save = {"kind": "write_artifact", "path": "all.txt", "content": "{{steps.step0.output}}"}
        ref = await run_of(world, agent(tools=ECHO), save)
        tree = await world.executions(ref)
        blob = await world.services.blobs.get(tree["s02"]["side_effects"][0]["ref"])
    assert results(play.requests["main"][1]) == [large]
    assert blob.data.decode() == large
    assert all(len(json.dumps(one)) < 120_000 for one in tree.values())
