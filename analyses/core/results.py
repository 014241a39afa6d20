"""Results: what a run of a study measured, kept as three files that belong together.

    run.json     how it was measured: config, versions, device, seeds, and the sha256 of the other two
    table.csv    one observation per row; floats round-trip exactly
    arrays.npz   what does not fit a table

A folder appears when all three are whole, or not at all.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.core import tables
from analyses.core.errors import WorkbenchError

HASH_DIGITS = 12
ID_DIGITS = 8
RUN, TABLE, ARRAYS = "run.json", "table.csv", "arrays.npz"


class ResultError(WorkbenchError):
    """A result that cannot be saved, found or trusted."""


class NoResultError(ResultError):
    """There is no such result."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one run of a study measured.

    Attributes:
        table: tidy, one observation per row; columns of bools, ints, floats (NaN allowed) and strings.
        arrays: numeric arrays by name.
        measured_with: what only the study knows, such as {"device": "cpu", "dtype": "float32", "backend": ["sdpa"]};
            saving writes it into run.json.
        run: the content of run.json; empty until the result was saved or loaded.
    """

    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    measured_with: Mapping[str, object] = field(default_factory=dict)
    run: Mapping[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The study and the first digits of the config's hash: "induction_vs_step/3f2a9c01"."""
        if not self.run:
            raise ResultError(
                "a result has an id once it was saved: call save(result, folder, run) and use what it gives"
            )
        return f"{self.run['study']}/{self.run['config_hash'][:ID_DIGITS]}"

    def _repr_html_(self) -> str:
        """Show the id, the profile, the config and the first rows in Jupyter."""
        head = self.table.head().to_html(index=False)
        size = f"{len(self.table)} rows &times; {len(self.table.columns)} columns"
        if not self.run:
            return f"<p><b>not saved</b>, {size}</p>{head}"
        config = ", ".join(f"{key}={json.dumps(value)}" for key, value in self.run["config"].items())
        profile = escape(str(self.run.get("profile", "custom")))
        return f"<p><b>{escape(self.id)}</b> ({profile}), {size}<br><code>{escape(config)}</code></p>{head}"


