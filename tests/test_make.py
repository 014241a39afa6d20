"""The two commands: what they do when the machine lacks something, and what `.ci/run` calls."""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A clone without .venv: the files that `make` reads before there is one."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "TORCH"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True)


def pretender(folder: Path, body: str) -> str:
    """An interpreter that answers as the test says."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("target", ["test", "figures"])
def test_a_missing_python_is_named_with_its_remedy(fresh, target):
    done = make(fresh, target, "PYTHON=python-of-nowhere")
    assert done.returncode != 0
    assert "no 'python-of-nowhere' on the PATH: install Python 3.11 or newer" in done.stderr
    assert not (fresh / ".venv").exists()


def test_an_old_python_is_named_with_its_remedy(fresh):
    done = make(fresh, "test", f"PYTHON={pretender(fresh, 'exit 1')}")
    assert done.returncode != 0
    assert "is older than 3.11: name a newer one" in done.stderr
    assert not (fresh / ".venv").exists()


def test_a_python_without_venv_is_named_with_its_remedy(fresh):
    without = pretender(fresh, 'case "$2" in *venv*) exit 1;; *) exit 0;; esac')
    done = make(fresh, "test", f"PYTHON={without}")
    assert done.returncode != 0
    assert "has no venv module: install it (Debian and Ubuntu: apt install python3-venv)" in done.stderr
    assert not (fresh / ".venv").exists()


def test_the_pinned_torch_is_installed_first_and_its_cpu_build_when_asked(fresh):
    plain, cpu = make(fresh, "-n", "test").stdout, make(fresh, "-n", "test", "TORCH=cpu").stdout
    for plan in (plain, cpu):
        torch, everything = (line for line in plan.splitlines() if "pip install" in line)
        assert " torch -c constraints.txt" in torch
        assert "-e '.[dev]' -c constraints.txt" in everything
    assert "--index-url" not in plain
    assert "/whl/cpu" in cpu
    assert "torch==2.13.0" in (PROJECT / "constraints.txt").read_text().splitlines()


def test_ci_runs_the_readmes_own_command_with_the_kernels_tests_switched_on():
    commands = [line for line in (PROJECT / ".ci" / "run").read_text().splitlines() if line and line[0] != "#"]
    assert commands[-1] == "exec make test"
    assert any("pip install" in line and "-e '.[gpu]' -c constraints.txt" in line for line in commands[:-1])
    assert "\nmake test" in (PROJECT / "README.md").read_text()


def test_every_declared_dependency_is_pinned():
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {one.split(">")[0].split("=")[0].split("<")[0].strip().lower().replace("_", "-") for one in wanted}
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert names <= pinned
