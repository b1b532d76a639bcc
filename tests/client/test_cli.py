"""Every command, as a script calls it and as a person does in a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

import truestop
from tests.client.conftest import Steps, model
from tests.client.terminal import CONTROL_C, Terminal, terminal
from tests.client.test_client import LONG, wait_for_step, wait_for_text
from tests.support.host import ROOT
from truestop.cli.app import app
from truestop.cli.session import Exit
from truestop.cli.watch import Picture

QUICK = model("[[say=forty two]]")


def unwrapped(box: str) -> str:
    """What a message says, without its frame and the places where it was wrapped."""
    return "".join(box.replace("│", "").split())


@dataclass
class Shell:
    """Calls commands without a terminal, as one user."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, code: int = 0, **more: Any) -> Result:
        """Call one in this process; it must end with `code`."""
        done = CliRunner().invoke(app, [*arguments], env=self.environment, **more)
        assert done.exit_code == code, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done

    def json(self, *arguments: str, code: int = 0, **more: Any) -> Any:
        """What one prints with `--json`."""
        return json.loads(self(*arguments, "--json", code=code, **more).stdout)


@pytest.fixture
def shell(server: str, user: str, tmp_path: Path) -> Shell:
    """A shell of that user, with no config file."""
    config = str(tmp_path / "config.toml")
    return Shell({"TRUESTOP_SERVER": server, "TRUESTOP_USER": user, "TRUESTOP_CONFIG": config, "NO_COLOR": ""})