def config_hash(study: str, config: Mapping) -> str:
    """Name a config: 12 hex digits of the sha256 of its canonical JSON, whatever the order of its keys.

    Raises:
        ResultError: the config holds something that JSON cannot.
    """
    try:
        text = json.dumps({"study": study, "config": config}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultError(f"the config of {study} does not fit JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def save(result: Result, folder: Path, run: Mapping) -> Result:
    """Write a result into `folder`, whole or not at all, and give it back as loading will.

    Args:
        result: what the study measured.
        folder: made if missing; an older result in it is replaced.
        run: what run.json shall hold; `study` and `config` at least. The config's hash, `measured_with` and the
            sums of the files are added here.

    Raises:
        ResultError: the run lacks `study` or `config`, gives something twice, or describes other columns than the table
            has; a column or an array is of a kind that does not round-trip; the folder cannot be written.
    """
    body = _body(result, run)
    folder = Path(folder)
    whole = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        whole.mkdir(parents=True)
        _write(whole / TABLE, tables.encode(result.table))
        _write(whole / ARRAYS, tables.encode_arrays(result.arrays))
        body["files"] = {name: _sum(whole / name) for name in (TABLE, ARRAYS)}
        _write(whole / RUN, (json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())
        _swap(whole, folder)
    except OSError as error:
        raise ResultError(
            f"cannot write {folder}: {error.strerror or error}; free it or choose another folder"
        ) from error
    except (TypeError, ValueError) as error:
        raise ResultError(f"cannot save this result of {body['study']}: {error}") from error
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    return load(folder)


def load(folder: Path) -> Result:
    """Read a result and verify it.

    Raises:
        ResultError: there is none, or a file differs from the one that was saved; the message names the file.
    """
    folder = Path(folder)
    run = _read_run(folder)
    for name, expected in run["files"].items():
        if not (folder / name).is_file():
            raise ResultError(f"{folder / name} is missing: {_anew(run)}")
        if _sum(folder / name) != expected:
            raise ResultError(f"{folder / name} is damaged, its sha256 is not the one in {RUN}: {_anew(run)}")
    table = tables.decode((folder / TABLE).read_bytes(), run["dtypes"])
    with np.load(folder / ARRAYS, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    measured_with = {name: run[name] for name in run["measured_with"]}
    return replace(Result(table), arrays=arrays, measured_with=measured_with, run=run)


def copy(source: Path, target: Path) -> None:
    """Copy a verified result, whole or not at all; an older one in `target` is replaced."""
    run = load(source).run
    whole = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        whole.mkdir(parents=True)
        for name in (*run["files"], RUN):
            _write(whole / name, (source / name).read_bytes())
        _swap(whole, target)
    except OSError as error:
        raise ResultError(f"cannot write {target}: {error.strerror or error}; free it and try again") from error
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Refuse a results folder that could not be written, before anything is measured; leave nothing behind."""
    nearest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        tempfile.TemporaryDirectory(dir=nearest, prefix=".writable-").cleanup()  # permissions alone do not tell
    except OSError:
        message = f"cannot write results to {folder}: {nearest} is no writable folder; choose one by --results"
        raise ResultError(message) from None


def project_root() -> Path:
    """The folder above this file that holds pyproject.toml, else the working directory."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()


def results_root() -> Path:
    """Where working results go: $WORKBENCH_RESULTS, else `results` in the project."""
    return Path(os.environ.get("WORKBENCH_RESULTS") or project_root() / "results")


def trainings() -> dict[str, Path]:
    """Where trained models are: `root` of this machine's own, `kept` of those that came with the project."""
    return {"root": results_root() / "checkpoints", "kept": project_root() / "figures" / "data" / "checkpoints"}


def kept_folder(study: str, root: Path | None = None) -> Path:
    """The committed result of a study: the full profile of its default config."""
    return (root or project_root()) / "figures" / "data" / study


def result_folder(study: str, config_hash: str, results: Path) -> Path:
    """The working result of one config."""
    return results / study / config_hash


def find_result(identifier: str, results: Path) -> Path:
    """The folder of the working result with this id: `study/` and the first digits of its hash.

    Raises:
        ResultError: no result has this id, or several do.
    """
    study, _, digits = identifier.partition("/")
    if not digits:
        raise ResultError(f"'{identifier}' is no result id: write study/digits, such as {study}/3f2a9c01")
    hashes = [folder.name for folder in _folders(study, results)]
    found = [name for name in hashes if name.startswith(digits)]
    if len(found) != 1:
        known = ", ".join(f"{study}/{name[:ID_DIGITS]}" for name in found or hashes) or "no results of this study"
        raise ResultError(f"{len(found) or 'no'} results in {results} have the id '{identifier}': there is {known}")
    return result_folder(study, found[0], results)


def latest_result(study: str, profile: str, results: Path) -> Path:
    """The folder of the working result of this profile that was made or asked for last.

    Raises:
        NoResultError: there is none; the message names the command that makes it.
        ResultError: one is damaged, so nobody can tell what it is.
    """
    found = [folder for folder in _folders(study, results) if _read_run(folder).get("profile") == profile]
    if not found:
        raise NoResultError(f"no {profile} result of {study} in {results}: `workbench run {study} --profile {profile}`")
    return max(found, key=lambda folder: ((folder / RUN).stat().st_mtime_ns, folder.name))


def _folders(study: str, results: Path) -> list[Path]:
    folder = results / study
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if not one.name.startswith(".") and (one / RUN).is_file())


def _body(result: Result, run: Mapping) -> dict[str, object]:
    for name in ("study", "config"):
        if name not in run:
            raise ResultError(f"run.json needs `{name}`: add it to the run that you save")
    twice = (set(run) & set(result.measured_with)) | ({"dtypes", "files", "measured_with"} & set(run))
    if twice:
        raise ResultError(f"run.json would hold {', '.join(sorted(twice))} twice: leave it out of the run")
    digits = config_hash(run["study"], run["config"])
    if run.get("config_hash", digits) != digits:
        raise ResultError(f"the config of {run['study']} has the hash {digits}, not {run['config_hash']}: leave it out")
    if "columns" in run and set(run["columns"]) != set(result.table.columns):
        odd = ", ".join(sorted(set(run["columns"]) ^ set(result.table.columns)))
        raise ResultError(
            f"COLUMNS and the table of {run['study']} differ in {odd}: describe each column, and no other"
        )
    try:
        dtypes = tables.dtypes(result.table)
    except TypeError as error:
        raise ResultError(f"cannot save this result of {run['study']}: {error}") from error
    own = {"config_hash": digits, "measured_with": sorted(result.measured_with), "dtypes": dtypes}
    return {**run, **result.measured_with, **own}


def _read_run(folder: Path) -> dict[str, object]:
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        study, config, digits = run["study"], run["config"], run["config_hash"]
        whole = {"files", "dtypes", "measured_with"} <= set(run)
    except FileNotFoundError as error:
        raise ResultError(f"no result in {folder}: {RUN} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged, it cannot be read: restore it, or delete its folder") from error
    if not whole or config_hash(study, config) != digits:
        raise ResultError(f"{path} is damaged, its config does not have the hash {digits}: {_anew(run)}")
    return run


def _anew(run: Mapping) -> str:
    return f"restore it, or measure anew with `workbench run {run['study']} --again`"


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(whole: Path, folder: Path) -> None:
    """Put `whole` where `folder` is; an older result stays until the new one stands."""
    older = whole.with_name(whole.name + ".older")
    if folder.exists():
        folder.rename(older)
    try:
        whole.rename(folder)
    except BaseException:
        if older.exists():
            older.rename(folder)
        raise
    shutil.rmtree(older, ignore_errors=True)
