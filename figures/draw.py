"""Draw figures from saved results: `python -m figures.draw STUDY...`, which `workbench figure` calls.

A figure is found by its file name. figures/<theme>/<study>.py holds

    NEEDS: tuple[str, ...]                               the studies whose results it reads
    draw(tables: Mapping[str, Result]) -> Figure
    caption(tables: Mapping[str, Result]) -> str         optional; its numbers are computed from the tables

A study without one gets small multiples (`figures.default`). Nothing here needs torch: saved tables are enough.
"""

import difflib
import importlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import click
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analyses.core import results
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from figures import parts
from figures.default import default_figure

HERE = Path(__file__).resolve().parent
FORMATS = ("png", "pdf", "svg")
KEPT, PROFILES = "kept", ("quick", "full")
NOTE_STRIP = 0.16  # inches kept free above the panels for the note on the profile


class FigureError(WorkbenchError):
    """A figure that cannot be drawn or written."""


def names() -> list[str]:
    """Every name that can be drawn: the studies, and the figures that join several of them."""
    return sorted({*_found(HERE), *_found(HERE.parent / "analyses")})


def figure_for(study: str, tables: Mapping[str, Result]) -> Figure:
    """Draw one figure in the house style.

    Args:
        study: one of `names()`.
        tables: results by study; those that the figure's NEEDS names, or the study's own.

    Raises:
        FigureError: the name is unknown, or a result that the figure needs is not among `tables`.
    """
    module = _module(study)
    needs = _needs(study, module)
    missing = [need for need in needs if need not in tables]
    if missing:
        raise FigureError(f"the figure {study} needs the results of {', '.join(missing)} too: pass them in `tables`")
    with parts.house_style():
        figure = module.draw(tables) if module else default_figure(tables[study])
        _note_profile(figure, _profile(tables[need] for need in needs))
    if figure.canvas.manager:  # made by pyplot: let go of it, or Jupyter shows it twice and --all piles figures up
        import matplotlib.pyplot as plt

        plt.close(figure)
    return figure


def save(
    figure: Figure, path_stem: Path, ids: Sequence[str], *, profile: str = "full", caption: str = ""
) -> list[Path]:
    """Write a figure as PNG, PDF and SVG, all three or none; the same figure gives the same bytes.

    Args:
        path_stem: folder and name; ".png" and the others are added to it.
        ids: ids of the results that it was drawn from; they go into the files, with profile and caption.

    Raises:
        FigureError: the folder cannot be written.
    """
    path_stem = Path(path_stem)
    folder, name = path_stem.parent, path_stem.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".drawing-") as unfinished, parts.house_style():
            for form in FORMATS:
                metadata = _metadata(form, name, ids, profile, caption)
                figure.savefig(Path(unfinished, f"{name}.{form}"), format=form, metadata=metadata)
            return [Path(unfinished, f"{name}.{form}").replace(folder / f"{name}.{form}") for form in FORMATS]
    except OSError as error:
        raise FigureError(f"cannot write to {folder}: {error.strerror or error}; choose another with --out") from error


@click.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@click.option("--all", "every", is_flag=True, help="Draw every study and figure.")
@click.option(
    "--from",
    "source",
    default=KEPT,
    show_default=True,
    metavar="kept|quick|full|ID",
    help="Kept results, the last run of a profile, or one result by its id (what else a figure needs is kept).",
)
@click.option("--results", "working", type=click.Path(path_type=Path), help="Folder of the working results.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the figures.  [default: figures/out]")
@click.option("--gallery", is_flag=True, help="Write the PNG into figures/gallery as well; kept results only.")
def main(
    studies: tuple[str, ...], every: bool, source: str, working: Path | None, out: Path | None, gallery: bool
) -> None:
    """Draw the figures of studies from their saved results, as PNG, PDF and SVG."""
    mpl.use("agg")  # files only: needs no screen
    if bool(studies) == every:
        raise click.UsageError("name one or more studies, or give --all")
    try:
        for path in draw_all(names() if every else studies, source, working or results.results_root(), out, gallery):
            click.echo(_short(path))
    except WorkbenchError as error:
        click.echo(f"workbench figure: {error}", err=True)
        raise SystemExit(error.exit_code) from error


