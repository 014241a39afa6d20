"""A small copy of the house to draw in, and a reader who checks that every text can be read."""

import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analyses.core import results
from analyses.core.results import Result
from figures import draw, parts

PROJECT = Path(__file__).resolve().parents[2]
COLUMNS = {
    "model": "name of the model",
    "seed": "seed of the run",
    "step": "optimiser step",
    "loss": "cross-entropy on the second copy, nats",
    "score": "largest prefix score over the heads, fraction of attention",
}


def training(seeds: int = 5) -> pd.DataFrame:
    """Training runs in closed form: two models, each a little different per seed."""
    steps = np.arange(0, 2000, 200)
    return pd.concat(
        pd.DataFrame(
            {
                "model": model,
                "seed": seed,
                "step": steps,
                "loss": 4 * np.exp(-steps / (300 + 50 * seed)) + floor,
                "score": 1 / (1 + np.exp((800 + 40 * seed - steps) / 100)),
            }
        )
        for model, floor in (("2 layers", 0.0), ("1 layer", 1.0))
        for seed in range(seeds)
    ).reset_index(drop=True)


def store(folder: Path, profile: str = "full", **config: object) -> Result:
    """Save the training runs as a result of the study loss_vs_step;"""
    run = {"study": "loss_vs_step", "config": config, "profile": profile, "columns": COLUMNS}
    return results.save(Result(training()), folder, run)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh copy of the figures floor, without its themes, with one kept result, where torch and the lower floors
    cannot be imported."""
    root = tmp_path / "clone"
    folders = [one.name for one in (PROJECT / "figures").iterdir() if one.is_dir()]
    fresh = shutil.ignore_patterns("__pycache__", *folders)
    shutil.copytree(PROJECT / "figures", root / "figures", ignore=fresh)
    shutil.copytree(PROJECT / "analyses" / "core", root / "analyses" / "core", ignore=fresh)
    (root / "pyproject.toml").touch()
    (root / "analyses" / "__init__.py").touch()
    (root / "analyses" / "toy").mkdir()
    (root / "analyses" / "toy" / "loss_vs_step.py").write_text("raise RuntimeError('a study is found, not imported')\n")
    for forbidden in ("torch", "transformer_lens", "toy_models", "probes"):
        (root / f"{forbidden}.py").write_text(f"raise RuntimeError('figures must not import {forbidden}')\n")
    store(results.kept_folder("loss_vs_step", root))
    return root


@pytest.fixture
def kept(clone: Path) -> Result:
    """The kept result of the clone: five seeds of two models."""
    return results.load(results.kept_folder("loss_vs_step", clone))


@pytest.fixture
def add_result(clone: Path) -> Callable[..., Result]:
    """Save another working result: add_result(profile, **config)."""

    def add(profile: str, **config: object) -> Result:
        digits = results.config_hash("loss_vs_step", config)
        return store(results.result_folder("loss_vs_step", digits, clone / "results"), profile, **config)

    return add


@pytest.fixture
def inside(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone, as the house that this process draws in."""
    monkeypatch.chdir(clone)
    monkeypatch.delenv("WORKBENCH_RESULTS", raising=False)
    monkeypatch.setattr(draw, "HERE", clone / "figures")
    monkeypatch.setattr(results, "project_root", lambda: clone)
    return clone


@pytest.fixture(autouse=True)
def leaves_matplotlib_alone():
    before = mpl.rcParams.copy()
    yield
    assert {key for key, value in before.items() if mpl.rcParams._get(key) != value} <= {"backend", "backend_fallback"}


@pytest.fixture
def legible() -> Callable[[Figure], None]:
    """Check that every visible text lies inside the figure and covers no other text."""

    def check(figure: Figure) -> None:
        with parts.house_style():
            FigureCanvasAgg(figure).draw()
        page = figure.bbox.padded(0.5)
        boxes = [(text.get_text(), text.get_window_extent()) for text in _visible_texts(figure)]
        assert boxes
        clipped = [text for text, box in boxes if not (page.contains(*box.min) and page.contains(*box.max))]
        assert not clipped
        touching = [
            (a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.padded(-1).overlaps(other.padded(-1))
        ]
        assert not touching

    return check


def _visible_texts(figure: Figure) -> list[Text]:
    """Texts that are drawn: an axis also holds labels of ticks that lie outside its limits."""
    axes = [axis for axis in figure.findobj(Axis) if axis.axes.get_visible() and axis.get_visible()]
    of_an_axis = {text for axis in figure.findobj(Axis) for text in axis.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if text not in of_an_axis]
    for axis in axes:
        texts += [axis.label, axis.offsetText]
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        texts += [label for tick in ticks if low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]
