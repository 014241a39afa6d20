"""The figures floor draws from saved tables alone: the same bytes every time, whole files, errors for people."""

import errno
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import click.testing
import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analyses.core import results
from analyses.core.errors import WorkbenchError
from figures import draw

FIGURE_FILE = """
import matplotlib.pyplot as plt

NEEDS = ("loss_vs_step",)


def draw(tables):
    figure, ax = plt.subplots()
    ax.plot(tables["loss_vs_step"].table["loss"])
    return figure


def caption(tables):
    return f"Lowest loss {tables['loss_vs_step'].table['loss'].min():.3f} nats."
"""


def in_a_process(clone: Path, *arguments: str, hash_seed: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "figures.draw", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(clone)}
    environment.pop("WORKBENCH_RESULTS", None)
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)


def run(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(draw.main, arguments)


def below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.is_dir() else []


def test_a_fresh_clone_redraws_without_torch_and_twice_the_same_bytes(clone):
    (clone / "figures" / "toy").mkdir()
    (clone / "figures" / "toy" / "loss_joined.py").write_text(FIGURE_FILE)
    for place, seed in (("one", 1), ("two", 2)):
        done = in_a_process(clone, "--all", "--out", place, hash_seed=seed)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 6
    assert below(clone / "one") == [
        f"{name}.{form}" for name in ("loss_joined", "loss_vs_step") for form in ("pdf", "png", "svg")
    ]
    for path in (clone / "one").iterdir():
        assert path.read_bytes() == (clone / "two" / path.name).read_bytes(), path.name


def test_importing_draw_and_show_brings_neither_torch_nor_pyplot():
    code = "import sys, figures.draw, figures.show; print({'torch', 'matplotlib.pyplot', 'IPython'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_default_figure_carries_its_result_and_no_date(inside, kept):
    assert run("loss_vs_step", "--gallery").exit_code == 0
    out = inside / "figures" / "out"
    with Image.open(out / "loss_vs_step.png") as picture:
        assert picture.text["Title"] == "loss_vs_step"
        assert picture.text["Description"] == f"Drawn from {kept.id} (full profile)."
    pdf, svg = (out / "loss_vs_step.pdf").read_bytes(), (out / "loss_vs_step.svg").read_text()
    assert f"/Keywords ({kept.id})".encode() in pdf
    assert b"Date" not in pdf
    assert f"<rdf:li>{kept.id}</rdf:li>" in svg
    assert "dc:date" not in svg
    assert "optimiser step" in svg  # text stays text
    assert b"/Type3" not in pdf  # TrueType, which journals take
    gallery = inside / "figures" / "gallery" / "loss_vs_step.png"
    assert gallery.read_bytes() == (out / "loss_vs_step.png").read_bytes()
    assert below(gallery.parent) == ["loss_vs_step.png"]


def test_the_callers_style_does_not_leak_into_the_files(inside, kept):
    def files(folder: str) -> list[bytes]:
        figure = draw.figure_for("loss_vs_step", {"loss_vs_step": kept})
        return [path.read_bytes() for path in draw.save(figure, inside / folder / "f", [kept.id])]

    plain = files("plain")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "pink", "savefig.dpi": 50, "svg.fonttype": "path"}):
        assert files("loud") == plain


def test_a_figure_keeps_its_ticks_when_it_is_shown_in_the_callers_style(inside, kept):
    def on_screen() -> bytes:
        content = BytesIO()
        draw.figure_for("loss_vs_step", {"loss_vs_step": kept}).savefig(content, dpi=50)
        return content.getvalue()

    plain = on_screen()
    with mpl.rc_context({"xtick.major.size": 30, "ytick.major.width": 5}):
        assert on_screen() == plain


@pytest.fixture
def figure_file(inside, monkeypatch) -> SimpleNamespace:
    """A figure file as if it had been found: it joins two studies."""
    scope: dict = {}
    exec(FIGURE_FILE, scope)
    module = SimpleNamespace(
        __name__="figures.toy.joined", **{name: scope[name] for name in ("NEEDS", "draw", "caption")}
    )
    monkeypatch.setattr(draw, "_module", lambda name: module)
    return module


def test_a_figure_file_is_drawn_with_its_caption_and_released_by_pyplot(figure_file, inside):
    import matplotlib.pyplot as plt

    assert run("joined").exit_code == 0
    with Image.open(inside / "figures" / "out" / "joined.png") as picture:
        assert picture.text["Description"].startswith("Lowest loss 0.0")
    assert not plt.get_fignums()


def test_a_figure_file_without_draw_or_needs_is_named(figure_file):
    del figure_file.draw
    outcome = run("joined")
    assert outcome.exit_code == 2
    assert outcome.stderr == (
        "workbench figure: figures.toy.joined is no figure file: it must define a tuple NEEDS and draw(tables)\n"
    )


def test_figure_for_names_the_results_it_lacks(figure_file):
    figure_file.NEEDS = ("loss_vs_step", "peak_vs_length")
    with pytest.raises(WorkbenchError, match="needs the results of loss_vs_step, peak_vs_length too"):
        draw.figure_for("joined", {})


