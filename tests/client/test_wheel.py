"""The wheel that people install, in an environment that has nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.host import ROOT

PIP_SECONDS = 180


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints; it must end with `code`."""
    done = subprocess.run([*command], cwd=cwd, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_the_wheel_works_where_nothing_else_is_installed(tmp_path: Path, server: str, user: str) -> None:
    """Guards packaging: every module and the type marker are in it, and neither the app nor Azure is needed."""
    source = tmp_path / "source"  # a copy, since building leaves folders behind
    shutil.copytree(ROOT / "truestop", source / "truestop")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("truestop-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv/bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[cli]", cwd=tmp_path)
    script = (
        "import importlib.resources as r, importlib.util as u, truestop;"
        f"c = truestop.Client({server!r}, user={user!r});"
        "print(c.me()['id'], r.files('truestop').joinpath('py.typed').is_file());"
        "print(u.find_spec('shared'), u.find_spec('azure'))"
    )
    assert run(programs / "python", "-c", script, cwd=tmp_path).split() == [user, "True", "None", "None"]
    command = [programs / "truestop", "workflows", "list", "--json", "--server", server, "--user", user]
    assert run(*command, cwd=tmp_path).strip() == "[]"
    assert "run it in the app's folder" in run(
        programs / "python", "-m", "truestop.admin", "init", cwd=tmp_path, code=1
    )
