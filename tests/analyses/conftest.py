import importlib
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import analyses
from analyses.core import results
from analyses.core.cli import main

DOUBLING = '''"""Does doubling double?

A study whose answers are known.
"""

from dataclasses import dataclass

import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result


@dataclass(frozen=True)
class Model:
    factor: float = 2.0

    def __post_init__(self):
        if self.factor == 0:
            raise ValueError("factor=0 loses everything:\\n choose another")


@dataclass(frozen=True)
class Config:
    model: Model = Model()
    points: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "cpu"


QUICK = {"points": 2, "seeds": (0, 1)}
COLUMNS = {"seed": "seed", "x": "number before (1)", "y": "number after (1)"}


def ratio(result):
    return (result.table.y / result.table.x).groupby(result.table.seed).mean()


CLAIMS = (Claim("doubling doubles", "identity", "arithmetic", Bound(2, 2), ratio),)


def run(config):
    numbers = range(1, config.points + 1)
    rows = [{"seed": seed, "x": x, "y": config.model.factor * x} for seed in config.seeds for x in numbers]
    return Result(pd.DataFrame(rows), measured_with={"dtype": "float64"})
'''


class Studies:
    """A project in a temporary folder with studies of its own."""

    def __init__(self, root: Path):
        self.root = root
        self.results = root / "results"
        self.add("doubling", DOUBLING)

    def add(self, name: str, text: str, theme: str = "made_up") -> Path:
        path = self.root / "analyses" / theme / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return path


@pytest.fixture(scope="module")
def run_here(tmp_path_factory):
    """Run a study of `nets.seeds` in this process, since what is measured is tested, not the pool; trainings go to a
    folder of their own, and torch's generator must be left as it was."""

    def here(function, jobs, label):
        return [function(job) for job in jobs]

    def run_here(run, config):
        import torch

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("analyses.currying.nets.seeds.run_jobs", here)
            patch.setenv("WORKBENCH_RESULTS", str(tmp_path_factory.mktemp("results")))
            before = torch.random.get_rng_state()
            found = run(config)
            assert torch.equal(torch.random.get_rng_state(), before)
            return found

    return run_here


@pytest.fixture
def studies(tmp_path, monkeypatch):
    made = Studies(tmp_path / "project")
    before = set(sys.modules)
    monkeypatch.setattr(analyses, "__path__", [str(made.root / "analyses"), *analyses.__path__])
    # The studies of the project itself are none of these tests' business; `core` still imports.
    monkeypatch.setattr(
        "analyses.core.study.analyses", type("Package", (), {"__path__": [str(made.root / "analyses")]})
    )
    monkeypatch.setattr(results, "project_root", lambda: made.root)
    monkeypatch.delenv("WORKBENCH_RESULTS", raising=False)
    yield made
    for name in set(sys.modules) - before:
        if name.startswith("analyses.made_up"):
            del sys.modules[name]
    if hasattr(analyses, "made_up"):
        del analyses.made_up


@pytest.fixture
def call(studies):
    def call(*arguments):
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    return call


@pytest.fixture
def drawn(monkeypatch):
    """What is asked of figures.draw, which is not run."""
    calls = []

    def record(command):
        calls.append(command)
        return 3 if "broken" in command else 0

    monkeypatch.setattr("analyses.core.cli.subprocess.call", record)
    return calls


@pytest.fixture
def folder_of():
    """The folder of the one result of `doubling`."""

    def folder_of(studies):
        (folder,) = (studies.results / "doubling").iterdir()
        return folder

    return folder_of


@pytest.fixture
def one_line():
    """The message of a command that was refused: one line on stderr."""

    def one_line(answer, exit_code=2):
        assert answer.exit_code == exit_code
        assert answer.stdout == ""
        assert answer.stderr.count("\n") == 1
        assert answer.stderr.startswith("workbench: ")
        return answer.stderr

    return one_line
