"""Studies: found by file name, `analyses/<theme>/<study>.py`; nothing is registered.

A study module holds

    its docstring   whose first line is the question it asks
    Config          a frozen dataclass; its defaults are the full profile; `seeds` and `device` are ordinary fields
    QUICK           dotted overrides that make the quick profile
    COLUMNS         column -> meaning with unit
    CLAIMS          what it claims (analyses.core.claims)
    run(config)     -> Result
"""

import ast
import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import analyses
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError

PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Study:
    """A study module, imported."""

    name: str
    theme: str
    question: str
    Config: type
    quick: Mapping[str, object]
    columns: Mapping[str, str]
    claims: tuple
    run: Callable

    def config(self, profile: str = "full", overrides: Mapping[str, object] | None = None) -> Any:
        """The config of a profile ("quick" or "full"), changed by dotted keys.

        Raises:
            WorkbenchError: as `configure` does; or the quick profile is the full one.
        """
        base = self.quick if profile == "quick" else {}
        try:
            if profile == "quick" and configure(self.Config, base) == configure(self.Config, {}):
                raise WorkbenchError("QUICK changes nothing: make the quick profile smaller than the full one")
            return configure(self.Config, {**base, **(overrides or {})})
        except WorkbenchError as error:
            raise WorkbenchError(f"{self.name}: {error}") from error

    def profile(self, config: object) -> str:
        """Which profile a config is: "full", "quick", or "custom" if neither."""
        for name in ("full", "quick"):
            if config == self.config(name):
                return name
        return "custom"


def names(root: Path | None = None) -> dict[str, Path]:
    """Every study by name, in alphabetical order, with its file; nothing is imported.

    Args:
        root: the folder that holds `analyses`; where the package was imported from by default.

    Raises:
        WorkbenchError: two themes have a study of the same name.
    """
    found: dict[str, Path] = {}
    for package in [root / "analyses"] if root else map(Path, analyses.__path__):
        for path in sorted(package.glob("[!_.]*/[!_.]*.py")):
            if path.parent.name == "core":
                continue
            if path.stem in found:
                raise WorkbenchError(f"two studies are called {path.stem}: rename {found[path.stem]} or {path}")
            found[path.stem] = path
    return dict(sorted(found.items()))


def locate(name: str) -> Path:
    """The file of a study.

    Raises:
        WorkbenchError: there is no such study; the message has the nearest name and all known ones.
    """
    known = names()
    if name in known:
        return known[name]
    if not known:
        raise WorkbenchError(f"unknown study '{name}': there are no studies in {', '.join(analyses.__path__)}")
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    raise WorkbenchError(f"unknown study '{name}': did you mean '{nearest}'? known: {', '.join(known)}")


def describe(name: str) -> str:
    """The question of a study: the first line of its docstring, read without importing it."""
    path = locate(name)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise WorkbenchError(f"study {name} has no docstring: write its question as the first line of {path}")
    return docstring.splitlines()[0]


def find(name: str) -> Study:
    """Import a study.

    Raises:
        WorkbenchError: there is no such study, or its module lacks a part.
    """
    theme = locate(name).parent.name
    module = importlib.import_module(f"analyses.{theme}.{name}")
    return Study(
        name=name,
        theme=theme,
        question=describe(name),
        Config=_part(module, "Config"),
        quick=_part(module, "QUICK"),
        columns=_part(module, "COLUMNS"),
        claims=_part(module, "CLAIMS"),
        run=_part(module, "run"),
    )


def _part(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        raise WorkbenchError(f"{module.__name__} has no {name}: a study needs Config, QUICK, COLUMNS, CLAIMS and run")
    return getattr(module, name)
