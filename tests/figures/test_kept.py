"""What is kept in the repository: every figure redraws from it, and what the README says of it is computed."""

from pathlib import Path

import pytest

from analyses.core import results, study
from figures import draw

PROJECT = Path(__file__).resolve().parents[2]
KEPT = sorted(run.parent.name for run in (PROJECT / "figures" / "data").glob("*/run.json"))


def tables(name: str) -> dict[str, results.Result]:
    return {need: results.load(results.kept_folder(need)) for need in draw._needs(name, draw._module(name))}


@pytest.mark.parametrize("name", KEPT)
def test_the_gallery_shows_the_kept_result(name, tmp_path):
    # The picture itself depends on the versions of matplotlib and its fonts; the run it was drawn from does not.
    (identifier,) = {one.id for one in tables(name).values() if one.run["study"] == name}
    assert identifier.encode() in (PROJECT / "figures" / "gallery" / f"{name}.png").read_bytes()


@pytest.mark.parametrize("name", KEPT)
def test_the_kept_result_is_the_full_profile_of_a_clean_commit(name):
    run = results.load(results.kept_folder(name)).run
    assert run["profile"] == "full"
    assert (run["diff"], run["untracked"]) == (None, {})


@pytest.mark.parametrize("name", KEPT)
def test_every_text_of_the_figure_can_be_read(name, legible):
    legible(draw.figure_for(name, tables(name)))


@pytest.mark.parametrize("name", KEPT)
def test_the_readme_quotes_the_computed_caption(name):
    module = draw._module(name)
    assert module.caption(tables(name)) in Path(PROJECT, "README.md").read_text()


def test_every_study_of_the_project_has_a_kept_result():
    assert set(KEPT) == set(study.names())
