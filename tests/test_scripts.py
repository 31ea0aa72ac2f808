"""The scripts stop, and say why, where they can't do what they are for."""

import os
import pathlib
import shutil
import subprocess
import sys

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def executable(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def test_what_is_not_committed_is_not_left_behind(tmp_path):
    there = tmp_path / "checkout" / "scripts" / "launch"
    there.mkdir(parents=True)
    script = shutil.copy(SCRIPTS / "launch" / "cloud_tpu.sh", there)
    executable(tmp_path / "bin" / "gcloud", "echo called >&2")
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, *words], cwd=there, check=True)

    def launch():
        words = ["bash", script, "name", "zone", "--config", "a.yaml"]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    git("init", "--quiet", str(tmp_path / "checkout"))
    git("add", "-A", ".")
    git("commit", "--quiet", "-m", "all")
    assert "called" in launch().stderr
    (there / "edited").touch()
    stopped = launch()
    assert stopped.returncode == 2
    assert "error: the hosts get the last commit" in stopped.stderr
    assert "called" not in stopped.stderr


def test_an_installation_that_fails_is_not_taken_for_one_that_is_there(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    makes_one_that_fails = (
        "case $1 in\n"
        "-m) mkdir -p .venv/bin; printf '#!/bin/sh\\nexit 1' > .venv/bin/python;\n"
        "chmod +x .venv/bin/python; touch .venv/bin/activate;;\n"
        "esac"
    )
    python = executable(tmp_path / "python", makes_one_that_fails)
    code = f". {SCRIPTS / 'environment.sh'}; if environment; then echo ready; fi"
    ended = subprocess.run(
        ["bash", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": python},
        capture_output=True,
        text=True,
    )
    assert "Installing" in ended.stdout
    assert "ready" not in ended.stdout
    assert not (tmp_path / ".venv" / "installed").exists()


def test_a_mistake_is_one_line():
    ended = subprocess.run(
        [sys.executable, SCRIPTS / "unjudged_texts.py", "--config", "no/such.yaml"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "no/such.yaml" in ended.stderr
    assert ended.stderr.count("\n") == 1
