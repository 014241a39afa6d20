import json
import os
import sys

import pytest

from analyses.core import results

FAILING = '''"""Does it fail?"""
from analyses.core.claims import Bound, Claim
from analyses.made_up.doubling import COLUMNS, QUICK, Config, ratio, run

CLAIMS = (Claim("doubling trebles", {kind!r}, "nobody", Bound(low=3), ratio, explanation={explanation!r}),)
'''


def test_claims_read_the_kept_result_and_print_pure_json(call, studies, drawn, one_line):
    message = one_line(call("claims"))
    assert "no kept result of doubling: make it by `workbench run doubling && workbench keep doubling`" in message
    assert "no full result of doubling to keep: make it by `workbench run doubling`" in one_line(
        call("keep", "doubling")
    )
    assert drawn == []
    call("run", "doubling", "--profile", "quick")
    assert "no full result" in one_line(call("keep", "doubling"))
    call("run", "doubling")
    assert call("keep", "doubling").exit_code == 0
    assert drawn[-1][1:] == ["-m", "figures.draw", "doubling", "--gallery"]
    assert sorted(os.listdir(studies.root / "figures/data/doubling")) == ["arrays.npz", "run.json", "table.csv"]
    answer = call("claims", "--json")
    assert (answer.exit_code, answer.stderr) == (0, "")
    (verdict,) = json.loads(answer.stdout)
    assert verdict == {
        "study": "doubling",
        "sentence": "doubling doubles",
        "kind": "identity",
        "source": "arithmetic",
        "expected": "= 2",
        "measured": 2.0,
        "mean": 2.0,
        "interval": [2.0, 2.0],
        "bootstrap": [2.0, 2.0],
        "n": 3,
        "holds": True,
        "explanation": "",
        "source_verdict": "",
        "result": results.load(studies.root / "figures/data/doubling").id,
        "profile": "full",
    }
    assert "doubling doubles" in call("claims", "doubling").stdout


def test_claims_of_another_result_say_so(call, studies, one_line, folder_of):
    call("run", "doubling", "--profile", "quick")
    assert "judged from quick, not from the kept results" in call("claims", "--from", "quick").stdout
    answer = call("claims", "--from", f"doubling/{folder_of(studies).name[:8]}", "--json")
    assert "judged from doubling/" in answer.stderr
    assert json.loads(answer.stdout)[0]["n"] == 2
    assert "no full result of doubling" in one_line(call("claims", "--from", "full"))
    assert "unknown study 'dubling'" in one_line(call("claims", "dubling", "--json"))


def test_a_kept_result_of_other_settings_is_called_so(call, studies, drawn):
    call("run", "doubling")
    call("keep", "doubling")
    path = studies.root / "analyses/made_up/doubling.py"
    studies.add("doubling", path.read_text().replace("points: int = 4", "points: int = 54"))
    del sys.modules["analyses.made_up.doubling"]
    assert "the kept result of doubling was made with other settings" in call("claims", "doubling").stdout


@pytest.mark.parametrize(
    ("kind", "explanation", "exit_code"),
    [("identity", "why", 1), ("replication", "", 1), ("replication", "why", 0), ("finding", "", 0)],
)
def test_claims_exit_with_1_when_something_is_wrong(call, studies, kind, explanation, exit_code):
    studies.add("failing", FAILING.format(kind=kind, explanation=explanation))
    call("run", "failing", "--profile", "quick")
    answer = call("claims", "failing", "--from", "quick", "--json")
    assert (answer.exit_code, json.loads(answer.stdout)[0]["holds"]) == (exit_code, False)
    table = call("claims", "failing", "--from", "quick")
    assert (table.exit_code, "no *" in table.stdout) == (exit_code, bool(exit_code))


def test_figures_are_drawn_by_a_process_of_their_own_whose_exit_code_counts(call, drawn, tmp_path):
    assert call("figure", "doubling", "--from", "quick", "--results", "there", "--out", "here").exit_code == 0
    assert drawn[-1][0] == sys.executable
    assert drawn[-1][1:] == ["-m", "figures.draw", "doubling", "--from", "quick", "--results", "there", "--out", "here"]
    assert call("figure", "--all").exit_code == 0
    assert drawn[-1][1:] == ["-m", "figures.draw", "--all", "--from", "kept"]
    assert call("figure", "broken").exit_code == 3
