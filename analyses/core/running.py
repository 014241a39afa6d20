"""Runs of a study: measure, save, find again, keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.core import provenance, results, study
from analyses.core.config import plain
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result, ResultError


@dataclass(frozen=True)
class Plan:
    """One run that was asked for, its config built and checked; nothing measured yet."""

    study: study.Study
    config: Any
    profile: str
    folder: Path


@dataclass(frozen=True)
class Done:
    """A plan's result, and how it came: "new", or "found" with what is odd about it."""

    result: Result
    how: str


def plan(name: str, profile: str, overrides: Mapping[str, object], working: Path) -> Plan:
    """Build the config of a run.

    Raises:
        WorkbenchError: an unknown study or key, a value that does not fit.
    """
    found = study.find(name)
    config = found.config(profile, overrides)
    folder = results.result_folder(name, results.config_hash(name, plain(config)), working)
    return Plan(found, config, found.profile(config), folder)


def carry_out(plan: Plan, *, again: bool) -> Done:
    """Find the result of a plan, or measure and save it.

    Args:
        again: measure even if there is a result.

    Raises:
        WorkbenchError: the result that is there is damaged, or the new one cannot be saved.
    """
    if not again and (plan.folder / results.RUN).is_file():
        found = results.load(plan.folder)
        (plan.folder / results.RUN).touch()  # "the latest quick result" is the one that was asked for last
        return Done(found, _found(found.run))
    with provenance.recorded(results.project_root()) as cost:
        measured = plan.study.run(plan.config)
    known = {
        "study": plan.study.name,
        "profile": plan.profile,
        "config": plain(plan.config),
        "columns": dict(plan.study.columns),
        "seeds": list(getattr(plan.config, "seeds", ())),
        **cost,
    }
    told = {"device": getattr(plan.config, "device", None), "dtype": None, "backend": None}
    told = {name: value for name, value in told.items() if name not in measured.measured_with}
    return Done(results.save(measured, plan.folder, known | told), "new")


def _found(run: Mapping[str, Any]) -> str:
    now = provenance.source(results.project_root())
    if run["commit"] != now["commit"]:
        return f"found, made at {run['commit'][:8] if run['commit'] else 'no commit'}"
    if (run["diff"], run["untracked"]) != (now["diff"], now["untracked"]):
        return "found, made before files changed"
    return "found"


def fetch(name: str, source: str, working: Path) -> Result:
    """Load the result of a study.

    Args:
        name: the study.
        source: "kept"; "quick" or "full", the working result of that profile's config; or a result's id.
        working: folder of the working results.

    Raises:
        ResultError: there is none (with the command that makes it), it is damaged, or the id is another study's.
    """
    if source == "kept":
        folder = results.kept_folder(name)
        if not folder.is_dir():
            raise ResultError(f"no kept result of {name}: make it by `workbench run {name} && workbench keep {name}`")
        return results.load(folder)
    if source in study.PROFILES:
        folder = plan(name, source, {}, working).folder
        if not folder.is_dir():
            raise ResultError(f"no {source} result of {name}: make it by `workbench run {name} --profile {source}`")
        return results.load(folder)
    if source.partition("/")[0] != name:
        raise ResultError(
            f"'{source}' is no result of {name}: choose kept, quick, full or an id such as {name}/3f2a9c01"
        )
    return results.load(results.find_result(source, working))


def keep(name: str, working: Path) -> Path:
    """Copy the full result of the default config to the kept ones; gives the folder.

    Raises:
        ResultError: there is no such result (with the command that makes it), or it is damaged.
    """
    full = plan(name, "full", {}, working).folder
    if not full.is_dir():
        raise ResultError(f"no full result of {name} to keep: make it by `workbench run {name}`")
    kept = results.kept_folder(name)
    results.copy(full, kept)
    return kept


def verdicts(name: str, source: str, working: Path) -> list:
    """Judge every claim that speaks of such a result by it; a study without claims needs none."""
    from analyses.core.claims import judge

    found = study.find(name)
    if not found.claims:
        return []
    result = fetch(name, source, working)
    meant = [claim for claim in found.claims if claim.speaks_of is None or claim.speaks_of(result)]
    return [judge(name, claim, result) for claim in meant]


def drifted(name: str) -> bool:
    """Whether the kept result was made with other settings than today's defaults."""
    kept = fetch(name, "kept", Path()).run
    return kept["config_hash"] != results.config_hash(name, plain(study.find(name).config()))


def seeds(text: str) -> tuple[int, ...]:
    """Read `--seeds`: "5" is 0 to 4; "0,3,7" are those; "3," is seed 3 alone."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    chosen = tuple(range(numbers[0])) if len(numbers) == 1 and "," not in text else tuple(numbers)
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise WorkbenchError(f"--seeds {text}: give how many, such as 5, or which, such as 0,3,7")
    return chosen