def test_a_quick_figure_says_so_and_has_its_own_name(inside, add_result, legible):
    quick = add_result("quick", n=1)
    outcome = run("loss_vs_step", "--from", "quick")
    assert outcome.output.splitlines() == [f"figures/out/loss_vs_step.quick.{form}" for form in draw.FORMATS]
    svg = (inside / "figures" / "out" / "loss_vs_step.quick.svg").read_text()
    assert ">quick profile<" in svg
    assert quick.id in svg
    figure = draw.figure_for("loss_vs_step", {"loss_vs_step": quick})
    legible(figure)
    (note,) = figure.texts
    assert note.get_window_extent().y0 >= max(ax.get_tightbbox().y1 for ax in figure.axes)


def test_a_kept_figure_carries_no_note(inside, kept):
    texts = draw.figure_for("loss_vs_step", {"loss_vs_step": kept}).texts
    assert not texts


def test_an_id_draws_exactly_that_result(inside, add_result):
    first, second = add_result("quick", n=1), add_result("custom", n=2)
    for result in (first, second):
        assert run("loss_vs_step", "--from", result.id[:-1]).exit_code == 0
        digits = result.id.partition("/")[2]
        svg = (inside / "figures" / "out" / f"loss_vs_step.{digits}.svg").read_text()
        assert result.id in svg
        assert f">{result.run['profile']} profile<" in svg


def damage(root: Path) -> None:
    path = results.kept_folder("loss_vs_step", root) / "table.csv"
    path.write_text(path.read_text().replace("4.0", "3.9", 1))


def lose(root: Path) -> None:
    folder = results.kept_folder("loss_vs_step", root)
    folder.rename(folder.with_name("elsewhere"))


def block(root: Path) -> None:
    (root / "figures" / "out").write_text("a file where the folder should be")


def double(root: Path) -> None:
    (root / "analyses" / "other").mkdir()
    (root / "analyses" / "other" / "loss_vs_step.py").touch()


def nothing(root: Path) -> None: ...


@pytest.mark.parametrize(
    ("harm", "arguments", "said"),
    [
        (nothing, ["los_vs_step"], "no study or figure 'los_vs_step': the nearest is 'loss_vs_step'; known are"),
        (nothing, ["loss_vs_step", "qqq"], "no study or figure 'qqq': known are loss_vs_step"),
        (lose, ["loss_vs_step"], "`workbench run loss_vs_step --profile full` then `workbench keep loss_vs_step`"),
        (nothing, ["loss_vs_step", "--from", "quick"], "`workbench run loss_vs_step --profile quick`"),
        (nothing, ["loss_vs_step", "--from", "loss_vs_step/abc"], "no results"),
        (nothing, ["loss_vs_step", "--from", "other_vs_step/abc"], "other_vs_step/abc is no result that loss_vs_step"),
        (
            nothing,
            ["loss_vs_step", "--from", "fast"],
            "cannot draw from 'fast': it is neither kept, quick, full nor an id: study/3f2a9c01",
        ),
        (nothing, ["loss_vs_step", "--from", "full", "--gallery"], "the gallery shows kept results only"),
        (damage, ["loss_vs_step"], "table.csv is damaged"),
        (block, ["loss_vs_step"], "figures/out: "),
        (double, ["loss_vs_step"], "two files have the name loss_vs_step: analyses/other/loss_vs_step.py and"),
    ],
)
def test_an_error_is_one_line_exit_2_and_leaves_no_file(inside, harm, arguments, said):
    harm(inside)
    before = below(inside / "figures")
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("workbench figure: ")
    assert outcome.stderr.count("\n") == 1
    assert said in outcome.stderr
    assert below(inside / "figures") == before


@pytest.mark.parametrize("arguments", [[], ["loss_vs_step", "--all"]])
def test_neither_or_both_of_names_and_all_is_a_usage_error(inside, arguments):
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert "name one or more studies, or give --all" in outcome.stderr


def test_the_exit_code_and_the_line_reach_the_shell(clone):
    done = in_a_process(clone, "qqq")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "workbench figure: no study or figure 'qqq': known are loss_vs_step\n"


@pytest.mark.parametrize("interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_stops_half_way_leaves_the_older_files_as_they_were(inside, monkeypatch, interruption):
    out = inside / "figures" / "out"
    older = {f"loss_vs_step.{form}": f"older {form}".encode() for form in draw.FORMATS}
    out.mkdir()
    for name, content in older.items():
        (out / name).write_bytes(content)
    whole = Figure.savefig

    def stops_at_the_last_format(self, path, format, metadata):
        if format == "svg":
            raise interruption
        whole(self, path, format="png", dpi=20)

    monkeypatch.setattr(Figure, "savefig", stops_at_the_last_format)
    outcome = run("loss_vs_step")
    assert outcome.exit_code != 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == older
    if isinstance(interruption, OSError):
        said = f"cannot write to {out}: No space left on device; choose another with --out"
        assert outcome.stderr == f"workbench figure: {said}\n"