@pytest.fixture
def person(shell: Shell) -> Callable[..., Any]:
    """Opens a terminal of the same user."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRUESTOP_")}
    inherited.pop("NO_COLOR", None)
    settings = {name: value for name, value in shell.environment.items() if name != "NO_COLOR"}

    def open_terminal(*arguments: str, **more: str) -> Any:
        return terminal([*arguments], {**inherited, **settings, **more})

    return open_terminal


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


def test_watching_in_a_terminal_shows_the_tree_and_the_text(
    person: Callable[..., Any], workflow: Steps, client: truestop.Client
) -> None:
    """Guards the live view: nodes, text as it streams, colours, and the end."""
    made = workflow(model("[[tokens=60 delay=20ms]] Tell me"), name="Told")
    client.documents.put("docs/a.txt", b"a")
    with person("run", "start", made.id, "--watch") as screen:
        screen.expect("s1  running")
        screen.expect("“Tell me”")
        screen.expect("completed")
        assert screen.ends() == Exit.OK
        assert "\x1b[3" in screen.raw


def test_ctrl_c_asks_and_leaving_stops_nothing(
    person: Callable[..., Any], workflow: Steps, client: truestop.Client
) -> None:
    """Guards the promise's other side: who only leaves doesn't stop the work; who watches on sees it again."""
    made = workflow(LONG)
    run = client.start(made.id)
    with person("run", "watch", made.id) as screen:
        screen.expect("s1  running")
        screen.press(CONTROL_C)
        screen.expect("Stop the run")
        screen.press("w\n")
        screen.expect("s1  running")
        screen.press(CONTROL_C)
        screen.expect("Stop the run")
        screen.press("\n")
        screen.expect(f"truestop run cancel {made.id} {run.id}")
        assert screen.ends() == Exit.INTERRUPTED
    assert run.refresh().status == "running"
    with person("run", "watch", made.id) as screen:
        screen.expect("s1  running")
        screen.press(CONTROL_C)
        screen.expect("Stop the run")
        screen.press("s\n")
        screen.expect("Stopping")
        screen.expect("asked by")
        assert screen.ends() == Exit.CANCELLED
    assert run.refresh().cancel.source == "cli"


def test_ctrl_c_without_a_terminal_leaves_at_once(shell: Shell, workflow: Steps, client: truestop.Client) -> None:
    """Guards scripts: an interrupt ends the command with 130 and the run goes on."""
    made = workflow(LONG)
    run = client.start(made.id)
    command = [sys.executable, "-m", "truestop", "run", "watch", made.id]
    environment = {**os.environ, **shell.environment}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "execution.started" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == Exit.INTERRUPTED
    assert run.refresh().status == "running"
    run.cancel()


COMMANDS = (
    ("status",),
    ("workflows", "list"),
    ("workflows", "show", "W"),
    ("workflows", "disable", "W"),
    ("workflows", "enable", "W"),
    ("run", "list", "W"),
    ("run", "show", "W"),
    ("run", "receipt", "W"),
    ("run", "events", "W"),
    ("executions", "list", "W"),
    ("groups", "list"),
    ("keys", "list"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_in_a_terminal(
    arguments: tuple[str, ...], person: Callable[..., Any], cancelled: truestop.Run, cancelled_user: str
) -> None:
    """Guards what people see: it fits the terminal, ids are whole, and nothing is JSON."""
    with person(*arguments, TRUESTOP_USER=cancelled_user) as screen:
        assert screen.ends() == Exit.OK, screen.text
        assert "Traceback" not in screen.text
        assert "{" not in screen.text.replace('{"kind": "manual"}', "")
        if arguments[0] in ("run", "executions"):
            assert cancelled.id in screen.text or "run.cancelled" in screen.text


@pytest.fixture(scope="module")
def cancelled_user() -> str:
    """Who has a workflow `W` with a cancelled run."""
    return "u-terminal"


@pytest.fixture(scope="module")
def cancelled(server: str, cancelled_user: str) -> truestop.Run:
    """That run."""
    with truestop.Client(server, user=cancelled_user) as client:
        made = client.workflows.create({"name": "W", "steps": [{"name": "s", **LONG}]})
        run = client.start(made.id)
        wait_for_text(run)
        run.cancel("seen enough")
        run.wait(20)
        return run


def test_changing_things_in_a_terminal(
    person: Callable[..., Any], workflow: Steps, client: truestop.Client, tmp_path: Path
) -> None:
    """Guards what asks: the editor with its second chance, and the deletion that is thought better of."""
    made = workflow(QUICK, name="Before")
    editor = tmp_path / "editor.sh"
    editor.write_text(
        "#!/bin/sh\n"
        'if grep -q Before "$1"; then sed -i "s/Before/After/; s/model/modell/" "$1"\n'
        'else sed -i s/modell/model/ "$1"; fi\n'
    )
    editor.chmod(0o755)
    with person("workflows", "edit", made.id, EDITOR=str(editor)) as screen:
        screen.expect("Edit again?")
        screen.press("y\n")
        screen.expect("'After' is saved")
        assert screen.ends() == Exit.OK
    with person("workflows", "delete", made.id) as screen:
        screen.expect("Delete 'After'")
        screen.press("n\n")
        assert screen.ends() == Exit.REFUSED
    assert client.workflows.get(made.id).name == "After"
    with person("workflows", "delete", made.id) as screen:
        screen.expect("Delete 'After'")
        screen.press("y\n")
        assert screen.ends() == Exit.OK
    assert not list(client.workflows.list())


def test_cancelling_in_a_terminal(person: Callable[..., Any], workflow: Steps, client: truestop.Client) -> None:
    """Guards start, cancel, cancel-tree, resume and a narrow cancel as people see them."""
    made = workflow(LONG, LONG)
    with person("run", "start", made.id) as screen:
        screen.expect("Stop it:")
        assert screen.ends() == Exit.OK
    (run,) = client.runs.list(made.id)
    wait_for_step(run, "s01.m")
    with person("executions", "cancel", f"{run.id}:s01") as screen:
        screen.expect("Only that was stopped")
        assert screen.ends() == Exit.OK
    with person("run", "cancel", made.id, "--wait", "-m", "enough") as screen:
        screen.expect("enough")
        assert screen.ends() == Exit.OK
    with person("run", "resume", made.id) as screen:
        assert screen.ends() == Exit.OK
        assert client.workflows.get(made.id).runtime["active_run_id"] in screen.text
    with person("run", "cancel-tree", made.id) as screen:
        screen.expect("nodes:")
        assert screen.ends() == Exit.OK


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


def test_hostile_text_reaches_no_terminal(shell: Shell, workflow: Steps) -> None:
    """Guards terminals against what people and models write: no escape sequence passes, and markup is text."""
    made = workflow(model("[[say=\x1b]0;owned\x07[red]x]]"), name="Evil")
    shown = shell("run", "start", made.id, "--wait").stdout
    assert "\x1b" not in shown
    assert "[red]x" in shown


def test_the_terminal_of_the_tests_sees_what_is_typed() -> None:
    """Guards the other tests' terminal: a wrong expectation fails."""
    with terminal(["--version"], dict(os.environ)) as screen:
        assert isinstance(screen, Terminal)
        with pytest.raises(AssertionError, match="never showed"):
            screen.expect("no such words")


def test_a_large_fan_out_is_summed_up_and_what_matters_is_shown() -> None:
    """Guards the picture of a run with many items: it stays short, and shows what is at work or failed."""
    run = {**RUN, "status": "running"}
    picture = Picture(truestop.RunState.of(run))
    picture.executions["s01"] = _execution("s01", None, "step", "running")
    for number in range(1, 2001):
        path = f"s01.i{number:04}"
        state = "failed" if number == 1500 else "running" if number == 1600 else "completed"
        picture.executions[path] = _execution(path, "s01", "item", state)
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(picture)
    shown = captured.get()
    assert len(shown.splitlines()) < 20
    assert "1999/2000 ███████████████████░" in shown
    assert "s01.i1500  failed" in shown
    assert "s01.i1600  running" in shown
    assert "… and 1988 more" in shown


NOW = "2026-11-21T12:00:00.000Z"
RUN = dict.fromkeys(("id", "workflow_id", "scope"), "x") | {"status": "queued", "created_at": NOW}


def _execution(path: str, parent: str | None, kind: str, state: str) -> truestop.Execution:
    names = {"id": f"x:{path}", "path": path, "parent": parent, "kind": kind, "name": path, "status": state}
    ended = None if state == "running" else NOW
    return truestop.Execution.of({**names, "depth": 0, "attempt": 1, "started_at": NOW, "ended_at": ended})
