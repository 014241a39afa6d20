"""The rules of the house, read off the source with `ast` and, where it counts, off a fresh interpreter."""

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("toy_models", "probes", "analyses", "figures")
# package -> what no line of it may import, at module level, inside a function or for a type hint.
FORBIDDEN = {
    "toy_models": ("probes", "analyses", "figures", "pandas", "matplotlib"),
    "toy_models.attention": ("transformer_lens", "transformers"),
    "probes": ("toy_models", "analyses", "figures", "pandas", "matplotlib"),
    "analyses": ("figures", "matplotlib", "IPython"),
    "analyses.core.results": ("torch",),
    "figures": ("torch", "toy_models", "probes"),
    "": ("notebooks", "tests"),
}
# package -> what it may not import when it is itself imported; under TYPE_CHECKING and inside a function it may.
FORBIDDEN_AT_IMPORT = {"probes": ("transformer_lens", "transformers")}
BACKENDS = "toy_models.attention"
# The specification, who may look at whom, what goes in and comes out, and the parts of the other backends.
NOT_BACKENDS = {f"{BACKENDS}.{name}" for name in ("reference", "masks", "options", "statistics")}
NOT_BACKENDS |= {f"{BACKENDS}.{name}" for name in ("blocks", "sums", "tiled_backward", "workers")}
NOT_BACKENDS |= {f"{BACKENDS}.{name}" for name in ("gradients", "kernels")}
NOT_PROBES = {"__init__", "model", "names", "errors"}
BAD_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "v2"}
LONGEST_FILE, LONGEST_FUNCTION = 300, 50


# Reading the source -------------------------------------------------------------------------------


