"""What the command line shows: tables of studies, runs, results and verdicts."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analyses.core import results, study
from analyses.core.claims import Verdict, failed
from analyses.core.results import Result, ResultError
from analyses.core.running import Done

# A log has no width of its own; rich would fold the tables at 80.
LOG_WIDTH = 160
HEAD_ROWS = 8


def show(*parts: object) -> None:
    """Print tables and marked-up lines on stdout."""
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    for part in parts:
        console.print(part)


def studies_table(working: Path) -> Table:
    """Every study, its question, and which of its results are there."""
    table = _table("study", "theme", "question", "kept", "quick")
    for name, path in study.names().items():
        kept = "yes" if results.kept_folder(name).is_dir() else "-"
        table.add_row(name, path.parent.name, escape(study.describe(name)), kept, _quick(name, working))
    return table


def _quick(name: str, working: Path) -> str:
    try:
        results.latest_result(name, "quick", working)
    except results.NoResultError:
        return "-"
    except ResultError:
        return "damaged"
    return "yes"


def runs_table(runs: Iterable[Done]) -> Table:
    """What was run: `seconds` are those of the measurement, also for a result that was found."""
    table = _table("study", "id", "profile", "rows", "seconds", "")
    for done in runs:
        run = done.result.run
        row = (run["study"], done.result.id, run["profile"], str(len(done.result.table)), f"{run['seconds']:.1f}")
        table.add_row(*row, done.how)
    return table


def result_tables(result: Result) -> list[object]:
    """One result: provenance, config, columns with their meaning, first rows."""
    run = result.run
    origin = _table("run", "")
    for name in (
        "profile",
        "commit",
        "device",
        "dtype",
        "backend",
        "seeds",
        "seconds",
        "cpu_seconds",
        "peak_memory_mb",
    ):
        origin.add_row(name, escape(str(run.get(name))))
    changes = len((run.get("diff") or "").splitlines()) + len(run.get("untracked") or ())
    origin.add_row("uncommitted", f"{changes} lines of diff and untracked files" if changes else "nothing")
    origin.add_row("platform", escape(str(run.get("platform"))))
    origin.add_row("versions", escape(", ".join(f"{name} {one}" for name, one in run.get("versions", {}).items())))
    origin.add_row("arrays", escape(", ".join(f"{name} {one.shape}" for name, one in result.arrays.items()) or "none"))
    config = _table("setting", "value")
    for key, value in _dotted(run["config"]):
        config.add_row(escape(key), escape(str(value)))
    shown = f"first {min(HEAD_ROWS, len(result.table))} of {len(result.table)} rows"
    head = rows_table(result.table.head(HEAD_ROWS))
    return [f"[bold]{escape(result.id)}[/]", origin, config, _columns_table(result), shown, head]


def rows_table(table: pd.DataFrame) -> Table:
    """The rows of a result's table; floats to four significant digits."""
    rows = _table(*table.columns)
    for row in table.itertuples(index=False, name=None):
        rows.add_row(*(_number(value) for value in row))
    return rows


def _columns_table(result: Result) -> Table:
    table = _table("column", "meaning", "type", "values")
    meanings = result.run.get("columns", {})
    for name, column in result.table.items():
        if result.run["dtypes"][name] in ("str", "bool"):
            values = ", ".join(str(value) for value in column.unique()[:6]) + (", ..." if column.nunique() > 6 else "")
        else:
            low, middle, high = (_number(column.quantile(q)) for q in (0, 0.5, 1))
            values = f"{low} to {high}, median {middle}"
        table.add_row(escape(name), escape(meanings.get(name, "")), result.run["dtypes"][name], escape(values))
    return table


def verdicts_table(verdicts: Sequence[Verdict], notes: Sequence[str]) -> Table:
    """Claims beside their measurement; an asterisk marks the verdicts that fail the command."""
    table = _table(
        "study", "claim", "kind", "expected", "measured", "mean (95 %)", "n", "holds", caption="\n".join(notes)
    )
    for one in verdicts:
        ends = f" ({_number(one.interval[0])} to {_number(one.interval[1])})" if one.interval else ""
        if one.bootstrap:
            ends += f"\n[dim]bootstrap {_number(one.bootstrap[0])} to {_number(one.bootstrap[1])}[/]"
        remark = "; ".join(filter(None, [one.source_verdict, "" if one.holds else one.explanation]))
        holds = ("yes" if one.holds else "[bold red]no *[/]" if failed(one) else "[yellow]no[/]") + (
            f"\n{escape(remark)}" if remark else ""
        )
        claim = f"{escape(one.sentence)}\n[dim]{escape(one.source)}[/]"
        numbers = (one.expected, _number(one.measured), _number(one.mean) + ends, str(one.n))
        table.add_row(one.study, claim, one.kind, *numbers, holds)
    return table


def _table(*columns: str, caption: str | None = None) -> Table:
    table = Table(caption=caption or None, caption_justify="left")
    for name in columns:
        table.add_column(escape(name), overflow="fold", no_wrap=name in ("study", "id"))
    return table


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _dotted(config: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
