"""Tables as text: what a spreadsheet, a README and a paper read."""

import csv
import io
import math
import shutil
import subprocess

import pandas as pd
import pytest
from click.testing import CliRunner

from analyses.core import exporting, results, tables
from analyses.core.cli import main

TABLE = pd.DataFrame(
    {
        "model": ["a|b", "50% of x_1\nand {y}"],
        "head": [0, 11],
        "induction": pd.Series([1 / 3, -1.5e-05]),
        "entropy": [math.nan, 2.0],
        "dead": [True, False],
    }
)


def test_csv_reads_back_bit_for_bit():
    back = tables.decode(exporting.csv(TABLE).encode(), tables.dtypes(TABLE))
    pd.testing.assert_frame_equal(back, TABLE, check_exact=True)


def test_markdown_has_one_line_per_row_and_sets_numbers_to_the_right():
    lines = exporting.markdown(TABLE).splitlines()
    assert lines == [
        "| model | head | induction | entropy | dead |",
        "| --- | ---: | ---: | ---: | --- |",
        r"| a\|b | 0 | 0.3333 | nan | True |",
        "| 50% of x_1 and {y} | 11 | -1.5e-05 | 2 | False |",
    ]


def test_latex_escapes_words_and_writes_powers_of_ten():
    lines = exporting.latex(TABLE).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrl}"
    assert lines[3] == r"model & head & induction & entropy & dead \\"
    assert lines[5:7] == [
        r"a\textbar{}b & 0 & 0.3333 & -- & True \\",
        r"50\% of x\_1 and \{y\} & 11 & $-1.5 \times 10^{-5}$ & 2 & False \\",
    ]
    assert lines[-1] == r"\end{tabular}"


def test_every_sign_that_latex_would_obey_is_escaped_once():
    told = exporting.latex(pd.DataFrame({"a_b": ["\\ ~ ^ | < > & % $ # _ { }"]}))
    assert r"a\_b \\" in told
    signs = r"\textbackslash{} \textasciitilde{} \textasciicircum{} \textbar{} \textless{} \textgreater{}"
    assert signs + r" \& \% \$ \# \_ \{ \} \\" in told.splitlines()


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.25, 0.0, 12345678.0])
def test_every_number_is_one_cell_in_every_format(value):
    table = pd.DataFrame({"x": [value], "y": [value]})
    assert [float(one) for one in list(csv.reader(io.StringIO(exporting.csv(table))))[1]] == [value, value]
    assert exporting.markdown(table).splitlines()[-1].count("|") == 3
    assert exporting.latex(table).splitlines()[5].count("&") == 1


# `workbench show --format` ------------------------------------------------------------------------


def test_show_writes_the_whole_table_alone_on_stdout(studies):
    def call(*arguments):
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    call("run", "doubling", "--set", "points=30")
    (folder,) = (studies.results / "doubling").iterdir()
    identifier = f"doubling/{folder.name[:8]}"
    assert call("show", identifier, "--format", "csv").stdout == (folder / "table.csv").read_text()
    table = results.load(folder).table
    for form, write in exporting.FORMATS.items():
        told = call("show", identifier, "--format", form)
        assert (told.stdout, told.stderr) == (write(table), "")
    whole, summary = call("show", identifier, "--format", "table").stdout, call("show", identifier).stdout
    assert whole.count("\n") > len(table)
    assert "model.factor" in summary
    assert "model.factor" not in whole
    assert call("show", identifier, "--format", "word").exit_code == 2


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path):
    body = exporting.latex(TABLE)
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "table.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, check=True, capture_output=True)