def sources(root: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """(dotted name, path, tree) of every module of the four floors."""
    for floor in FLOORS:
        for path in sorted((root / floor).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path, ast.parse(path.read_text())


def imports(module: str, path: Path, nodes: Iterable[ast.AST], *, at_import: bool = False) -> Iterator[str]:
    """Every module that the code names in an import, by statement or by a text given to an importing function.

    `from a import b` gives `a.b` as well, which may be a module.  With `at_import` only what runs at
    import counts: no function bodies, no TYPE_CHECKING blocks.
    """
    for node in nodes:
        inner = ast.iter_child_nodes(node)
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            inner = node.orelse
        yield from _imported(module, path.name == "__init__.py", node)
        yield from imports(module, path, inner, at_import=at_import)


def _imported(module: str, is_package: bool, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        here = module.split(".") if is_package else module.split(".")[:-1]
        base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
        base = ".".join(filter(None, (base, node.module)))
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rsplit(".", 1)[-1]
        if called in ("import_module", "__import__", "resolve_name", "find_spec"):
            yield str(node.args[0].value).replace(":", ".")


def within(module: str, package: str) -> bool:
    return not package or module == package or module.startswith(package + ".")


# The rules: each yields one line per violation ----------------------------------------------------


def forbidden_imports(root: Path) -> Iterator[str]:
    for module, path, tree in sources(root):
        for table, at_import in ((FORBIDDEN, False), (FORBIDDEN_AT_IMPORT, True)):
            banned = [name for package, names in table.items() if within(module, package) for name in names]
            for imported in imports(module, path, tree.body, at_import=at_import):
                if any(within(imported, name) for name in banned):
                    yield f"{module} imports {imported}"


def kernels_that_lean_on_the_house(root: Path) -> Iterator[str]:
    """Attention runs on a bare GPU machine: of toy_models it imports its own package alone."""
    for module, path, tree in sources(root):
        if within(module, BACKENDS):
            for imported in imports(module, path, tree.body):
                if within(imported, "toy_models") and imported != "toy_models" and not within(imported, BACKENDS):
                    yield f"{module} imports {imported}"


def leaves_that_import_leaves(root: Path) -> Iterator[str]:
    modules = {module: path for module, path, _ in sources(root)}
    studies = {m for m in modules if m.count(".") == 2 and within(m, "analyses") and not within(m, "analyses.core")}
    drawings = {m for m in modules if m.count(".") == 2 and within(m, "figures")}
    backends = {m for m in modules if m.count(".") == 2 and within(m, BACKENDS)} - NOT_BACKENDS
    for module, path, tree in sources(root):
        for leaves in (studies, drawings, backends):
            if module in leaves:
                found = set(imports(module, path, tree.body)) & leaves - {module}
                yield from (f"{module} imports {imported}" for imported in found)


def long_parts(root: Path) -> Iterator[str]:
    """Functions are counted without their docstring."""
    for module, path, tree in sources(root):
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE:
            yield f"{module} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                if (lines := node.end_lineno - node.lineno + 1 - doc) > LONGEST_FUNCTION:
                    yield f"{module}.{node.name} has {lines} lines"


def undocumented(root: Path) -> Iterator[str]:
    """Public functions and classes, and public methods that stand for no base's and are no property."""
    for module, _, tree in sources(root):
        for node in tree.body:
            yield from _undocumented(node, module)
            if isinstance(node, ast.ClassDef) and not node.bases and not node.name.startswith("_"):
                for method in node.body:
                    if "property" not in [ast.unparse(d) for d in getattr(method, "decorator_list", [])]:
                        yield from _undocumented(method, f"{module}.{node.name}")


def _undocumented(node: ast.AST, where: str) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        exempt = node.name.startswith("_") or node.name == "forward"
        if not exempt and not ast.get_docstring(node):
            yield f"{where}.{node.name} has no docstring"


def bad_names(root: Path) -> Iterator[str]:
    for module, _, _ in sources(root):
        if BAD_NAMES & set(re.split(r"[._]", module.split(".", 1)[-1])):
            yield f"{module} is named for nothing in particular"


def incomplete_probes(root: Path) -> Iterator[str]:
    for path in sorted((root / "probes").glob("*.py")):
        if path.stem not in NOT_PROBES:
            for partner in (f"probes/theory/{path.stem}.md", f"tests/probes/test_{path.stem}.py"):
                if not (root / partner).is_file():
                    yield f"probes/{path.name} has no {partner}"


RULES = (
    forbidden_imports,
    kernels_that_lean_on_the_house,
    leaves_that_import_leaves,
    long_parts,
    undocumented,
    bad_names,
    incomplete_probes,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Callable[[Path], Iterator[str]]):
    violations = list(rule(ROOT))
    assert not violations, "\n".join(violations)


# The rules can fail -------------------------------------------------------------------------------

BAD = {
    ("toy_models/fine.py", "import torch\n\n\ndef told():\n    '''Told.'''\n"): {},
    ("toy_models/up.py", "from probes.names import pattern\n"): {forbidden_imports},
    ("toy_models/late.py", "def _f():\n    import pandas\n"): {forbidden_imports},
    ("toy_models/attention/lens.py", "import transformer_lens.hook_points\n"): {forbidden_imports},
    ("toy_models/attention/up.py", "from toy_models import config\n"): {kernels_that_lean_on_the_house},
    ("toy_models/attention/one.py", "from toy_models.attention import two\n"): {leaves_that_import_leaves},
    ("toy_models/attention/two.py", "from .masks import visible_keys\n"): {},
    ("probes/early.py", "from transformer_lens import ActivationCache\n"): {forbidden_imports, incomplete_probes},
    ("probes/errors.py", "def _f():\n    import transformer_lens\n"): {},
    ("probes/errors.py", "if TYPE_CHECKING:\n    from toy_models import Transformer\n"): {forbidden_imports},
    ("probes/names.py", "if TYPE_CHECKING:\n    from transformer_lens import ActivationCache\n"): {},
    ("probes/model.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import transformers\n"): {forbidden_imports},
    ("analyses/core/results.py", "def _f():\n    import torch\n"): {forbidden_imports},
    ("analyses/core/sly.py", "import importlib\nimportlib.import_module('figures.draw')\n"): {forbidden_imports},
    ("analyses/theme/first.py", "from analyses.theme import second\n"): {leaves_that_import_leaves},
    ("analyses/theme/second.py", "from analyses.core import results\n"): {},
    ("figures/theme/first.py", "import torch.nn as nn\n"): {forbidden_imports},
    ("figures/theme/second.py", "from ..theme.first import draw\n"): {leaves_that_import_leaves},
    ("figures/third.py", "from tests import oracles\n"): {forbidden_imports},
    ("toy_models/long.py", "x = 1\n" * 301): {long_parts},
    ("toy_models/wide.py", "def _f():\n" + "    x = 1\n" * 50): {long_parts},
    ("toy_models/silent.py", "def public():\n    return 1\n"): {undocumented},
    ("toy_models/silent_class.py", "class Public:\n    '''Told.'''\n\n    def f(self): ...\n"): {undocumented},
    ("toy_models/shape_utils.py", ""): {bad_names},
    ("figures/common.py", ""): {bad_names},
}


@pytest.mark.parametrize(("file", "text", "broken"), [(*key, rules) for key, rules in BAD.items()])
def test_each_rule_catches_its_violation_and_no_other(tmp_path, file, text, broken):
    for name in {"toy_models/attention/masks.py", *(name for name, _ in BAD)}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).stem in {"one", "two", "first", "second", "masks"}:  # leaves that others import
            (tmp_path / name).touch()
    (tmp_path / file).write_text(text)
    assert {rule for rule in RULES if list(rule(tmp_path))} == set(broken)


# What an import really brings ---------------------------------------------------------------------

HEAVY = ("torch", "transformer_lens", "transformers", "pandas", "matplotlib", "toy_models.transformer", "probes")
BRINGS_NOT = {
    "toy_models.attention": ("transformer_lens", "transformers", "pandas", "toy_models.transformer"),
    "toy_models.tasks": ("transformer_lens", "transformers", "pandas", "toy_models.transformer"),
    "probes.induction": ("transformer_lens", "transformers", "pandas", "toy_models.transformer"),
    "figures.draw": ("torch", "transformer_lens", "transformers", "toy_models.transformer", "probes"),
    "analyses.core.results": ("torch", "transformer_lens", "transformers", "matplotlib", "probes"),
    "analyses.core.cli": HEAVY,
}


@pytest.mark.parametrize("module", BRINGS_NOT)
def test_an_import_does_not_bring(module):
    script = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert sorted(loaded & set(BRINGS_NOT[module])) == []


# Lists of parts -----------------------------------------------------------------------------------


def packages_with_names() -> list[str]:
    return [
        module
        for module, _, tree in sources(ROOT)
        if any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAMES" for node in tree.body)
    ]


def test_the_lists_of_parts_are_found():
    assert {"toy_models.attention", "toy_models.normalisers", "toy_models.positions", "toy_models.tasks"} <= set(
        packages_with_names()
    )


@pytest.mark.parametrize("package", packages_with_names())
def test_every_listed_part_is_there_under_its_name(package):
    names = importlib.import_module(package).NAMES
    assert names
    for target in names.values():
        assert target.count(":") == (package != "toy_models.attention")  # a backend is a module, the rest are classes
        assert pkgutil.resolve_name(target) is not None
