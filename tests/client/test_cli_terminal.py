"""Commands as people see them: in a terminal, with keys that they press."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import truestop
from tests.client.conftest import LONG, QUICK, OpenTerminal, Shell, Steps, model, wait_for_step, wait_for_text
from tests.client.terminal import CONTROL_C, Terminal, terminal
from tests.support.host import ROOT
from truestop.cli.session import Exit
from truestop.cli.watch import Picture


def test_watching_in_a_terminal_shows_the_tree_and_the_text(
    person: OpenTerminal, workflow: Steps, client: truestop.Client
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


def test_ctrl_c_asks_and_leaving_stops_nothing(person: OpenTerminal, workflow: Steps, client: truestop.Client) -> None:
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
    arguments: tuple[str, ...], person: OpenTerminal, cancelled: truestop.Run, cancelled_user: str
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
    person: OpenTerminal, workflow: Steps, client: truestop.Client, tmp_path: Path
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


def test_cancelling_in_a_terminal(person: OpenTerminal, workflow: Steps, client: truestop.Client) -> None:
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


NOW = "2026-11-21T12:00:00.000Z"


RUN = dict.fromkeys(("id", "workflow_id", "scope"), "x") | {"status": "queued", "created_at": NOW}


def _execution(path: str, parent: str | None, kind: str, state: str) -> truestop.Execution:
    names = {"id": f"x:{path}", "path": path, "parent": parent, "kind": kind, "name": path, "status": state}
    ended = None if state == "running" else NOW
    return truestop.Execution.of({**names, "depth": 0, "attempt": 1, "started_at": NOW, "ended_at": ended})


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


def test_groups_keys_and_operators_in_a_terminal(person: OpenTerminal, user: str, tmp_path: Path) -> None:
    """Guards the remaining commands as people see them."""
    file = tmp_path / "one.json"
    file.write_text('{"name": "Mine", "steps": [{"kind": "model", "name": "s", "prompt": "x"}]}')
    operator = f"{user};Op;roles=Truestop.Admin"

    def see(*arguments: str, code: int = Exit.OK, keys: str = "") -> str:
        with person(*arguments, TRUESTOP_USER=operator) as screen:
            if keys:
                screen.expect("[y/N]")
                screen.press(keys)
            assert screen.ends() == code, screen.text
            return screen.text

    made = see("workflows", "create", str(file)).split()[-1]
    group = see("groups", "create", "Team").split()[-1]
    assert "u-other" in see("groups", "add", group, "u-other", "Admin")
    assert "Crew" in see("groups", "rename", group, "Crew")
    assert "Owner" in see("groups", "show", group)
    assert "no member any more" in see("groups", "remove", group, "u-other")
    assert "active group" in see("groups", "use", group)
    assert "deleted" in see("groups", "delete", group, keys="y\n")
    assert "truestop_" in see("keys", "create", "ci", "--allow", "read")
    assert "not_found" in see("keys", "revoke", "0" * 26, code=Exit.NOT_FOUND)
    assert "status" in see("admin", "runs", "--workflow", made)
    see("admin", "wedged")
    see("admin", "cancel", "--reason", "test", "--workflow", made, keys="y\n")
