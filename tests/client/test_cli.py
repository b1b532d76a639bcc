"""Every command as a script calls it, and what help says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import truestop
from tests.client.conftest import LONG, QUICK, Shell, Steps, model, wait_for_step, wait_for_text
from tests.support.host import ROOT
from truestop.cli.app import app
from truestop.cli.session import Exit


def unwrapped(box: str) -> str:
    """What a message says, without its frame and the places where it was wrapped."""
    return "".join(box.replace("│", "").split())


def test_workflows_from_a_script(shell: Shell, tmp_path: Path) -> None:
    """Guards each command of `workflows`: by id and by name, from a file and from stdin, as text and as JSON."""
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"name": "Mine [bold]", "steps": [{"name": "s", **QUICK}]}))
    made = shell("workflows", "create", str(file)).stdout.strip()
    assert [one["id"] for one in shell.json("workflows", "list", "--search", "Mine")] == [made]
    assert "Mine [bold]" in shell("workflows", "list").stdout
    assert shell.json("workflows", "show", "Mine [bold]")["id"] == made
    assert "s (model)" in shell("workflows", "show", made).stdout
    assert shell.json("workflows", "disable", made)["enabled"] is False
    assert "disabled" in shell("workflows", "list").stdout
    assert "is enabled" in shell("workflows", "enable", made).stderr
    changed = json.dumps({"name": "Other", "steps": [{"name": "s", **QUICK}]})
    assert shell.json("workflows", "edit", made, "-", input=changed)["name"] == "Other"
    assert "say --yes" in shell("workflows", "delete", made, code=Exit.USAGE).stderr
    assert "no terminal" in shell("workflows", "edit", made, code=Exit.USAGE).stderr
    shell("workflows", "delete", "Other", "--yes")
    assert shell.json("workflows", "list") == []
    shell("workflows", "show", made, code=Exit.NOT_FOUND)


def test_a_run_from_a_script(shell: Shell, workflow: Steps) -> None:
    """Guards start, list, show, events and watch of a run that completes, and their exit codes."""
    made = workflow(QUICK, name="Quick")
    run_id = shell("run", "start", "Quick", "--run-id", "mine").stdout.strip()
    assert run_id == "mine"
    assert shell("run", "start", "Quick", "--run-id", "mine").stdout.strip() == "mine"
    watched = shell("run", "watch", "Quick", "mine")
    assert "run.completed" in watched.stdout
    assert "forty two" in watched.stdout
    assert "\x1b" not in watched.stdout
    assert [one["id"] for one in shell.json("run", "list", made.id)] == ["mine"]
    assert "completed" in shell("run", "list", made.id, "--status", "completed").stdout
    assert shell.json("run", "show", made.id)["output_preview"] == "forty two"
    assert "forty two" in shell("run", "show", made.id, "mine").stdout
    events = [json.loads(line) for line in shell("run", "events", made.id, "--json").stdout.splitlines()]
    assert events[-1]["type"] == "run.completed"
    rest = shell("run", "events", made.id, "mine", "--after", events[0]["id"]).stdout.splitlines()
    assert len(rest) == len(events) - 1
    changes = [json.loads(line) for line in shell("run", "watch", made.id, "--json").stdout.splitlines()]
    assert {name for change in changes for name in change} == {"run", "execution", "event"}
    waited = shell.json("run", "start", made.id, "--wait", "--input", '{"x": 1}')
    assert (waited["status"], waited["input"]) == ("completed", {"x": 1})
    assert shell.json("run", "start", made.id, "--wait", "--input", "@-", input="[1]")["input"] == [1]
    shell("run", "receipt", made.id, code=Exit.NOT_FOUND)
    shell("run", "cancel", made.id, code=Exit.REFUSED)
    assert "not JSON" in shell("run", "start", made.id, "--input", "{", code=Exit.USAGE).stderr


def test_a_failed_run_and_a_resumed_one(shell: Shell, workflow: Steps) -> None:
    """Guards the exit code 3, and resume."""
    made = workflow(QUICK, model("[[status=400]]"))
    failed = shell("run", "start", made.id, "--wait", code=Exit.FAILED)
    assert "model_rejected" in failed.stdout
    again = shell("run", "resume", made.id, "--items", "failed").stdout.strip()
    shell("run", "watch", made.id, again, code=Exit.FAILED)
    assert shell.json("run", "resume", made.id, "--from-step", "s1")["resumed_from"] == again


def test_cancels_from_a_script(shell: Shell, workflow: Steps, client: truestop.Client) -> None:
    """Guards cancel, cancel-tree, receipt, and a narrow cancel that says what goes on and how to stop that."""
    made = workflow(LONG, LONG, name="Long")
    run = client.start(made.id)
    wait_for_text(run)
    listed = shell("executions", "list", "Long")
    assert "s01.m " in listed.stdout
    assert f"truestop executions cancel {run.id}:PATH" in listed.stderr
    narrow = shell("executions", "cancel", f"{run.id}:s01", "-m", "not this")
    assert "Only that was stopped: the run goes on" in narrow.stderr
    whole = narrow.stderr.splitlines()[-1].partition("truestop ")[2].split()
    assert whole == ["run", "cancel", made.id, run.id]
    wait_for_step(run, "s02.m")
    receipt = shell.json(*whole, "--reason", "all of it", "--wait")
    assert (receipt["status"], receipt["source"], receipt["reason"]) == ("cancelled", "cli", "all of it")
    assert "all of it" in shell("run", "receipt", "Long").stdout
    shell("run", "watch", "Long", run.id, code=Exit.CANCELLED)
    assert {one["path"] for one in shell.json("executions", "list", made.id, run.id)} >= {"s01", "s02"}
    other = client.start(made.id)
    wait_for_text(other)
    tree = shell("run", "cancel-tree", "Long")
    assert f"{other.id}:s01.m" in tree.stdout
    assert "cancelled, " in tree.stderr
    assert other.wait(20).status == "cancelled"


def test_groups_from_a_script(shell: Shell, user: str) -> None:
    """Guards each command of `groups`, and `--group`."""
    group = shell("groups", "create", "Team").stdout.strip()
    assert "u-other" in shell("groups", "add", group, "u-other", "User").stdout
    assert shell.json("groups", "rename", group, "Crew")["name"] == "Crew"
    assert "Owner" in shell("groups", "list").stdout
    assert len(shell.json("groups", "show", group)["members"]) == 2
    shell("groups", "remove", group, "u-other")
    shell("groups", "use", group)
    assert shell.json("status")["me"]["active_group"] == group
    definition = json.dumps({"name": "Ours", "steps": [{"name": "s", **QUICK}]})
    shell("workflows", "create", "-", "--group", group, input=definition)
    assert [one["name"] for one in shell.json("--group", group, "workflows", "list")] == ["Ours"]
    assert shell.json("workflows", "list") == []
    assert "say --yes" in shell("groups", "delete", group, code=Exit.USAGE).stderr
    shell("groups", "delete", group, "--yes")
    assert shell.json("groups", "list") == []


def test_operators_from_a_script(shell: Shell, user: str, workflow: Steps, client: truestop.Client) -> None:
    """Guards each command of `admin`, and that others may not."""
    operator = f"{user}-op;Op;roles=Truestop.Admin"
    made = workflow(LONG)
    run = client.start(made.id)
    wait_for_text(run)
    shell("admin", "runs", code=Exit.NOT_ALLOWED)
    assert run.id in shell("admin", "runs", "--user", operator, "--scope", f"user:{user}").stdout
    found = shell.json("admin", "runs", "--user", operator, "--workflow", made.id, "--status", "running")
    assert [one["id"] for one in found] == [run.id]
    assert shell.json("admin", "wedged", "--user", operator)["cancelling"] == []
    shell("admin", "wedged", "--user", operator)
    shell("admin", "cancel", "-m", "why", "--user", operator, code=Exit.USAGE)
    refused = shell("admin", "cancel", "-m", "why", "--workflow", made.id, "--user", operator, code=Exit.USAGE)
    assert "say --yes" in refused.stderr
    done = shell("admin", "cancel", "-m", "too long", "--workflow", made.id, "--yes", "--user", operator)
    assert run.id in done.stdout
    assert run.wait(20).cancel.source == "admin"
    late = shell.json("admin", "cancel", run.id, "-m", "again", "--user", operator)
    assert late["results"][0]["run_id"] == run.id
    shell("admin", "cancel", "no-such-run", "-m", "x", "--user", operator, code=Exit.REFUSED)


def test_keys_from_a_script(shell: Shell, workflow: Steps) -> None:
    """Guards each command of `keys`: a key is shown once, does what it is for, and nothing once it is revoked."""
    made = workflow(QUICK)
    key = shell("keys", "create", "ci", "--allow", "start", "--allow", "read", "--days", "7").stdout.strip()
    (known,) = shell.json("keys", "list")
    assert sorted(known["allows"]) == ["read", "start"]
    assert key not in shell("keys", "list").stdout
    person = shell.environment.pop("TRUESTOP_USER")
    assert "forty two" in shell("run", "start", made.id, "--wait", "--token", key).stdout
    shell("workflows", "disable", made.id, "--token", key, code=Exit.NOT_ALLOWED)
    shell.environment["TRUESTOP_USER"] = person
    shell("keys", "revoke", known["id"])
    assert shell.json("keys", "list") == []
    del shell.environment["TRUESTOP_USER"]
    shell("run", "list", made.id, "--token", key, code=Exit.NOT_ALLOWED)


def test_status_and_refusals(shell: Shell, workflow: Steps, client: truestop.Client, user: str) -> None:
    """Guards `status`, what is said of problems, and their exit codes."""
    run = client.start(workflow(LONG, name="Busy").id)
    said = shell("status").stdout
    assert user in said
    assert f"Busy (run {run.id})" in said
    busy = shell("run", "start", "Busy", "--json", code=Exit.REFUSED)
    assert json.loads(busy.stderr)["active_run_id"] == run.id
    run.cancel()
    assert "TRUESTOP_USER" not in shell("workflows", "show", "no such", code=Exit.NOT_FOUND).output
    anonymous = shell("workflows", "list", "--user", "not a;valid;user", code=Exit.NOT_ALLOWED)
    assert "--token" in anonymous.stderr
    assert "field" not in shell("workflows", "list", "--status", "odd", code=Exit.USAGE).stderr
    assert "address" in shell("status", "--server", "nowhere", code=Exit.USAGE).stderr
    shell("run", "start", code=Exit.USAGE)
    shell("status", "--server", "http://127.0.0.1:9", code=Exit.UNREACHABLE)


def test_the_config_file_is_below_the_environment_and_options(shell: Shell, server: str) -> None:
    """Guards who wins, and that a bad file is named."""
    file = Path(shell.environment["TRUESTOP_CONFIG"])
    file.write_text(f'server = "{server}"\nuser = "from-file"\n')
    del shell.environment["TRUESTOP_USER"], shell.environment["TRUESTOP_SERVER"]
    assert shell.json("status")["me"]["id"] == "from-file"
    shell.environment["TRUESTOP_USER"] = "from-environment"
    assert shell.json("status")["me"]["id"] == "from-environment"
    assert shell.json("status", "--user", "from-option")["me"]["id"] == "from-option"
    assert shell.json("--user", "from-front", "status")["me"]["id"] == "from-front"
    for text in ("server = 7", "sever = 'x'", "server ="):
        file.write_text(text)
        assert "config.toml" in unwrapped(shell("status", code=Exit.USAGE).stderr)


def every_command() -> list[list[str]]:
    """The paths of all commands and groups of commands."""

    def walk(command: Any, path: list[str]) -> list[list[str]]:
        inner = [one for name, child in getattr(command, "commands", {}).items() for one in walk(child, [*path, name])]
        return [path, *inner]

    return walk(typer.main.get_command(app), [])


def test_help_reads_well_at_80_columns(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards each command's help: it fits 80 columns, nothing is cut, and each command takes the common options."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    found = every_command()
    assert len(found) > 30
    for path in found:
        said = shell(*path, "--help").stdout
        assert max(map(len, said.splitlines())) <= 80, path
        assert "…" not in said.replace("01m…", ""), path
        if path and path[-1] not in ("workflows", "run", "executions", "groups", "admin", "keys"):
            assert "--json" in said, path
    assert "4 cancelled" in shell("--help").stdout


def test_completion_scripts_are_offered(shell: Shell) -> None:
    """Guards shell completion: a shell asks, and gets the commands."""
    asked = {"_TRUESTOP_COMPLETE": "complete_bash", "COMP_WORDS": "truestop run ca", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "truestop"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cancel", "cancel-tree"], done.stderr
