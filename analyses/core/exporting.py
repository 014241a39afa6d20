"""A whole table as text for another program or a paper: CSV, Markdown or LaTeX.

CSV keeps every float exactly, as a saved result does.  Markdown and LaTeX round to four significant digits, right
for reading; the numbers of a paper's plots come from the CSV.
"""

import math
import re
from collections.abc import Callable, Iterable

import pandas as pd

from analyses.core import tables

# What LaTeX would not print as it stands.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",  # these three are other signs in LaTeX's default text font
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def csv(table: pd.DataFrame) -> str:
    """The table as a saved result holds it: a header, strings quoted, floats exact."""
    return tables.encode(table).decode()


def markdown(table: pd.DataFrame) -> str:
    """A pipe table; numbers are set to the right."""
    rules = ["---:" if right else "---" for right in _numeric(table)]
    rows = [[_cell(name) for name in table.columns], rules, *_rows(table, str, _cell)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def latex(table: pd.DataFrame) -> str:
    """A tabular with the rules of the package booktabs, to \\input into a document."""
    columns = "".join("r" if right else "l" for right in _numeric(table))
    head, *body = (
        " & ".join(row) + r" \\" for row in [list(map(_escaped, table.columns)), *_rows(table, _power, _escaped)]
    )
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {"csv": csv, "markdown": markdown, "latex": latex}


def _numeric(table: pd.DataFrame) -> list[bool]:
    return [kind not in ("str", "bool") for kind in tables.dtypes(table).values()]


def _rows(table: pd.DataFrame, number: Callable[[str], str], word: Callable[[str], str]) -> Iterable[list[str]]:
    """Every row as texts: floats to four digits through `number`, all else through `word`."""
    for row in table.itertuples(index=False, name=None):
        yield [number(f"{value:.4g}") if isinstance(value, float) else word(str(value)) for value in row]


def _cell(text: str) -> str:
    """A cell is one line, and a bar would end it."""
    return " ".join(text.split()).replace("|", r"\|")


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^|<>&%$#_{}]", lambda found: _LATEX[found[0]], " ".join(text.split()))


def _power(number: str) -> str:
    """1.5e-05 as a power of ten; a minus sign that is one."""
    if not math.isfinite(float(number)):
        return {"nan": "--", "inf": r"$\infty$", "-inf": r"$-\infty$"}[number]
    mantissa, _, exponent = number.partition("e")
    if exponent:
        return rf"${mantissa} \times 10^{{{int(exponent)}}}$"
    return f"${number}$" if number.startswith("-") else number