def draw_all(
    studies: Sequence[str], source: str, working: Path, out: Path | None = None, gallery: bool = False
) -> Iterator[Path]:
    """Draw and write figures one after the other; give each path as soon as its file is there.

    Args:
        source: "kept", "quick", "full" or the id of one result, which belongs to one of `studies`.
        working: folder of the working results.
        out: folder of the figures; figures/out in the project by default.
        gallery: copy the PNG into figures/gallery.

    Raises:
        WorkbenchError: a name is unknown, a result is missing or damaged, or a folder cannot be written.
    """
    floor = results.project_root() / "figures"
    if gallery and source != KEPT:
        raise FigureError(f"the gallery shows kept results only: leave out --gallery or --from {source}")
    needs = {study: _needs(study, _module(study)) for study in studies}  # all names are known before one is drawn
    if source not in (KEPT, *PROFILES) and not all(source.partition("/")):
        raise FigureError(f"cannot draw from '{source}': it is neither kept, quick, full nor an id: study/3f2a9c01")
    for study in studies:
        tables = {need: results.load(_folder(need, source, working)) for need in needs[study]}
        if "/" in source and source.partition("/")[0] not in tables:
            raise FigureError(f"{source} is no result that {study} is drawn from: it reads {', '.join(tables)}")
        figure, module = figure_for(study, tables), _module(study)
        caption = module.caption(tables) if hasattr(module, "caption") else ""
        stem = (out or floor / "out") / (study + _suffix(source, tables))
        ids, profile = [result.id for result in tables.values()], _profile(tables.values())
        written = save(figure, stem, ids, profile=profile, caption=caption)
        yield from written
        if gallery:
            yield _copy(written[0], floor / "gallery" / f"{study}.png")


def _found(floor: Path) -> dict[str, Path]:
    """Python files of a floor's themes by stem: studies below analyses, figures below figures."""
    found: dict[str, Path] = {}
    for path in sorted(floor.glob("*/*.py")):
        if path.stem.startswith("_") or path.parent.name == "core":
            continue
        if path.stem in found:
            raise FigureError(f"two files have the name {path.stem}: {_short(found[path.stem])} and {_short(path)}")
        found[path.stem] = path
    return found


def _module(study: str) -> ModuleType | None:
    """The figure file of this name; None where the default figure serves."""
    path = _found(HERE).get(study)
    if path:
        return importlib.import_module(f"figures.{path.parent.name}.{study}")
    if study not in names():
        near = difflib.get_close_matches(study, names(), n=1, cutoff=0.3)
        nearest = f"the nearest is '{near[0]}'; " if near else ""
        raise FigureError(f"no study or figure '{study}': {nearest}known are {', '.join(names()) or 'none'}")
    return None


def _needs(study: str, module: ModuleType | None) -> tuple[str, ...]:
    if module is None:
        return (study,)
    if not isinstance(getattr(module, "NEEDS", None), tuple) or not callable(getattr(module, "draw", None)):
        raise FigureError(f"{module.__name__} is no figure file: it must define a tuple NEEDS and draw(tables)")
    return module.NEEDS


def _folder(study: str, source: str, working: Path) -> Path:
    if source in PROFILES:
        return results.latest_result(study, source, working)
    if source.startswith(f"{study}/"):
        return results.find_result(source, working)
    folder = results.kept_folder(study)
    if not folder.is_dir():
        raise FigureError(
            f"no kept result of {study}: `workbench run {study} --profile full` then `workbench keep {study}`"
        )
    return folder


def _suffix(source: str, tables: Mapping[str, Result]) -> str:
    """What the file names of a figure that is not drawn from kept results end in: the profile, or the id's digits."""
    if source == KEPT:
        return ""
    return f".{source}" if source in PROFILES else "." + tables[source.partition("/")[0]].id.partition("/")[2]


def _profile(tables: Iterable[Result]) -> str:
    """The profiles that the results were run with, joined where they differ: "full", "quick" or "full and quick"."""
    return " and ".join(sorted({str(result.run.get("profile", "custom")) for result in tables}))


def _note_profile(figure: Figure, profile: str) -> None:
    """Say in the upper right corner that a figure does not show the full profile."""
    if profile == "full":
        return
    top = 1 - NOTE_STRIP / figure.get_figheight()
    figure.text(
        0.995, 1 - 0.03 / figure.get_figheight(), f"{profile} profile", ha="right", va="top", fontsize=7, color="0.4"
    )
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.get_layout_engine().set(rect=(0, 0, 1, top))


def _metadata(form: str, name: str, ids: Sequence[str], profile: str, caption: str) -> dict[str, object]:
    """Where the figure came from, in the words of each format; no date, which would change the bytes."""
    about = f"{caption} Drawn from {', '.join(ids)} ({profile} profile).".strip()
    match form:
        case "png":
            return {"Title": name, "Description": about}
        case "pdf":
            return {"Title": name, "Subject": about, "Keywords": ", ".join(ids), "CreationDate": None}
        case _:
            return {"Title": name, "Description": about, "Keywords": list(ids), "Date": None}


def _copy(source: Path, target: Path) -> Path:
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(source.read_bytes())
            return unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FigureError(f"cannot write to {target.parent}: {error.strerror or error}") from error


def _short(path: Path) -> str:
    """A path as seen from the working directory, where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main(prog_name="workbench figure")
