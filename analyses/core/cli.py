"""The command line: `workbench list | run | figure | keep | show | claims`.

Whatever is heavy is imported inside the command that needs it, so that `--help` answers at once.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

INTERRUPTED = (
    "interrupted: nothing is half-written; run the same command again (whole checkpoints, if any, are taken up)"
)


class Workbench(click.Group):
    """A group whose errors are one line for the person; a bug keeps its traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            click.echo(INTERRUPTED, err=True)
            context.exit(130)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            # The mark of an error meant for a person: see analyses.core.errors.
            code = getattr(error, "exit_code", None)
            if not isinstance(code, int):
                raise
            click.echo(f"workbench: {' '.join(str(error).split())}", err=True)
            context.exit(code)


@click.group(cls=Workbench, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure, draw and judge: every study of the workbench by its name."""


def _results_option(command):
    where = "Folder of the working results.  [default: $WORKBENCH_RESULTS, else ./results of the project]"
    return click.option("--results", "working", type=click.Path(path_type=Path), help=where)(command)


def _from_option(command):
    where = "The kept result, the working one of a profile, or one by its id."
    metavar = "kept|quick|full|ID"
    return click.option("--from", "source", default="kept", show_default=True, metavar=metavar, help=where)(command)


def _working(folder: Path | None) -> Path:
    from analyses.core.results import results_root

    return folder or results_root()


def _chosen(names: Sequence[str], every: bool) -> list[str]:
    from analyses.core import study

    if bool(names) == every:
        raise click.UsageError("name one or more studies, or give --all")
    for name in names:
        study.locate(name)
    return list(dict.fromkeys(names)) or list(study.names())


@main.command("list")
@_results_option
def list_studies(working: Path | None) -> None:
    """Show every study, its question and its results."""
    from analyses.core import rendering

    rendering.show(rendering.studies_table(_working(working)))


@main.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@click.option("--all", "every", is_flag=True, help="Run every study.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting, such as model.d_model=64."
)
@click.option("--profile", type=click.Choice(["quick", "full"]), default="full", show_default=True)
@click.option("--seeds", metavar="N|A,B,C", help="How many seeds (5 is 0 to 4), or which (0,3,7).")
@click.option("--device", metavar="NAME", help="Where to compute, such as cpu or cuda.")
@click.option("--again", is_flag=True, help="Measure even if the result is there.")
@_results_option
def run(studies, every, settings, profile, seeds, device, again, working) -> None:
    """Measure studies, or find what was measured before."""
    from analyses.core import rendering, results, running

    names, working = _chosen(studies, every), _working(working)
    overrides = _overrides(settings)
    if seeds is not None:
        overrides["seeds"] = running.seeds(seeds)
    if device is not None:
        overrides["device"] = device
    results.check_writable(working)
    plans = [running.plan(name, profile, overrides, working) for name in names]
    done = []
    for number, plan in enumerate(plans, start=1):
        click.echo(f"[{number}/{len(plans)}] {plan.study.name} ({plan.profile}): {plan.study.question}", err=True)
        done.append(running.carry_out(plan, again=again))
    rendering.show(rendering.runs_table(done))


def _overrides(settings: Sequence[str]) -> dict[str, object]:
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"'{setting}' is not KEY=VALUE, such as model.d_model=64", param_hint="--set")
        overrides[key.strip()] = value
    return overrides


@main.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@click.option("--all", "every", is_flag=True, help="Draw every figure.")
@_from_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the figures.  [default: figures/out]")
@_results_option
def figure(studies, every, source, out, working) -> None:
    """Draw the figures of studies from saved tables."""
    if bool(studies) == every:
        raise click.UsageError("name one or more studies, or give --all")
    places = ["--results", str(working)] if working else []
    places += ["--out", str(out)] if out else []
    _draw(*(["--all"] if every else studies), "--from", source, *places)


def _draw(*arguments: str) -> None:
    """Draw in a process of its own: figures and measurements share no imports."""
    code = subprocess.call([sys.executable, "-m", "figures.draw", *arguments])
    if code:
        raise click.exceptions.Exit(code)


@main.command()
@click.argument("study")
@_results_option
def keep(study: str, working: Path | None) -> None:
    """Keep the full result of a study for the repository, and draw it for the gallery."""
    from analyses.core import running

    click.echo(f"kept in {running.keep(study, _working(working))}")
    _draw(study, "--gallery")


@main.command()
@click.argument("study", metavar="STUDY|ID")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "markdown", "latex"]),
    help="Write the whole table in this form, alone on stdout.",
)
@_from_option
@_results_option
def show(study: str, form: str | None, source: str, working: Path | None) -> None:
    """Show one result: how it was made, its config, its columns, its first rows."""
    from analyses.core import exporting, rendering, running
    from analyses.core.study import locate

    name, slash, _ = study.partition("/")
    locate(name)
    result = running.fetch(name, study if slash else source, _working(working))
    if form in exporting.FORMATS:
        click.echo(exporting.FORMATS[form](result.table), nl=False)
    else:
        rendering.show(*([rendering.rows_table(result.table)] if form else rendering.result_tables(result)))


@main.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@_from_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, alone on stdout.")
@_results_option
def claims(studies, source, as_json, working) -> None:
    """Hold the claims of studies against their measurements; all studies by default.

    Exit status 1: an identity or a calibration fails, or a replication fails unexplained.
    """
    import dataclasses
    import json

    from analyses.core import rendering, running
    from analyses.core.claims import failed

    of_id = [source.partition("/")[0]] if "/" in source and not studies else []
    names = _chosen([*studies, *of_id], every=not studies and not of_id)
    judged = {name: running.verdicts(name, source, _working(working)) for name in names}
    verdicts = [verdict for found in judged.values() for verdict in found]
    notes = _notes(judged, source)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in verdicts], indent=1, ensure_ascii=False))
        click.echo("".join(f"{note}\n" for note in notes), err=True, nl=False)
    else:
        rendering.show(rendering.verdicts_table(verdicts, notes))
    if any(failed(verdict) for verdict in verdicts):
        raise click.exceptions.Exit(1)


def _notes(judged: dict, source: str) -> list[str]:
    """What a reader of the verdicts must know about the results behind them."""
    from analyses.core import running

    if source != "kept":
        return [f"judged from {source}, not from the kept results"]
    return [
        f"the kept result of {name} was made with other settings than today's defaults"
        for name, verdicts in judged.items()
        if verdicts and running.drifted(name)
    ]
