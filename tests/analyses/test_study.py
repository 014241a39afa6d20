import sys

import pytest

from analyses.core import study
from analyses.core.errors import WorkbenchError


def test_studies_are_found_by_file_name_in_every_theme_but_core(studies):
    studies.add("halving", '"""Does halving halve?"""\n', theme="other")
    studies.add("_private", "")
    studies.add("not_a_study", "", theme="core")
    assert {name: path.parent.name for name, path in study.names().items()} == {
        "doubling": "made_up",
        "halving": "other",
    }
    assert study.names(studies.root) == study.names()


def test_a_name_used_by_two_themes_is_refused_naming_both_files(studies):
    studies.add("doubling", "", theme="other")
    with pytest.raises(WorkbenchError, match=r"made_up/doubling\.py or .*other/doubling\.py"):
        study.names()


def test_a_study_is_described_without_importing_it(studies):
    studies.add("broken", '"""Does it break?\n\nMore."""\nraise RuntimeError\n')
    assert study.describe("broken") == "Does it break?"
    assert "analyses.made_up.broken" not in sys.modules


def test_a_study_without_a_question_is_refused(studies):
    studies.add("silent", "x = 1\n")
    with pytest.raises(WorkbenchError, match="silent has no docstring"):
        study.describe("silent")


def test_an_unknown_study_is_answered_by_the_nearest_and_all_known_ones(studies):
    studies.add("halving", '"""Does halving halve?"""\n')
    with pytest.raises(WorkbenchError, match=r"did you mean 'doubling'.*known: doubling, halving"):
        study.find("dubling")


def test_a_found_study_has_its_parts(studies):
    found = study.find("doubling")
    assert (found.name, found.theme, found.question) == ("doubling", "made_up", "Does doubling double?")
    assert set(found.columns) == {"seed", "x", "y"}
    assert len(found.claims) == 1


def test_a_study_that_lacks_a_part_is_told_which(studies):
    studies.add("half", '"""Half?"""\nclass Config: ...\nQUICK = {}\n')
    with pytest.raises(WorkbenchError, match=r"analyses\.made_up\.half has no COLUMNS"):
        study.find("half")


def test_a_config_has_the_profile_that_it_equals(studies):
    found = study.find("doubling")
    assert found.config("quick").points == 2
    assert found.profile(found.config("quick")) == "quick"
    assert found.profile(found.config("full")) == "full"
    assert found.profile(found.config("full", {"points": 2, "seeds": "0,1"})) == "quick"
    assert found.profile(found.config("quick", {"points": 3})) == "custom"


def test_a_quick_profile_that_is_the_full_one_is_refused(studies):
    doubling = (studies.root / "analyses/made_up/doubling.py").read_text()
    text = doubling.replace('QUICK = {"points": 2, "seeds": (0, 1)}', 'QUICK = {"points": 4}')
    studies.add("same", text)
    with pytest.raises(WorkbenchError, match="same: QUICK changes nothing"):
        study.find("same").config("quick")


def test_a_wrong_setting_names_the_study(studies):
    with pytest.raises(WorkbenchError, match="doubling: unknown key 'pints': the nearest known one is 'points'"):
        study.find("doubling").config("full", {"pints": 3})
